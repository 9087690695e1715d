"""Operators made of operators: one after another, several of one image, or one out of several."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.operators.spectral import FlatSpectrum, SpectrumFn


class Composition(MeasurementOperator):
    """y = second(first(x)); build it with `compose`.

    Attributes:
      first, second: operators; the image of `second` is what `first` measures.
    """

    first: MeasurementOperator
    second: MeasurementOperator

    def check(self) -> None:
        self.first.check()
        self.second.check()

    def forward(self, x: Float[Array, "H W C"]) -> Array:
        return self.second.forward(self.first.forward(x))

    def project(self, y: Array) -> Array:
        return self.second.project(y)

    def num_observed(self) -> Float[Array, ""]:
        return self.second.num_observed()

    def estimate(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        return self.first.estimate(self.second.estimate(y, weight), weight)


class LinearComposition(LinearOperator, Composition):
    """The same of two linear operators: adjoint by transposition, inverses by CG."""

    first: LinearOperator
    second: LinearOperator

    def _without_spectrum(self) -> UserError:
        names = type(self.second).__name__, type(self.first).__name__
        return self._no_spectrum(f"{names[0]} after {names[1]}")


class SpectralComposition(LinearComposition):
    """The same where A = `first` has A A^T = s^2 I: everything is known that is of B = `second`.

    With B = U diag(b) V^T, B A = U diag(s b) (A^T V / s)^T: such as the mean of the channels, and
    then any operator on grey images.
    """

    first: FlatSpectrum

    def adjoint(self, y: Array) -> Float[Array, "H W C"]:
        return self.first.adjoint(self.second.adjoint(y))

    def pinv(self, y: Array) -> Float[Array, "H W C"]:
        value = self._value(y)
        return self.first.adjoint(self.second.pinv(y)) / value**2

    def ridge(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        value = self._value(y)
        return self.first.adjoint(self.second.ridge(y, weight / value**2)) / value**2

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        value, between = self._value(x), self.first.forward(x)
        seen = self.first.adjoint(self.second.spectral(lambda b: fn(value * b), between))
        unseen = x - self.first.adjoint(between) / value**2
        return seen / value**2 + fn(jnp.zeros_like(value)) * unseen

    def spectral_adjoint(self, fn: SpectrumFn, y: Array) -> Float[Array, "H W C"]:
        value = self._value(y)
        return self.first.adjoint(self.second.spectral_adjoint(lambda b: fn(value * b), y)) / value

    def _value(self, like: Array) -> Float[Array, ""]:
        return self.first.singular_value(jnp.finfo(like.dtype).dtype)


class Stack(MeasurementOperator):
    """y = (A_1(x), A_2(x), ...) in one real vector, (m,); build it with `stack`.

    Measurements are flattened one after the other; a complex one becomes its real parts and then
    its imaginary parts.

    Attributes:
      parts: operators on the same image.
    """

    parts: tuple[MeasurementOperator, ...]

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, " m"]:
        return jnp.concatenate([_flat(part.forward(x)) for part in self.parts])

    def project(self, y: Float[Array, " m"]) -> Float[Array, " m"]:
        pairs = zip(self.parts, self.measurements(y), strict=True)
        return jnp.concatenate([_flat(part.project(one)) for part, one in pairs])

    def num_observed(self) -> Float[Array, ""]:
        return sum((part.num_observed() for part in self.parts), jnp.zeros(()))

    def measurements(self, y: Float[Array, " m"]) -> list[Array]:
        """The measurements of the parts, each in its own shape and dtype."""
        found, begin = [], 0
        for part in self.parts:
            like = _like(part, y.dtype)
            length = _length(like)
            found.append(_unflat(y[begin : begin + length], like))
            begin += length
        return found

    def estimate(
        self, y: Float[Array, " m"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        """The mean over the parts."""
        pairs = zip(self.parts, self.measurements(y), strict=True)
        found = [part.estimate(one, weight) for part, one in pairs]
        return sum(found[1:], found[0]) / len(found)


class LinearStack(LinearOperator, Stack):
    """The same of linear operators: A^T y is the sum of theirs, inverses by CG."""

    def adjoint(self, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        pairs = zip(self.parts, self.measurements(y), strict=True)
        images = [part.adjoint(one) for part, one in pairs]  # type: ignore[attr-defined]
        return sum(images[1:], images[0])


class OneOf(MeasurementOperator):
    """One of several operators; which one is data, so that a batch can hold different ones.

    y is a real vector as long as the longest measurement, (m,): flattened as in `Stack`, and zero
    behind its end. Under `jax.vmap` every one of them is computed and one is kept. Build it with
    `one_of`.

    Attributes:
      which: index of the one in `choices`, int ().
      choices: operators on images of one shape, all different in kind or in shapes.
    """

    which: Int[Array, ""]
    choices: tuple[MeasurementOperator, ...]

    def check(self) -> None:
        if not 0 <= self.which < len(self.choices):
            raise UserError("which", self.which, f"give 0 to {len(self.choices) - 1}")
        for choice in self.choices:
            choice.check()

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, " m"]:
        length = self._length(x.dtype)
        return self._switch(lambda choice: _padded(_flat(choice.forward(x)), length), x.dtype)

    def project(self, y: Float[Array, " m"]) -> Float[Array, " m"]:
        return self._switch(
            lambda choice: _padded(_flat(choice.project(_own(choice, y))), len(y)), y.dtype
        )

    def num_observed(self) -> Float[Array, ""]:
        return self._switch(lambda choice: choice.num_observed(), jnp.float32)

    def estimate(
        self, y: Float[Array, " m"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self._switch(lambda choice: choice.estimate(_own(choice, y), weight), y.dtype)

    def _length(self, dtype: Any) -> int:
        return max(_length(_like(choice, dtype)) for choice in self.choices)

    def _switch(self, of_choice: Any, dtype: Any) -> Array:
        branches = [
            lambda choice=choice: of_choice(choice).astype(dtype) for choice in self.choices
        ]
        return jax.lax.switch(self.which, branches)


class LinearOneOf(LinearOperator, OneOf):
    """The same of linear operators: everything is that of the one."""

    choices: tuple[LinearOperator, ...]

    def adjoint(self, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        return self._switch(lambda choice: choice.adjoint(_own(choice, y)), y.dtype)

    def pinv(self, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        return self._switch(lambda choice: choice.pinv(_own(choice, y)), y.dtype)

    def ridge(
        self, y: Float[Array, " m"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self._switch(lambda choice: choice.ridge(_own(choice, y), weight), y.dtype)

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self._switch(lambda choice: choice.spectral(fn, x), x.dtype)

    def spectral_adjoint(self, fn: SpectrumFn, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        return self._switch(lambda choice: choice.spectral_adjoint(fn, _own(choice, y)), y.dtype)


def compose(first: MeasurementOperator, second: MeasurementOperator) -> Composition:
    """second after first; linear if both are, with singular values where they carry over.

    Raises:
      UserError: if `first` does not measure an image of the shape that `second` takes.
    """
    like = _like(first, jnp.float32)
    if tuple(like.shape) != tuple(second.x_shape) or jnp.issubdtype(
        like.dtype, jnp.complexfloating
    ):
        remedy = f"give one that measures a real image of shape {tuple(second.x_shape)}"
        raise UserError("first", f"{type(first).__name__} with y {like.dtype} {like.shape}", remedy)
    kind: Any = Composition
    if isinstance(first, LinearOperator) and isinstance(second, LinearOperator):
        kind = LinearComposition
        if isinstance(first, FlatSpectrum) and first.measures_all:
            kind = SpectralComposition
    return kind(first, second, x_shape=tuple(first.x_shape))


def stack(*parts: MeasurementOperator) -> Stack:
    """All of them at once; linear if all are.

    Raises:
      UserError: if there are none, or their images have different shapes.
    """
    shapes = {tuple(part.x_shape) for part in parts}
    if len(shapes) != 1:
        raise UserError("parts", f"x_shape {sorted(shapes)}", "give operators on the same image")
    linear = all(isinstance(part, LinearOperator) for part in parts)
    return (LinearStack if linear else Stack)(parts, x_shape=shapes.pop())


def one_of(which: Int[Array, ""], *choices: MeasurementOperator) -> OneOf:
    """The one with this index; linear if all are.

    Those that differ in their arrays alone, such as all blurs with kernels of one size, become one
    choice with the arrays of the one: a batch computes it once.

    Raises:
      UserError: if there are none, their images have different shapes, or there is none of this
        index.
    """
    shapes = {tuple(choice.x_shape) for choice in choices}
    if len(shapes) != 1:
        raise UserError("choices", f"x_shape {sorted(shapes)}", "give operators on the same image")
    if not isinstance(which, Tracer) and not 0 <= which < len(choices):
        raise UserError("which", which, f"give 0 to {len(choices) - 1}")
    linear = all(isinstance(choice, LinearOperator) for choice in choices)
    alike: dict[Any, list[int]] = {}
    for index, choice in enumerate(choices):
        leaves, structure = jax.tree.flatten(choice)
        kinds = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        alike.setdefault((structure, kinds), []).append(index)
    group, place = np.zeros(len(choices), int), np.zeros(len(choices), int)
    for number, members in enumerate(alike.values()):
        group[members], place[members] = number, range(len(members))

    def picked(*leaves: Array) -> Array:
        # Where the one is of another group, its place there means nothing here, and is unused.
        return jnp.stack(leaves)[jnp.minimum(jnp.asarray(place)[which], len(leaves) - 1)]

    merged = tuple(
        jax.tree.map(picked, *(choices[index] for index in members)) for members in alike.values()
    )
    kind: Any = LinearOneOf if linear else OneOf
    return kind(jnp.asarray(group)[which], merged, x_shape=shapes.pop())


def _like(operator: MeasurementOperator, dtype: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a measurement; `dtype` is the real one of the image."""
    return jax.eval_shape(operator.forward, jax.ShapeDtypeStruct(operator.x_shape, dtype))


def _length(like: jax.ShapeDtypeStruct) -> int:
    return math.prod(like.shape) * (2 if jnp.issubdtype(like.dtype, jnp.complexfloating) else 1)


def _flat(y: Array) -> Float[Array, " m"]:
    if not jnp.iscomplexobj(y):
        return y.reshape(-1)
    return jnp.concatenate([y.real.reshape(-1), y.imag.reshape(-1)])


def _unflat(flat: Float[Array, " m"], like: jax.ShapeDtypeStruct) -> Array:
    if not jnp.issubdtype(like.dtype, jnp.complexfloating):
        return flat.reshape(like.shape)
    real, imaginary = flat.reshape(2, *like.shape)
    return real + 1j * imaginary


def _padded(flat: Array, length: int) -> Array:
    return jnp.pad(flat, (0, length - len(flat)))


def _own(choice: MeasurementOperator, y: Float[Array, " m"]) -> Array:
    like = _like(choice, y.dtype)
    return _unflat(y[: _length(like)], like)
