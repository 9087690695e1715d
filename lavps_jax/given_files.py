"""The files in which a user gives measurements: an array file, a folder of images, or an image."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from lavps_jax.data.files import ImageFile, read_image
from lavps_jax.errors import UNREADABLE, UserError

__all__ = ["read_folder", "read_npz"]


def read_folder(path: Path) -> tuple[list[ImageFile], list[str]]:
    """All image files below a folder, ordered by their path, and their names."""
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    if not found:
        remedy = f"give a folder with {', '.join(IMAGE_SUFFIXES)} files"
        raise UserError("observations", path, remedy)
    files = [read_image(file) for file in found]
    for one, file in zip(files, found, strict=True):
        if one.pixels.shape != files[0].pixels.shape:
            remedy = f"give images of one shape, {files[0].pixels.shape}, or one by one"
            raise UserError("observations", f"{file} of shape {one.pixels.shape}", remedy)
    return files, [file.relative_to(path).as_posix() for file in found]


def read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        remedy = f"give an .npz file, a folder, or an image ({', '.join(IMAGE_SUFFIXES)})"
        raise UserError("observations", path, remedy) from error
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        remedy = "give an .npz file of arrays of numbers, as numpy.savez writes it, or an image "
        remedy += f"({', '.join(IMAGE_SUFFIXES)})"
        raise UserError("observations", path, remedy) from error
    y = arrays.get("y")
    if y is None or y.ndim < 2 or not y.size:
        found = f"{path} with {sorted(arrays)}" if y is None else f"y of shape {y.shape}"
        raise UserError("observations", found, 'give an array "y" with measurements on axis 0')
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.inexact) and name in ("y", "x_0", "kernel"):
            remedy = "give floats; images are in [-1, 1]"
            raise UserError(name, f"dtype {array.dtype}", remedy)
        elif array.dtype.kind not in "buifc":
            raise UserError(name, f"dtype {array.dtype}", "give numbers")
    return {name: _in_single_precision(array) for name, array in arrays.items()}


def _in_single_precision(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        return array.astype(np.complex64)
    return array.astype(np.int32) if array.dtype.kind in "ui" else array.astype(np.float32)
