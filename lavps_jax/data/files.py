"""Image files of any depth, read without loss and written in the same depth."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from jaxtyping import Float
from PIL import Image, ImageOps

from lavps_jax.data.images import to_uint8
from lavps_jax.errors import UNREADABLE, UserError, first_words

__all__ = ["FILE_SUFFIXES", "ImageFile", "read_image", "write_image"]

FILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy")
"""What `read_image` reads, in lower case."""
_TIFF = (".tif", ".tiff")
_ORIENTATION = 274
_COLOUR_TYPE_GREY = 0
_DEPTHS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}


class ImageFile(NamedTuple):
    """An image as it was read.

    Attributes:
      pixels: float32 (H, W, C) in [-1, 1], C = 1 or 3; of a float .npy file as they are.
      alpha: how opaque each pixel is, (H, W), uint8, uint16 or float32 as in the file; None if the
        file does not say.
      bits: per channel, 8 or 16, or 32 of a file of floats.
    """

    pixels: Float[np.ndarray, "H W C"]
    alpha: np.ndarray | None
    bits: int


def read_image(path: str | Path) -> ImageFile:
    """Reads a PNG, JPEG, WebP, BMP, TIFF or .npy file, turned as its EXIF data say.

    A .npy file holds (H, W) or (H, W, C): floats in [-1, 1], uint8 or uint16. Floats between 0 and
    1 alone are refused, because they are most likely meant to range from black to white.

    Raises:
      UserError: if there is no such file, it is damaged, or has a depth, kind of colours or number
        of channels that cannot be kept.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in _TIFF:
            array = _read_tiff(path)
        elif path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            array = _read_picture(path)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError("observations", path, "give an existing file") from error
    except UNREADABLE as error:
        remedy = f"give an image file: {first_words(error)}"
        raise UserError("observations", path, remedy) from error
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or not array.size:
        remedy = "give (H, W), or 1 to 4 channels: grey or RGB, with or without alpha"
        raise UserError("observations", f"{path} of shape {array.shape}", remedy)
    if array.dtype not in _DEPTHS and not np.issubdtype(array.dtype, np.floating):
        remedy = "save it with 8 or 16 bits, or floats in [-1, 1]"
        raise UserError("observations", f"{path} of {array.dtype}", remedy)
    alpha = None
    if array.shape[-1] in (2, 4):
        array, alpha = array[..., :-1], array[..., -1]
    bits = _DEPTHS.get(array.dtype, 32)
    if bits == 32:
        if 0 <= array.min() and array.max() <= 1:
            remedy = "map it to [-1, 1] with 2 x - 1; from 0 to 1 is only the brighter half"
            raise UserError("observations", f"{path} with floats in [0, 1]", remedy)
        alpha = None if alpha is None else alpha.astype(np.float32)
        return ImageFile(array.astype(np.float32), alpha, bits)
    half = (2**bits - 1) / 2
    return ImageFile((array / half - 1).astype(np.float32), alpha, bits)


def write_image(stem: str | Path, x: Float[np.ndarray, "H W C"], like: ImageFile) -> Path:
    """Writes an image in the depth of `like`, with its alpha if it has one.

    Args:
      stem: the file without its suffix: .png for 8 bits, .tif for 16, .npy for floats.
      x: float (H, W, 1) or (H, W, 3) in [-1, 1]; clipped, except for floats.

    Returns:
      The file that was written.
    """
    if like.bits == 32:
        pixels = np.asarray(x)
    elif like.bits == 8:
        pixels = to_uint8(x)
    else:
        levels = 2**like.bits - 1
        pixels = np.rint(np.clip((np.asarray(x, np.float64) + 1) / 2, 0, 1) * levels)
        pixels = pixels.astype(np.uint16)
    if like.alpha is not None:
        pixels = np.concatenate([pixels, _resized(like.alpha, pixels.shape)[..., None]], axis=-1)
    if like.bits == 32:
        path = Path(f"{stem}.npy")
        np.save(path, pixels)
        return path
    if like.bits == 8:
        path = Path(f"{stem}.png")
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
        return path
    path = Path(f"{stem}.tif")
    colours = "rgb" if pixels.shape[-1] >= 3 else "minisblack"
    extra = ["unassalpha"] if like.alpha is not None else None
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    tifffile.imwrite(
        path, squeezed, photometric=colours, extrasamples=extra, planarconfig=None
        if squeezed.ndim == 2 else "contig",
    )  # fmt: skip
    return path


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        if len(file.pages) > 1:
            remedy = "save the page to restore alone"
            raise UserError("observations", f"{path} with {len(file.pages)} pages", remedy)
        page = file.pages.first
        _check_tiff(path, page)
        array = page.asarray()
        tag = page.tags.get(_ORIENTATION)
        orientation = int(tag.value) if tag is not None else 1
    if page.axes == "SYX":  # Each channel is stored as a plane of its own.
        array = np.moveaxis(array, 0, -1)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        if array.dtype not in _DEPTHS:
            found = f"{path} of {array.dtype}, where the smallest number is white"
            raise UserError("observations", found, "save it with 8 or 16 bits")
        grey = array[..., :1] if page.extrasamples else array  # A view: alpha stays.
        np.subtract(np.iinfo(array.dtype).max, grey, out=grey)
    return _turned(array, orientation)


def _check_tiff(path: Path, page: tifffile.TiffPage) -> None:
    """Refuses what would be read as other colours than it shows."""
    kinds = tifffile.PHOTOMETRIC
    # The decoder of JPEG turns these colours into RGB.
    is_jpeg = page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if page.photometric not in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB) and not is_jpeg:
        kind = getattr(page.photometric, "name", page.photometric)
        raise UserError(
            "observations", f"{path}, a TIFF of {kind} colours", "save it as grey or RGB"
        )
    if page.axes not in ("YX", "YXS", "SYX"):
        found = f"{path}, a TIFF with the axes {page.axes}"
        raise UserError("observations", found, "save one image, grey or RGB")
    extra, num_colours = page.extrasamples, 3 if page.photometric == kinds.RGB or is_jpeg else 1
    if len(extra) > 1 or page.samplesperpixel != num_colours + len(extra):
        found = f"{path}, a TIFF of {page.samplesperpixel} channels"
        raise UserError("observations", found, "save it as grey or RGB, with or without alpha")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in extra:
        found = f"{path}, whose colours are multiplied by alpha"
        raise UserError("observations", found, "save it with straight (unassociated) alpha")
    if page.bitspersample not in (1, 8, 16, 32, 64):
        # These numbers are not scaled to 8 or 16 bits when they are read.
        found = f"{path}, a TIFF of {page.bitspersample} bits"
        raise UserError("observations", found, "save it with 8 or 16 bits")


def _read_picture(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        header = file.read(26)
    with Image.open(path) as opened:
        is_png = opened.format == "PNG"
        if is_png and header[24:25] == b"\x10" and header[25] != _COLOUR_TYPE_GREY:
            # Pillow would drop half of the bits without a word.
            raise UserError("observations", f"{path}, a colour PNG of 16 bits", "save it as TIFF")
        picture: Image.Image = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I;16"):
        return np.asarray(picture, np.uint16)
    has_alpha = picture.has_transparency_data
    grey = picture.mode in ("1", "L", "LA", "La")
    picture = picture.convert(("LA" if has_alpha else "L") if grey else
                              ("RGBA" if has_alpha else "RGB"))  # fmt: skip
    return np.asarray(picture)


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """As the EXIF orientation (1 to 8) says that the image is shown."""
    if orientation in (2, 3):
        array = array[:, ::-1]
    if orientation in (3, 4):
        array = array[::-1]
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (6, 7):
        array = array[:, ::-1]
    if orientation in (7, 8):
        array = array[::-1]
    return array


def _resized(alpha: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An alpha channel in the size of a restored image that is larger than the measurement."""
    if alpha.shape == shape[:2]:
        return alpha
    picture = Image.fromarray(alpha.astype(np.float32))
    larger = np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
    whole = np.issubdtype(alpha.dtype, np.integer)
    return (np.rint(larger) if whole else larger).astype(alpha.dtype)
