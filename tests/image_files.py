"""Writes arrays as the image files that tests read."""

from __future__ import annotations

import numpy as np
import tifffile
from PIL import Image


def save(path, array) -> str:
    if path.suffix in (".tif", ".tiff"):
        kind = "rgb" if array.ndim == 3 and array.shape[-1] >= 3 else "minisblack"
        extra = ["unassalpha"] if array.ndim == 3 and array.shape[-1] in (2, 4) else None
        planes = "contig" if array.ndim == 3 else None
        tifffile.imwrite(path, array, photometric=kind, extrasamples=extra, planarconfig=planes)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return str(path)
