"""What a source of images is, images in memory, and the way from 8 bits to [-1, 1] and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from lavps_jax.errors import UserError


class ImageSource(Protocol):
    """Images of one shape, in a fixed order, read one at a time."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "H W C"]:
        """Image number `index`, 0 <= index < len(self), or IndexError."""
        ...

    def name(self, index: int, /) -> str:
        """A name for people: the same image has the same name in every run."""
        ...

    def label(self, index: int, /) -> int | None:
        """Number of its class, from 0; None where the source knows no classes."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory.

    Attributes:
      images: uint8 (N, H, W, C).
      names: one per image.
      labels: classes, one per image, or None.
    """

    images: np.ndarray
    names: tuple[str, ...]
    labels: tuple[int | None, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> np.ndarray:
        return self.images[checked_index(index, len(self))]

    def name(self, index: int, /) -> str:
        return self.names[checked_index(index, len(self))]

    def label(self, index: int, /) -> int | None:
        index = checked_index(index, len(self))
        return None if self.labels is None else self.labels[index]


def checked_index(index: int, length: int) -> int:
    """IndexError ends `for image in source`; negative indices would hide an off-by-one."""
    if not 0 <= index < length:
        raise IndexError(f"image {index} of {length}")
    return index


def to_float(image: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Maps 0..255 to float32 in [-1, 1]: ``image / 127.5 - 1``."""
    return np.asarray(image, np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Maps [-1, 1] to 0..255, rounded; values outside are clipped. The inverse of `to_float`.

    Raises:
      ValueError: if a value is not finite, since it has no grey level.
    """
    image = np.asarray(image, np.float32)
    if not np.isfinite(image).all():
        raise ValueError("to_uint8: the image has values that are not finite")
    return np.rint(np.clip((image + 1) * 127.5, 0, 255)).astype(np.uint8)


def pad_image(
    image: UInt8[np.ndarray, "H W C"], size: int | None
) -> UInt8[np.ndarray, "size size C"]:
    """Surrounds an image with black up to size x size; 28 -> 32 adds two pixels on every side.

    An odd difference puts the extra row or column at the bottom or right. None changes nothing.
    """
    if size is None:
        return image
    check_padding(size, *image.shape[:2])
    extra = [size - length for length in image.shape[:2]]
    return np.pad(image, [(e // 2, e - e // 2) for e in extra] + [(0, 0)])


def check_padding(size: int, height: int, width: int) -> None:
    """Raises UserError if images of height x width do not fit into size x size."""
    if size < max(height, width):
        remedy = f"give at least the size of the images, {height}x{width}"
        raise UserError("data.pad_to", size, remedy)


def fitted(
    image: UInt8[np.ndarray, "H W C"], size: int | None, channels: int
) -> UInt8[np.ndarray, "size size channels"]:
    """The image in grey (1 channel) or RGB (3), and its central square in another size.

    Args:
      size: pixels of a side, resized with an antialiasing filter; None leaves the size alone.
    """
    picture = picture_of(image).convert("L" if channels == 1 else "RGB")
    if size is not None:
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return array_of(picture)


def picture_of(image: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """The image for Pillow, in grey or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def array_of(picture: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """The inverse of `picture_of`."""
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def check_size(size: int | None) -> None:
    """Raises UserError if images cannot be resized to it."""
    if size is not None and size < 1:
        raise UserError("data.size", size, "give a whole number from 1")
