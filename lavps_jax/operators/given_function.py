"""Operators made from a user's own function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator, MeasurementOperator, measurement_like
from lavps_jax.pytrees import static

ForwardFn = Callable[[Any, Array], Array]


class _Given(MeasurementOperator):
    """An operator given by its forward function.

    Attributes:
      data: pytree of arrays handed to the function.
      forward_fn: (data, x) -> y, static, differentiable in x.
      mask: which entries of y were measured, 1 or 0, of the shape of y; None is all. The others are
        zero, whatever the function says.
    """

    data: Any
    forward_fn: ForwardFn = static()
    mask: Any = None

    def forward(self, x: Float[Array, "H W C"]) -> Array:
        return self.project(self.forward_fn(self.data, x))

    def project(self, y: Array) -> Array:
        return y if self.mask is None else jnp.where(self.mask != 0, y, 0)

    def num_observed(self) -> Float[Array, ""]:
        if self.mask is None:
            return super().num_observed()
        y = measurement_like(self, jnp.float32)
        per_entry = 2 if jnp.issubdtype(y.dtype, jnp.complexfloating) else 1
        return per_entry * jnp.sum(self.mask != 0).astype(jnp.float32)

    def check(self) -> None:
        if self.mask is None:
            return
        shape = jnp.shape(self.mask)
        x_like = jax.ShapeDtypeStruct(self.x_shape, jnp.float32)
        y_shape = jax.eval_shape(self.forward_fn, self.data, x_like).shape
        if shape != y_shape:
            raise UserError("mask", f"shape {shape}", f"give that of y, {y_shape}")
        mask = jnp.asarray(self.mask)
        if isinstance(mask, Tracer):  # Its numbers are not known yet.
            return
        if not jnp.all((mask == 0) | (mask == 1)):
            found = f"values from {mask.min():g} to {mask.max():g}"
            raise UserError("mask", found, "give 1 where y was measured and 0 elsewhere")
        if not jnp.any(mask):
            raise UserError("mask", "zeros alone", "give 1 where y was measured")


class FunctionOperator(_Given, LinearOperator):
    """A linear operator given by its forward function; build it with `linear_operator`."""


class NonlinearOperator(_Given):
    """An operator that need not be linear: `forward` only; build it with `nonlinear_operator`."""


def linear_operator(
    forward_fn: ForwardFn, x_shape: tuple[int, ...], data: Any = (), *, mask: Any = None
) -> FunctionOperator:
    """A linear operator from a user's own function: adjoint by transposition, inverses by CG.

    Args:
      forward_fn: (data, x) -> y, linear in the image x (H, W, C), built from JAX operations. Use a
        function defined at module level: it is compared by identity, so a new lambda or closure
        compiles everything again, and arrays hidden in a closure cannot be stacked.
      x_shape: shape (H, W, C) of the image.
      data: pytree of arrays that the function needs (mask, matrix, ...); stackable.
      mask: which entries of y were measured, 1 or 0, of the shape of y; stackable. None is all: an
        entry that is always zero would count as a measurement without noise.
    Raises:
      UserError: if the function cannot be traced at x_shape, is not linear, or is linear plus a
        constant, or the mask is none.
    """
    operator = FunctionOperator(data, forward_fn, _as_array(mask), x_shape=tuple(x_shape))
    y = _checked_measurement(operator)
    try:
        jax.eval_shape(operator.adjoint, y)
    except Exception as error:
        raise UserError(
            "forward_fn",
            f"{forward_fn} which cannot be transposed ({_first_line(error)})",
            "give a map linear in x, or use nonlinear_operator for a non-linear one",
        ) from error
    # The transpose of JAX drops a constant without a word. Data that are being traced say nothing.
    of_black = operator.forward(jnp.zeros(operator.x_shape))
    if not isinstance(of_black, Tracer) and jnp.any(of_black != 0):
        found = f"{forward_fn} with A(0) up to {jnp.max(jnp.abs(of_black)):.3g}"
        raise UserError("forward_fn", found, "subtract A(0) from it and from y")
    return operator


def nonlinear_operator(
    forward_fn: ForwardFn, x_shape: tuple[int, ...], data: Any = (), *, mask: Any = None
) -> NonlinearOperator:
    """An operator from a user's own differentiable function, linear or not; `forward` only.

    Args:
      forward_fn: (data, x) -> y; see `linear_operator` for why it should live at module level.
      x_shape: shape (H, W, C) of the image.
      data: pytree of arrays that the function needs; stackable.
      mask: as of `linear_operator`.
    Raises:
      UserError: if the function cannot be traced at x_shape, or the mask is none.
    """
    operator = NonlinearOperator(data, forward_fn, _as_array(mask), x_shape=tuple(x_shape))
    _checked_measurement(operator)
    return operator


def _as_array(mask: Any) -> Array | None:
    return None if mask is None else jnp.asarray(mask)


def _checked_measurement(operator: FunctionOperator | NonlinearOperator) -> jax.ShapeDtypeStruct:
    try:
        x_like = jax.ShapeDtypeStruct(operator.x_shape, jnp.float32)
        y = jax.eval_shape(operator.forward_fn, operator.data, x_like)
    except Exception as error:
        raise UserError(
            "forward_fn",
            f"{operator.forward_fn} which fails for x_shape {operator.x_shape} "
            f"({_first_line(error)})",
            "give a JAX function (data, x) -> y of one image (H, W, C)",
        ) from error
    if not isinstance(y, jax.ShapeDtypeStruct) or not jnp.issubdtype(y.dtype, jnp.inexact):
        raise UserError("forward_fn", f"output {y}", "return one floating point array")
    operator.check()
    return y


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
