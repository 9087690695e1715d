"""The files in which a user gives measurements: an array file, a folder of images, or an image."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lavps_jax.data.files import ImageFile, read_image
from lavps_jax.data.value_range import ValueRange
from lavps_jax.errors import UNREADABLE, UserError


class ImageFiles:
    """Image files of one shape, of which some at a time are in memory.

    Args:
      files: at least one. All are read once to know them.
      value_range: the numbers of black and white, where the files are not to decide.
      channels: that the networks take. Colour images are as many measurements as they have
        channels where that is 1.

    Attributes:
      each: measurements of an image.
      ranges: the numbers of black and white that there are.
      largest: number of a pixel, in units of images.

    Raises:
      UserError: if a file is unusable, or has another shape than the first, or a number that is not
        finite.
    """

    def __init__(self, files: Sequence[Path], value_range: ValueRange | None, channels: int):
        self._files, self._value_range = files, value_range
        self.ranges: set[ValueRange] = set()
        self.largest, self._is_grey, shape = -np.inf, True, None
        for i, path in enumerate(files):
            file = read_image(path, value_range)
            shape = shape or file.pixels.shape
            if file.pixels.shape != shape:
                remedy = f"give images of one shape, {shape}, or one by one"
                raise UserError("observations", f"{path} of shape {file.pixels.shape}", remedy)
            check_finite("y", file.pixels[None], i)
            self.ranges.add(file.black_and_white)
            self.largest = max(self.largest, float(file.pixels.max()))
            # A grey photo may be stored in colours.
            self._is_grey &= bool(np.all(file.pixels == file.pixels[..., :1]))
        in_colour = shape is not None and shape[-1] == 3 and not self._is_grey
        self.each = 3 if in_colour and channels == 1 else 1

    def read(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, list[ImageFile], list]:
        """Measurements of whole images: these, float32 (B, H, W, C), the files, and the distance of
        the grey levels of every measurement.

        Args:
          rows: of the measurements, image after image.
        """
        files = [read_image(self._files[i // self.each], self._value_range)
                 for i in rows[:: self.each]]  # fmt: skip
        pixels = np.stack([file.pixels for file in files])
        if self.each > 1:
            pixels = np.moveaxis(pixels, -1, 1).reshape(-1, *pixels.shape[1:3], 1)
        steps = [file.step for file in files for _ in range(self.each)]
        return pixels[..., :1] if self._is_grey else pixels, files, steps


def check_finite(name: str, array: np.ndarray, first: int = 0) -> None:
    """Raises a UserError that says where, unless all numbers are finite; `first` is the number of
    the first row."""
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, *rest = (int(i) for i in bad[0])
        remedy = "replace it; a pixel that was not measured belongs in the mask of an inpainting"
        raise UserError(name, f"{array[row, *rest]} at {(first + row, *rest)}", remedy)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file in single precision; "y" and "x_0" also of whole numbers."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError("observations", path, "give an existing file or folder") from error
    except PermissionError as error:
        remedy = f"get the right to read it: {error.strerror}"
        raise UserError("observations", path, remedy) from error
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        remedy = "give an .npz file of arrays of numbers, as numpy.savez writes it"
        raise UserError("observations", path, remedy) from error
    y = arrays.get("y")
    if y is None or y.ndim < 2 or not y.size:
        found = f"{path} with {sorted(arrays)}" if y is None else f"y of shape {y.shape}"
        raise UserError("observations", found, 'give an array "y" with measurements on axis 0')
    for name, array in arrays.items():
        if array.dtype.kind not in "buifc":
            raise UserError(name, f"dtype {array.dtype}", "give numbers")
    # Their type tells the numbers of black and white.
    whole = {name for name in ("y", "x_0") if name in arrays and arrays[name].dtype.kind in "bui"}
    return {
        name: array if name in whole else _in_single_precision(array)
        for name, array in arrays.items()
    }


def _in_single_precision(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        return array.astype(np.complex64)
    return array.astype(np.int32) if array.dtype.kind in "ui" else array.astype(np.float32)
