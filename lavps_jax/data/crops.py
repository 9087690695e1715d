"""Random views of photographs: reduced, cropped and flipped, by numbers drawn beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt64

from lavps_jax.data.images import ImageSource, array_of, picture_of


@dataclass(frozen=True, eq=False)
class Crops:
    """Views of the images of another source, whose sizes may differ; a source itself.

    `crops[index]` is the central crop, reduced by the factors in turn and never flipped: what
    validation and sampling see. `view` gives what training sees.

    Attributes:
      images: the whole images, of at least side * min(factors) pixels each way.
      side: of the square crops; None takes whole images, which must then have one size.
      factors: by which images are reduced before they are cropped.
      flip: whether half of the views are mirrored left to right.
    """

    images: ImageSource
    side: int | None
    factors: tuple[int, ...]
    flip: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.image_shape
        return (self.side or height, self.side or width, channels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "H W C"]:
        return self._cropped(index, index, None)

    def view(self, index: int, numbers: UInt64[np.ndarray, " four"]) -> UInt8[np.ndarray, "H W C"]:
        """The view of an image that four uniformly drawn numbers choose.

        Of the factors after which a crop still fits into this image each is as likely, and so is
        each pixel of the image as the corner of a crop. One factor is the mean over squares.
        """
        which, top, left, mirrored = (int(number) for number in numbers)
        image = self._cropped(index, which, (top, left))
        return image[:, ::-1] if self.flip and mirrored % 2 else image

    def _cropped(self, index: int, which: int, corner: tuple[int, int] | None) -> np.ndarray:
        image = self.images[index]
        if self.side is None:
            return image
        fitting = [one for one in self.factors if one * self.side <= min(image.shape[:2])]
        factor = fitting[which % len(fitting)]
        extent = factor * self.side
        rest_top, rest_left = (length - extent for length in image.shape[:2])
        if corner is None:
            top, left = rest_top // 2, rest_left // 2
        else:
            top, left = corner[0] % (rest_top + 1), corner[1] % (rest_left + 1)
        part = image[top : top + extent, left : left + extent]
        return part if factor == 1 else array_of(picture_of(part).reduce(factor))

    def name(self, index: int, /) -> str:
        return self.images.name(index)

    def label(self, index: int, /) -> int | None:
        return self.images.label(index)
