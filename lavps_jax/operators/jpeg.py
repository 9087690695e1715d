"""Lossy compression by JPEG, with derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import MeasurementOperator
from lavps_jax.operators.nonlinear import round_through
from lavps_jax.pytrees import static

# Tables K.1 (brightness) and K.2 (colour) of ITU-T T.81.
_BRIGHTNESS = """
16 11 10 16 24 40 51 61
12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77
24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
_COLOUR = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""
# From RGB to brightness and two colour differences: JFIF 1.02.
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


class JPEG(MeasurementOperator):
    """y: the image as decoded from a JPEG file of a given quality, (H, W, C), C = 1 or 3.

    Blocks of 8 x 8 pixels are transformed (DCT-II), their coefficients are rounded to multiples of
    the quality's table, and transformed back. Rounding lets gradients through (`round_through`).
    Source: ITU-T T.81; the scale of the tables is that of libjpeg.

    Attributes:
      quality: of libjpeg, float (), 1 to 100.
      halve_colour: colour is stored at half the resolution (4:2:0), static.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the image has neither one nor three channels.
    """

    quality: Float[Array, ""]
    halve_colour: bool = static(default=True)

    def __post_init__(self):
        super().__post_init__()
        if self.x_shape[-1] not in (1, 3):
            remedy = "give grey or RGB images"
            raise UserError("channels of the images", self.x_shape[-1], remedy)

    def check(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError("quality", self.quality, "give a number from 1 to 100")

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        height, width, channels = self.x_shape
        tables = quantization_tables(self.quality).astype(x.dtype)
        pixels = round_through(jnp.clip((x + 1) * 127.5, 0, 255))
        halve = self.halve_colour and channels == 3
        side = 16 if halve else 8
        pixels = jnp.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
        if channels == 1:
            decoded = _compressed(pixels[..., 0], tables[0])[..., None]
        else:
            to_ycc = jnp.asarray(_TO_YCC, x.dtype)
            # Differences have their zero at 128; subtracting 128 from all makes it 0.
            offset = jnp.asarray([128.0, 0, 0], x.dtype)[None, None]
            ycc = jnp.einsum("dc,hwc->hwd", to_ycc, pixels, precision="highest") - offset
            ycc = round_through(ycc) + 128
            planes = [
                _compressed(ycc[..., 0], tables[0]),
                *(_colour(ycc[..., k], tables[1], halve) for k in (1, 2)),
            ]
            ycc = jnp.stack(planes, axis=-1) - 128 + offset
            to_rgb = jnp.asarray(np.linalg.inv(_TO_YCC), x.dtype)
            decoded = jnp.einsum("cd,hwd->hwc", to_rgb, ycc, precision="highest")
        decoded = round_through(jnp.clip(decoded, 0, 255))
        return decoded[:height, :width] / 127.5 - 1

    def estimate(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return y


def quantization_tables(quality: float | Float[Array, ""]) -> Float[Array, "2 8 8"]:
    """Steps of the coefficients of brightness and of colour at a quality from 1 to 100."""
    base = np.array([text.split() for text in (_BRIGHTNESS, _COLOUR)], np.float32).reshape(2, 8, 8)
    quality = jnp.asarray(quality, jnp.float32)
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((base * percent + 50) / 100), 1, 255)


def _compressed(plane: Float[Array, "H W"], table: Float[Array, "8 8"]) -> Float[Array, "H W"]:
    """One plane of values 0 ... 255, whose sides are multiples of 8."""
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8) - 128
    cosines = jnp.asarray(_cosines(), plane.dtype)
    scale = table[None, :, None, :]
    coefficients = _both(cosines, blocks) / scale
    blocks = _both(cosines.T, round_through(coefficients) * scale) + 128
    return round_through(jnp.clip(blocks, 0, 255)).reshape(height, width)


def _colour(plane: Array, table: Array, halve: bool) -> Array:
    if not halve:
        return _compressed(plane, table)
    height, width = plane.shape
    small = round_through(plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3)))
    small = _compressed(small, table)
    # Weights 3/4 and 1/4, as libjpeg decodes.
    return jax.image.resize(small, plane.shape, "linear")


def _both(matrix: Array, blocks: Array) -> Array:
    """matrix @ block @ matrix^T for all blocks, (h, 8, w, 8)."""
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("ka,iajb,lb->ikjl", matrix, blocks, matrix, precision=precision)


def _cosines() -> np.ndarray:
    """Orthonormal DCT-II of eight values, float64 (8, 8)."""
    k, n = np.arange(8)[:, None], np.arange(8)[None]
    matrix = np.sqrt(2 / 8) * np.cos(np.pi * (2 * n + 1) * k / 16)
    matrix[0] /= np.sqrt(2)
    return matrix
