"""The identity: plain denoising."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Array, Float

from lavps_jax.operators.spectral import FlatSpectrum


class Identity(FlatSpectrum):
    """y = x: every pixel is measured."""

    measures_all: ClassVar[bool] = True

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return x

    def adjoint(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return y

    def pinv(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return y

    def ridge(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return y / (1 + weight)
