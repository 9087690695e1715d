"""Fourier sampling: some spatial frequencies are measured, as in magnetic resonance imaging."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator
from lavps_jax.operators.inpainting import check_mask
from lavps_jax.operators.spectral import SpectrumFn, seen_only


class FourierSampling(LinearOperator):
    """y = mask * F x, complex (H, W, C), with F the orthonormal Fourier transform (one coil).

    Frequency zero is at index (0, 0), as in `jnp.fft.fft2`. The image is real, so a frequency and
    its mirror image carry the same signal with independent noise: A^T A = F^-1 m F with m(k) =
    (mask(k) + mask(-k)) / 2, from which the closed forms follow.

    Attributes:
      mask: float (H, W, 1), 1 at the measured frequencies and 0 elsewhere.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the mask does not have the shape (H, W, 1).
    """

    mask: Float[Array, "H W 1"]

    def __post_init__(self):
        super().__post_init__()
        shape, expected = getattr(self.mask, "shape", ()), (*self.x_shape[:2], 1)
        if len(shape) >= 2 and tuple(shape[-3:]) != expected:
            raise UserError("mask", f"shape {shape}", f"give the shape {expected}")

    def check(self) -> None:
        check_mask(self.mask)

    def forward(self, x: Float[Array, "H W C"]) -> Complex[Array, "H W C"]:
        return self.mask * jnp.fft.fft2(x, axes=(0, 1), norm="ortho")

    def project(self, y: Complex[Array, "H W C"]) -> Complex[Array, "H W C"]:
        return self.mask * y

    def num_observed(self) -> Float[Array, ""]:
        return 2 * jnp.sum(self.mask) * self.x_shape[-1]

    def adjoint(self, y: Complex[Array, "H W C"]) -> Float[Array, "H W C"]:
        return jnp.fft.ifft2(self.mask * y, axes=(0, 1), norm="ortho").real

    def pinv(self, y: Complex[Array, "H W C"]) -> Float[Array, "H W C"]:
        """A^+ y, exact."""
        m = self._multiplicity(y)
        return self._filtered(self.adjoint(y), jnp.where(m > 0, 1 / jnp.where(m > 0, m, 1), 0))

    def ridge(
        self, y: Complex[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self._filtered(self.adjoint(y), 1 / (self._multiplicity(y) + weight))

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self._filtered(x, fn(jnp.sqrt(self._multiplicity(x))))

    def spectral_adjoint(self, fn: SpectrumFn, y: Complex[Array, "H W C"]) -> Array:
        values = jnp.sqrt(self._multiplicity(y))
        return self._filtered(self.adjoint(y), seen_only(lambda s: fn(s) / s, values))

    def _multiplicity(self, y: Array) -> Float[Array, "H W 1"]:
        mirrored = jnp.roll(jnp.flip(self.mask, (0, 1)), (1, 1), (0, 1))
        return ((self.mask + mirrored) / 2).astype(y.real.dtype)

    def _filtered(self, x: Array, transfer: Array) -> Array:
        return jnp.fft.ifft2(transfer * jnp.fft.fft2(x, axes=(0, 1)), axes=(0, 1)).real
