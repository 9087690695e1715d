"""Measurements with weights: what a noise map makes of an operator."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.operators.identity import Identity
from lavps_jax.operators.inpainting import Inpainting
from lavps_jax.operators.spectral import SpectrumFn, seen_only


class Weighted(MeasurementOperator):
    """y = weights * A(x), with nothing measured where a weight is zero.

    Attributes:
      operator: A.
      weights: of the shape of y, at least 0.
    """

    operator: MeasurementOperator
    weights: Array

    def forward(self, x: Float[Array, "H W C"]) -> Array:
        return self.weights * self.operator.forward(x)

    def project(self, y: Array) -> Array:
        return jnp.where(self.weights > 0, self.operator.project(y), 0)

    def num_observed(self) -> Float[Array, ""]:
        like = self.weights * self.operator.forward(jnp.zeros(self.x_shape))
        seen = self.project(jnp.ones_like(like)) != 0
        return jnp.sum(seen) * (2.0 if jnp.iscomplexobj(like) else 1.0)


class LinearWeighted(Weighted, LinearOperator):
    """`Weighted` of a linear operator; inverses are by conjugate gradients."""

    operator: LinearOperator

    def adjoint(self, y: Array) -> Float[Array, "H W C"]:
        return self.operator.adjoint(self.weights * y)


class Diagonal(LinearOperator):
    """y = weights * x with singular values `weights`, at least 0; 0 is not measured.

    Attributes:
      weights: float (H, W, C).
    """

    weights: Float[Array, "H W C"]

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self.weights * x

    def adjoint(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self.weights * y

    def project(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return jnp.where(self.weights > 0, y, 0)

    def num_observed(self) -> Float[Array, ""]:
        return jnp.sum(self.weights > 0).astype(jnp.float32)

    def pinv(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return seen_only(lambda s: 1 / s, self.weights) * y

    def ridge(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self.weights * y / (self.weights**2 + weight)

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return fn(self.weights) * x

    def spectral_adjoint(self, fn: SpectrumFn, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return seen_only(fn, self.weights) * y


def weighted(operator: MeasurementOperator, weights: Array) -> MeasurementOperator:
    """weights * A: of the most special kind, so that singular values stay known."""
    match operator:
        case Identity():
            return Diagonal(weights, x_shape=operator.x_shape)
        case Inpainting():
            return Diagonal(operator.mask * weights, x_shape=operator.x_shape)
        case LinearOperator():
            return LinearWeighted(operator, weights, x_shape=operator.x_shape)
        case _:
            return Weighted(operator, weights, x_shape=operator.x_shape)
