"""Linear operators whose singular value decomposition A = U diag(s) V^T is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.operators.base import LinearOperator

SpectrumFn = Callable[[Array], Array]
"""Singular values s >= 0, of any shape, to numbers of that shape; works elementwise."""


def seen_only(fn: SpectrumFn, values: Array) -> Array:
    """fn(s) where s > 0 and 0 elsewhere; fn never sees a zero, so that it may divide by s."""
    seen = values > 0
    return jnp.where(seen, fn(jnp.where(seen, values, 1)), 0)


class FlatSpectrum(LinearOperator):
    """An operator with A A^T = s^2 I on what it measures: its one singular value is not zero.

    Subclasses give `singular_value`. V V^T x = A^T A x / s^2 is the part of an image that is seen.

    Class attributes (override in a subclass):
      measures_all: whether that holds on all of y, with no places for what is not measured. What is
        known of an operator B is then known of B A as well: its singular values are s times those
        of B, and its V is A^T V / s.
    """

    measures_all: ClassVar[bool] = False

    def singular_value(self, dtype: Any) -> Float[Array, ""]:
        """s, float ()."""
        return jnp.ones((), dtype)

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        value = self.singular_value(x.dtype)
        seen = self.adjoint(self.forward(x)) / value**2
        return fn(value) * seen + fn(jnp.zeros_like(value)) * (x - seen)

    def spectral_adjoint(self, fn: SpectrumFn, y: Array) -> Float[Array, "H W C"]:
        value = self.singular_value(y.dtype)
        return fn(value) / value * self.adjoint(y)
