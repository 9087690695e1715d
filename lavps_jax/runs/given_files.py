"""The files in which a user gives measurements: an array file, a folder of images, or an image."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from lavps_jax.data.files import ImageFile, read_image
from lavps_jax.data.folders import image_files, shown_name
from lavps_jax.data.value_range import ValueRange
from lavps_jax.errors import UNREADABLE, UserError

__all__ = ["read_folder", "read_npz"]


def read_folder(
    path: Path, value_range: ValueRange | None = None
) -> tuple[list[ImageFile], list[str]]:
    """All image files below a folder, ordered by their path, and their names."""
    found = image_files(path, "observations")
    files = [read_image(file, value_range) for file in found]
    for one, file in zip(files, found, strict=True):
        if one.pixels.shape != files[0].pixels.shape:
            remedy = f"give images of one shape, {files[0].pixels.shape}, or one by one"
            raise UserError("observations", f"{file} of shape {one.pixels.shape}", remedy)
    return files, [shown_name(file, path) for file in found]


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
