"""What every measurement operator can do.

An operator acts on ONE image. Its arrays (mask, kernel, ...) are the leaves of a pytree and its
shapes are static, so one operator per measurement is a stack of leaves and a `jax.vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.pytrees import Node, static


class MeasurementOperator(Node):
    """A differentiable map A of one image, y = A(x); subclasses give `forward`.

    Arrays that describe the map are fields; shapes, counts and functions are fields declared with
    `static`. Every method is for one image: put `jax.vmap` around the
    call for a stack of images or of operators.

    Attributes:
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if x_shape is that of a stack, or of no image.
    """

    x_shape: tuple[int, ...] = static(kw_only=True)

    def __post_init__(self):
        if len(self.x_shape) != 3 or min(self.x_shape) < 1:
            remedy = "give (H, W, C) of one image; jax.vmap takes a stack of them"
            raise UserError("x_shape", self.x_shape, remedy)

    def forward(self, x: Float[Array, "H W C"]) -> Array:
        """The noiseless measurement A(x) of an image (H, W, C), any shape, real or complex."""
        raise NotImplementedError

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of one measurement, found without computing it."""
        return measurement_like(self, jnp.float32).shape

    def num_observed(self) -> Float[Array, ""]:
        """Number of real numbers that were measured, float (); complex entries count twice.

        The squared residual of the truth is sigma_y^2 times a chi-square with this many degrees
        of freedom.
        """
        y = measurement_like(self, jnp.float32)
        per_entry = 2 if jnp.issubdtype(y.dtype, jnp.complexfloating) else 1
        return jnp.asarray(float(per_entry * math.prod(y.shape)))

    def project(self, y: Array) -> Array:
        """Zero the entries that carry no measurement; same shape as y.

        Identity unless an operator keeps places in y for what it does not observe. Noise is only
        added at observed entries: y = project(A(x_0) + sigma_y * noise).
        """
        return y

    def check(self) -> None:
        """Raises a UserError if the arrays cannot be those of such an operator.

        For one operator, not a stack, outside of jit: arrays of a user are looked at with it.
        """

    def estimate(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        """A rough image from y, (H, W, C): what networks see of it, and what samplers must beat.

        Zero, which is grey, unless a subclass knows better; `LinearOperator` has `ridge`.
        `weight` is the variance of the noise over that of the pixels.
        """
        return jnp.zeros(self.x_shape, jnp.finfo(y.dtype).dtype)


class LinearOperator(MeasurementOperator):
    """A linear map y = A x of one real image; subclasses give `forward`, the rest has a default.

    Subclasses override `adjoint`, `pinv` and `ridge` where a closed form exists, and `spectral` and
    `spectral_adjoint` where the singular values are known.

    Class attributes (override in a subclass):
      pinv_tolerance: `pinv` stops when ||A^T A x - A^T y|| falls below this times ||A^T y||.
      pinv_num_iterations: `pinv` stops after this many conjugate gradient steps at the latest.
      ridge_num_iterations: `ridge` solves three times with at most this many.
    """

    pinv_tolerance: ClassVar[float] = 1e-6
    pinv_num_iterations: ClassVar[int] = 200
    ridge_num_iterations: ClassVar[int] = 100

    def adjoint(self, y: Array) -> Float[Array, "H W C"]:
        """A^T y in image space (H, W, C), the real part of A^H y if y is complex.

        It satisfies Re <A x, y> = <x, adjoint(y)> for every real image x.
        """
        x_dtype = jnp.finfo(y.dtype).dtype
        y_dtype = measurement_like(self, x_dtype).dtype
        x_like = jax.ShapeDtypeStruct(self.x_shape, x_dtype)
        # jax.linear_transpose is the plain transpose: conjugating its argument makes it A^H.
        (x,) = jax.linear_transpose(self.forward, x_like)(jnp.conj(y.astype(y_dtype)))
        return x

    def pinv(self, y: Array) -> Float[Array, "H W C"]:
        """A^+ y, the least-squares image of smallest norm, (H, W, C).

        Conjugate gradients on A^T A x = A^T y from x = 0, which stay in the row space of A and so
        end at the smallest-norm solution. Stops at `pinv_tolerance` or `pinv_num_iterations`; for
        an ill-conditioned A the directions with small singular values are then only partly
        recovered. See `ridge` for a stable inverse of a noisy y. Reverse-mode derivatives are
        taken in y only; a derivative in the data of the operator raises a ValueError (`ridge` has
        one).
        """
        return _least_squares(self, y)

    def ridge(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        """Regularized inverse (A^T A + weight I)^-1 A^T y, (H, W, C).

        With weight = sigma_y^2 / v it is the posterior mean of an image with prior N(0, v I).
        The default solves three times by conjugate gradients, each time for what the last solution
        leaves of y, until .002 of that are left or `ridge_num_iterations` steps are done: so
        rounding is that of A itself and not of A^T A. The steps that it takes grow like
        ||A|| / sqrt(weight), unless there is a `preconditioner`. Without, those that it may take
        reach 1e-5 at weights of .0025 ||A||^2 and a few percent at 1e-4; where the weight is
        smaller, directions of A with s^2 about as small are recovered in part only. Weights below a
        quarter of the rounding error of ||A||^2 (3e-8 of it in float32) are raised to that: what
        rounding leaves in directions that A does not see would be divided by them.

        Args:
          y: observation, of shape `y_shape`.
          weight: positive scalar, float ().
        """
        y_dtype = jnp.finfo(y.dtype).dtype
        of_a = jnp.finfo(measurement_like(self, y_dtype).dtype).dtype
        dtype = jnp.result_type(y_dtype, of_a, weight)
        precision = float(jnp.finfo(dtype).eps)
        weight = jnp.maximum(weight, precision / 4 * self._largest_eigenvalue(dtype)).astype(dtype)

        def normal(x: Array) -> Array:
            return (self.adjoint(self.forward(x)) + weight * x).astype(dtype)

        def refine(x: Array, _: None) -> tuple[Array, None]:
            left = (self.adjoint(y - self.forward(x)) - weight * x).astype(dtype)
            change, _ = cg(
                normal,
                left,
                tol=precision**0.4,
                maxiter=self.ridge_num_iterations,
                M=self.preconditioner(weight),
            )
            return x + change, None

        # A loop, so that the solver is compiled once.
        return jax.lax.scan(refine, jnp.zeros(self.x_shape, dtype), length=3)[0]

    def _largest_eigenvalue(self, dtype: Any) -> Float[Array, ""]:
        """Of A^T A, roughly and from below, by power iteration; no derivative goes through it."""
        operator = jax.lax.stop_gradient(self)

        def step(_, carry):
            v, length = carry
            v = operator.adjoint(operator.forward(v / jnp.where(length > 0, length, 1)))
            return v.astype(dtype), jnp.linalg.norm(jnp.ravel(v)).astype(dtype)

        v = 1 + jax.random.normal(jax.random.key(0), self.x_shape, dtype)
        return jax.lax.fori_loop(0, 3, step, (v, jnp.linalg.norm(jnp.ravel(v))))[1]

    def preconditioner(
        self, weight: float | Float[Array, ""]
    ) -> Callable[[Array], Float[Array, "H W C"]] | None:
        """What `ridge` takes for a rough (A^T A + weight I)^-1: symmetric and positive, or None."""
        return None

    def spectral(self, fn: Callable[[Array], Array], x: Array) -> Float[Array, "H W C"]:
        """V fn(s) V^T x with the singular value decomposition A = U diag(s) V^T, (H, W, C).

        V is square: directions that A does not see have s = 0.

        Args:
          fn: elementwise function of singular values, float of any shape.
          x: image (H, W, C).
        Raises:
          UserError: if the operator does not know its singular values.
        """
        raise self._without_spectrum()

    def spectral_adjoint(self, fn: Callable[[Array], Array], y: Array) -> Float[Array, "H W C"]:
        """V fn(s) U^T y over the directions with s > 0, (H, W, C): A^+ y with fn = 1 / s.

        Raises:
          UserError: if the operator does not know its singular values.
        """
        raise self._without_spectrum()

    def _without_spectrum(self) -> UserError:
        return self._no_spectrum(type(self).__name__)

    def _no_spectrum(self, found: str) -> UserError:
        return UserError("operator", found, "give one whose singular values are known")

    def check_spectrum(self) -> None:
        """Raises a UserError if the singular values are not known, which `spectral` needs."""
        x_like = jax.ShapeDtypeStruct(self.x_shape, jnp.float32)
        jax.eval_shape(lambda x: self.spectral(jnp.ones_like, x), x_like)

    def estimate(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        return self.ridge(y, weight)


@jax.custom_vjp
def _least_squares(operator: LinearOperator, y: Array) -> Array:
    """(A^T A)^+ A^T y by conjugate gradients; see `LinearOperator.pinv`."""
    x, _ = cg(
        lambda x: operator.adjoint(operator.forward(x)),
        operator.adjoint(y),
        tol=operator.pinv_tolerance,
        maxiter=operator.pinv_num_iterations,
    )
    return x


def _least_squares_fwd(operator: Any, y: Any) -> tuple[Array, LinearOperator]:
    # The arguments carry, leaf by leaf, a value and whether a derivative in it is wanted.
    if any(leaf.perturbed for leaf in jax.tree.leaves(operator, is_leaf=_has_value)):
        raise ValueError(
            "pinv by conjugate gradients has no derivative in the data of the operator; "
            "use ridge, or jax.lax.stop_gradient on the operator"
        )
    operator = jax.tree.map(lambda leaf: leaf.value, operator, is_leaf=_has_value)
    return _least_squares(operator, y.value), operator


def _least_squares_bwd(operator: LinearOperator, cotangent: Any) -> tuple[None, Array]:
    # The transpose is (A A^T)^+ A. JAX's own rule would solve with A^T A for the bare cotangent,
    # which has no solution when A^T A is singular, and conjugate gradients then diverge.
    y, _ = cg(
        lambda y: operator.forward(operator.adjoint(y)),
        operator.forward(cotangent),
        tol=operator.pinv_tolerance,
        maxiter=operator.pinv_num_iterations,
    )
    return None, jnp.conj(y)


def _has_value(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


_least_squares.defvjp(_least_squares_fwd, _least_squares_bwd, symbolic_zeros=True)


def measurement_like(operator: MeasurementOperator, x_dtype: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of A(x) for an image of the given dtype, found without computing it."""
    return jax.eval_shape(operator.forward, jax.ShapeDtypeStruct(operator.x_shape, x_dtype))
