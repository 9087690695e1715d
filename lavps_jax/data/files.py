"""Photos, masks and kernels from files of any depth, and photos written in the same depth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from lavps_jax.data.decoding import WHITE_LEVEL, Decoded, decode
from lavps_jax.data.value_range import DEPTHS, ValueRange, range_of
from lavps_jax.errors import UserError

_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601, as in JPEG."""


class ImageFile(NamedTuple):
    """An image as it was read.

    Attributes:
      pixels: float32 (H, W, C) in units of images, C = 1 or 3: -1 is black and 1 is white.
      alpha: how opaque each pixel is, (H, W), uint8, uint16 or float32 as in the file; None if the
        file does not say.
      bits: per channel, 8 or 16, or 32 of a file of floats.
      value_range: the numbers of black and white in the file; None: all that the depth has room
        for, and -1 and 1 of floats.
      profile: the ICC profile of its colours, if it has one.
    """

    pixels: Float[np.ndarray, "H W C"]
    alpha: np.ndarray | None
    bits: int
    value_range: ValueRange | None = None
    profile: bytes | None = None

    @property
    def black_and_white(self) -> ValueRange:
        """The numbers of black and white in the file."""
        whole = (-1.0, 1.0) if self.bits == 32 else (0.0, 2.0**self.bits - 1)
        return self.value_range or whole

    @property
    def step(self) -> float:
        """Distance of neighbouring grey levels in units of images; 0 of floats."""
        black, white = self.black_and_white
        return 0.0 if self.bits == 32 else 2 / (white - black)


def read_image(
    path: str | Path, value_range: ValueRange | None = None, *, field: str = "observations"
) -> ImageFile:
    """Reads a photo: what `decode` reads, in the units that `range_of` finds.

    Colours are not converted: the networks see the numbers of the file as they are, sRGB or not, as
    they saw those of their training images; `write_image` gives them the profile back.

    Args:
      value_range: the numbers of black and white, where the file is not to decide.
      field: what errors are about.

    Raises:
      UserError: see `decode` and `range_of`.
    """
    numbers, alpha, white, profile = decode(path, field)
    black, white = range_of(numbers, value_range, white, field=field, found=str(path))
    half = (white - black) / 2
    pixels = (numbers / half - (black + white) / (white - black)).astype(np.float32)
    bits = DEPTHS.get(numbers.dtype, 32)
    if alpha is not None and bits == 32:
        alpha = alpha.astype(np.float32)
    return ImageFile(pixels, alpha, bits, (black, white), profile)


def in_8_bits(
    decoded: Decoded,
    value_range: ValueRange | None,
    *,
    field: str,
    found: str,
    flag: str = "--value-range",
) -> UInt8[np.ndarray, "H W C"]:
    """A picture of any depth with the 8 bits of data sets, rounded; alpha and profile are dropped.

    Raises:
      UserError: see `range_of`; or if a number is not finite.
    """
    numbers = decoded.numbers
    black, white = range_of(
        numbers, value_range, decoded.white, field=field, found=found, flag=flag
    )
    if numbers.dtype == np.uint8 and (black, white) == (0, 255):
        return numbers
    if not np.isfinite(numbers).all():
        raise UserError(field, f"{found} with numbers that are not finite", "remove or replace it")
    return np.rint(255 * np.clip((numbers - black) / (white - black), 0, 1)).astype(np.uint8)


def read_mask(path: str | Path, field: str) -> Bool[np.ndarray, "H W"]:
    """Reads which pixels are seen: those that are rather white than black, and not transparent.

    White is that of the file; or 1, if no number is larger, as in a file of ones and zeros.

    Raises:
      UserError: see `decode`; or if floats are above 1.
    """
    numbers, alpha, white, _ = decode(path, field)
    if np.issubdtype(numbers.dtype, np.floating) and not numbers.max() <= 1:
        raise UserError(field, f"{path} with floats up to {numbers.max():g}", "give ones and zeros")
    limit = white or _largest(numbers)
    seen = _grey(numbers) >= (1 if numbers.max() <= 1 else limit) / 2
    return seen if alpha is None else seen & (alpha >= _largest(alpha) / 2)


def read_kernel(path: str | Path, field: str) -> Float[np.ndarray, "k l"]:
    """Reads the image of a point with the sum 1, of a picture in colour its grey.

    Raises:
      UserError: see `decode`; or if it is transparent, not finite, or has no positive sum.
    """
    numbers, alpha, _, _ = decode(path, field)
    if alpha is not None and np.any(alpha < _largest(alpha)):
        raise UserError(field, f"{path} with transparent pixels", "save it without alpha")
    kernel = _grey(numbers)
    if not np.isfinite(kernel).all() or not kernel.sum() > 0:
        found = f"{path} of shape {kernel.shape} with the sum {kernel.sum():g}"
        raise UserError(field, found, "give finite numbers (k, k) with a positive sum")
    return kernel / kernel.sum()


def write_image(stem: str | Path, x: Float[np.ndarray, "H W C"], like: ImageFile) -> Path:
    """Writes an image in the depth and the numbers of `like`, with its alpha and its profile.

    Args:
      stem: the file without its suffix: .png for 8 bits, .tif for 16, .npy for floats.
      x: float (H, W, 1) or (H, W, 3) in units of images; clipped, except for floats.

    Returns:
      The file that was written.
    """
    black, white = like.black_and_white
    numbers = np.asarray(x, np.float64) * ((white - black) / 2) + (black + white) / 2
    if like.bits == 32:
        numbers = numbers.astype(np.float32)
    elif not np.isfinite(numbers).all():
        raise ValueError("write_image: the image has values that are not finite")
    else:
        kind = np.uint8 if like.bits == 8 else np.uint16
        numbers = np.rint(np.clip(numbers, black, white)).astype(kind)
    if like.alpha is not None:
        numbers = np.concatenate([numbers, _resized(like.alpha, numbers.shape)[..., None]], axis=-1)
    squeezed = numbers[..., 0] if numbers.shape[-1] == 1 else numbers
    if like.bits == 32:
        path = Path(f"{stem}.npy")
        np.save(path, numbers)
    elif like.bits == 8:
        path = Path(f"{stem}.png")
        Image.fromarray(squeezed).save(path, icc_profile=like.profile)
    else:
        path = Path(f"{stem}.tif")
        count = numbers.shape[-1]
        declared = [(WHITE_LEVEL, "I", count, (int(white),) * count, True)]
        tifffile.imwrite(
            path,
            squeezed,
            photometric="rgb" if count >= 3 else "minisblack",
            extrasamples=["unassalpha"] if like.alpha is not None else None,
            planarconfig=None if squeezed.ndim == 2 else "contig",
            iccprofile=like.profile,
            extratags=declared if white != 65535 else (),
        )
    return path


def _grey(numbers: np.ndarray) -> Float[np.ndarray, "H W"]:
    if numbers.shape[-1] == 1:
        return numbers[..., 0].astype(np.float64)
    return numbers @ _LUMA


def _largest(numbers: np.ndarray) -> float:
    """The largest number of its type, 1 of floats."""
    return np.iinfo(numbers.dtype).max if numbers.dtype.kind in "ui" else 1.0


def _resized(alpha: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An alpha channel in the size of a restored image that is larger than the measurement."""
    if alpha.shape == shape[:2]:
        return alpha
    picture = Image.fromarray(alpha.astype(np.float32))
    larger = np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    whole = np.issubdtype(alpha.dtype, np.integer)
    return (np.rint(larger) if whole else larger).astype(alpha.dtype)
