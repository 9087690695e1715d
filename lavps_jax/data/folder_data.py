"""Folders of images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lavps_jax.data.crops import Crops
from lavps_jax.data.decoding import decode, decoded_shape
from lavps_jax.data.files import in_8_bits
from lavps_jax.data.folders import image_files, is_folder, shown_name
from lavps_jax.data.images import ImageSource, check_size, checked_index, fitted
from lavps_jax.data.value_range import ValueRange, check_value_range
from lavps_jax.errors import UserError, check_choices


@dataclass(frozen=True)
class FolderData:
    """All PNG, JPEG, WebP, BMP, TIFF and .npy images below a folder, ordered by their path.

    Hidden files and folders are left out, links are followed. EXIF orientation is applied,
    transparency is dropped, and colours are those of the files, whatever their profile. More than 8
    bits are rounded to 8.

    Attributes:
      path: the folder; sub-folders are searched too.
      size: centre crop to a square and resize to this many pixels; None takes the images as they
        are, which must then have one size.
      channels: 1 converts to grey, 3 to RGB; None takes the images as they are, which must then
        be all grey or all colour.
      classes: a text file that gives the class of every image: lines of its path below the folder
        and a number from 0. None: the classes are unknown.
      value_range: the numbers of black and white in the files; None takes 0 and the largest of
        whole numbers, and -1 and 1 of floats.
      crop: training sees random squares of this many pixels, >= 1, of images that may differ in
        size; validation and sampling see the central ones. None takes whole images.
      reduce: factors >= 1, of which one is drawn for each crop to reduce the image by before, by
        the mean over squares of so many pixels a side; only those after which the crop still fits
        into the image are drawn, and one that is given twice is drawn twice as often. Central
        crops take them in turn. Other factors than 1 need `crop`.
      flip: training mirrors every second image left to right, at random.
    """

    path: str
    size: int | None = None
    channels: Literal[1, 3] | None = None
    classes: str | None = None
    value_range: ValueRange | None = None
    crop: int | None = None
    reduce: tuple[int, ...] = (1,)
    flip: bool = False

    def open(self) -> ImageSource:
        """Looks at the header of every image.

        Raises:
          UserError: if a setting is out of range, the folder has no image, or an image is
            unreadable, or images differ in size or in being grey, or one is smaller than a crop or
            has no class in the file of classes; the message names the file.
        """
        check_choices(self)
        self._check_crops()
        check_value_range("data.value_range", self.value_range)
        root = Path(self.path)
        if not is_folder(root, "data.path"):
            raise UserError("data.path", self.path, "give the path of an existing folder")
        check_size(self.size)
        classes = None if self.classes is None else Path(self.classes)
        files = image_files(root, "data.path", classes)
        labels = None if classes is None else _read_classes(classes, root, files)
        source = _FolderSource(self, root, tuple(files), (0, 0, 0), labels)
        shapes = [source.header_shape(file) for file in files]
        for file, shape in zip(files, shapes, strict=True):
            self._check_shape(file, shape, files[0], shapes[0])
        source = dataclasses.replace(source, image_shape=shapes[0])
        is_random = self.crop is not None or self.flip
        return Crops(source, self.crop, self.reduce, self.flip) if is_random else source

    def _check_crops(self) -> None:
        if self.crop is not None and self.crop < 1:
            raise UserError("data.crop", self.crop, "give a whole number from 1")
        if not self.reduce or min(self.reduce) < 1:
            raise UserError("data.reduce", self.reduce, "give whole numbers from 1")
        if self.crop is None and set(self.reduce) != {1}:
            raise UserError("data.reduce", self.reduce, "set data.crop too, the side of the crops")

    def _check_shape(self, file: Path, shape: tuple, first_file: Path, first: tuple) -> None:
        found = f"{file} of {shape[0]}x{shape[1]} pixels (height x width)"
        if self.crop is None and shape[:2] != first[:2]:
            remedy = f"set data.size, because {first_file.name} has {first[0]}x{first[1]}"
            raise UserError("image", found, f"{remedy}, or data.crop")
        if self.crop is not None and min(shape[:2]) < self.crop * min(self.reduce):
            least = f"{self.crop} x {min(self.reduce)}"
            remedy = f"remove it, or lower data.crop or data.reduce: a crop needs {least} a side"
            raise UserError("image", found, remedy)
        if shape[2] != first[2]:
            kind = {1: "grey", 3: "colour"}
            remedy = f"set data.channels to 1 or 3, because {first_file.name} is {kind[first[2]]}"
            raise UserError("image", f"{file}, which is {kind[shape[2]]}", remedy)


def _read_classes(path: Path, root: Path, files: list[Path]) -> tuple[int, ...]:
    """The class of every file."""
    try:
        # With the byte order mark of Windows, or without; names in other encodings as they are
        # shown.
        text = path.read_text(encoding="utf-8-sig", errors="backslashreplace")
        lines = [line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip()]
        known = {name: int(number) for name, number in lines}
    except PermissionError as error:
        remedy = f"get the right to read it: {error.strerror}"
        raise UserError("data.classes", path, remedy) from error
    except (OSError, ValueError) as error:
        remedy = "give a text file with lines of a path below data.path and a number"
        raise UserError("data.classes", path, remedy) from error
    names = [shown_name(file, root) for file in files]
    missing = [name for name in names if known.get(name, -1) < 0]
    if missing:
        raise UserError("data.classes", path, f"add a line with the class (from 0) of {missing[0]}")
    return tuple(known[name] for name in names)


@dataclass(frozen=True, eq=False)
class _FolderSource:
    config: FolderData
    root: Path
    files: tuple[Path, ...]
    image_shape: tuple[int, int, int]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> np.ndarray:
        file = self.files[checked_index(index, len(self))]
        image = in_8_bits(
            decode(file, "image"),
            self.config.value_range,
            field="image",
            found=str(file),
            flag="--data.value-range",
        )
        image = fitted(image, self.config.size, self.image_shape[-1])
        if self.config.crop is None and image.shape != self.image_shape:
            # A PNG may say after its pixels, unseen by `header_shape`, that it is turned.
            raise UserError("image", f"{file} of another size when decoded", "set data.size")
        return image

    def name(self, index: int, /) -> str:
        return shown_name(self.files[checked_index(index, len(self))], self.root)

    def label(self, index: int, /) -> int | None:
        index = checked_index(index, len(self))
        return None if self.labels is None else self.labels[index]

    def header_shape(self, file: Path) -> tuple[int, int, int]:
        """The shape the image will have, without decoding its pixels."""
        height, width, channels = decoded_shape(file, "image")
        channels, size = self.config.channels or channels, self.config.size
        return (height, width, channels) if size is None else (size, size, channels)
