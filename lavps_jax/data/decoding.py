"""Image files as the numbers that they hold: one decoder for photos, masks, kernels and data.

The kind of a file is found in its first bytes: its name may have any suffix.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import Num
from PIL import Image, ImageCms

from lavps_jax.errors import UNREADABLE, UserError, first_words

_NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY = (0, 4)
"""Colour types of PNG, without and with alpha."""
_OTHER_DEPTHS = ("AVIF", "JPEG2000")
"""Formats of up to 16 bits of which Pillow gives 8 in colour."""
_ORIENTATION, _ICC_PROFILE, _MAX_SAMPLE_VALUE, WHITE_LEVEL = 274, 34675, 281, 50717
"""Numbers of TIFF fields."""


class Decoded(NamedTuple):
    """What a file holds.

    Attributes:
      numbers: (H, W, C), C = 1 or 3, turned as the EXIF data say: uint8, uint16 or floats; of a
        .npy file any real numbers.
      alpha: how opaque each pixel is, (H, W), of the same type; None if the file does not say.
      white: the number of white, if the file declares one below the largest of its type.
      profile: the ICC profile of the colours, if there is one.
    """

    numbers: Num[np.ndarray, "H W C"]
    alpha: np.ndarray | None = None
    white: int | None = None
    profile: bytes | None = None


class _RefusedError(Exception):
    """A file whose picture cannot be kept: (what it is, remedy)."""


def decode(path: str | Path, field: str) -> Decoded:
    """Reads a file that Pillow or tifffile knows, or a .npy file of (H, W) or (H, W, C).

    Values and colours are those of the file, without a conversion: one that is tagged as Display P3
    keeps its numbers and its profile. Only what has no such numbers is converted, a palette or CMYK
    to RGB, the latter by its profile, if it has one, to sRGB.

    Args:
      field: what errors are about.

    Raises:
      UserError: if there is no such file, it may not be read, is damaged, has several frames or
        pages, or a depth, kind of colours or number of channels that cannot be kept.
    """
    with _errors(path, field), Path(path).open("rb") as file:
        return _decode(file)


def decode_bytes(content: bytes, name: str, field: str) -> Decoded:
    """`decode` of the contents of a file; `name` is what errors call it."""
    with _errors(name, field):
        return _decode(io.BytesIO(content))


def decoded_shape(path: str | Path, field: str) -> tuple[int, int, int]:
    """The shape that `decode(path).numbers` will have, without decoding the pixels.

    A PNG may say after its pixels, unseen here, that it is turned.

    Raises:
      UserError: as `decode`, as far as the header tells.
    """
    with _errors(path, field), Path(path).open("rb") as file:
        kind = _kind(file)
        if kind == "npy":
            height, width, count = _checked(np.load(path, mmap_mode="r", allow_pickle=False).shape)
            return height, width, 3 if count > 2 else 1
        if kind == "tiff":
            with tifffile.TiffFile(file) as opened:
                page = _page(opened)
                height, width, channels = page.imagelength, page.imagewidth, _num_colours(page)
                orientation = _tag(page, _ORIENTATION, 1)
        else:
            colours = _colours_of_deep_png(file)
            with Image.open(file) as opened:
                _check_frames(opened)
                is_grey = _is_grey(opened.mode) if colours is None else colours in _GREY
                (width, height), channels = opened.size, 1 if is_grey else 3
                # Without this condition `getexif` would decode the pixels of a PNG.
                exif = opened.getexif() if "exif" in opened.info else {}
                orientation = exif.get(_ORIENTATION, 1)
        turned = orientation in (5, 6, 7, 8)
        return (width, height, channels) if turned else (height, width, channels)


@contextmanager
def _errors(path: str | Path, field: str) -> Iterator[None]:
    """Everything that goes wrong in it becomes a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(field, path, "give an existing file") from error
    except PermissionError as error:
        raise UserError(field, path, f"get the right to read it: {error.strerror}") from error
    except _RefusedError as error:
        found, remedy = error.args
        raise UserError(field, f"{path}, {found}", remedy) from error
    except (*UNREADABLE, ImageCms.PyCMSError) as error:
        remedy = f"remove or replace it: not an image file that can be read ({first_words(error)})"
        raise UserError(field, path, remedy) from error


def _kind(file: BinaryIO) -> str:
    magic = file.read(len(_NPY))
    file.seek(0)
    return "npy" if magic == _NPY else "tiff" if magic[:4] in _TIFF else "picture"


def _decode(file: BinaryIO) -> Decoded:
    kind = _kind(file)
    if kind == "tiff":
        array, white, profile, orientation = _read_tiff(file)
    elif kind == "npy":
        array, white, profile, orientation = np.load(file, allow_pickle=False), None, None, 1
    else:
        array, white, profile, orientation = _read_picture(file)
    if array.dtype.kind not in "buif":
        raise _RefusedError(f"{array.dtype} numbers", "save real numbers")
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array, alpha = _turned(array.reshape(_checked(array.shape)), orientation), None
    if array.shape[-1] in (2, 4):
        array, alpha = array[..., :-1], array[..., -1]
    return Decoded(array, alpha, white, profile)


def _checked(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """As (H, W, channels)."""
    found = (*shape, 1) if len(shape) == 2 else shape
    height, width, channels = found if len(found) == 3 else (0, 0, 0)
    if channels not in (1, 2, 3, 4) or not height * width:
        remedy = "give (H, W), or 1 to 4 channels: grey or RGB, with or without alpha"
        raise _RefusedError(f"of shape {shape}", remedy)
    return height, width, channels


# ---- TIFF ----


def _read_tiff(file: BinaryIO) -> tuple[np.ndarray, int | None, bytes | None, int]:
    with tifffile.TiffFile(file) as opened:
        page = _page(opened)
        array = page.asarray()
    if page.axes == "SYX":  # Each channel is stored as a plane of its own.
        array = np.moveaxis(array, 0, -1)
    white = _declared_white(page)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype == bool:
        array = ~array
    elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        if array.dtype not in (np.uint8, np.uint16):
            found = f"of {array.dtype}, where the smallest number is white"
            raise _RefusedError(found, "save it with 8 or 16 bits")
        grey = array[..., :1] if page.extrasamples else array  # A view: alpha stays.
        np.subtract(white or np.iinfo(array.dtype).max, grey, out=grey)
    return array, white, _tag(page, _ICC_PROFILE), _tag(page, _ORIENTATION, 1)


def _page(file: tifffile.TiffFile) -> Any:
    """The only page; refuses what would be read as other colours than it shows."""
    if len(file.pages) > 1:
        raise _RefusedError(f"with {len(file.pages)} pages", "save one of them alone")
    page: Any = file.pages.first
    kinds = tifffile.PHOTOMETRIC
    is_known = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
    if not is_known and not _is_jpeg(page):
        kind = getattr(page.photometric, "name", page.photometric)
        raise _RefusedError(f"a TIFF of {kind} colours", "save it as grey or RGB")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise _RefusedError(f"a TIFF with the axes {page.axes}", "save one image, grey or RGB")
    extra = page.extrasamples
    if len(extra) > 1 or page.samplesperpixel != _num_colours(page) + len(extra):
        found = f"a TIFF of {page.samplesperpixel} channels"
        raise _RefusedError(found, "save it as grey or RGB, with or without alpha")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in extra:
        found = "whose colours are multiplied by alpha"
        raise _RefusedError(found, "save it with straight (unassociated) alpha")
    if page.bitspersample not in (1, *range(8, 17), 32, 64):
        found = f"a TIFF of {page.bitspersample} bits"
        raise _RefusedError(found, "save it with 8 or 16 bits")
    return page


def _num_colours(page: Any) -> int:
    return 3 if page.photometric == tifffile.PHOTOMETRIC.RGB or _is_jpeg(page) else 1


def _is_jpeg(page: Any) -> bool:
    """Whether the colours are those that the decoder of JPEG turns into RGB."""
    is_ycbcr = page.photometric == tifffile.PHOTOMETRIC.YCBCR
    return is_ycbcr and page.compression == tifffile.COMPRESSION.JPEG


def _declared_white(page: Any) -> int | None:
    """Of 9 to 15 bits, stored as such or in 16 of them."""
    if 8 < page.bitspersample < 16:
        return 2**page.bitspersample - 1
    if page.dtype != np.uint16:
        return None
    white = int(np.max(_tag(page, WHITE_LEVEL, 0)))
    if not white:
        white = int(np.max(_tag(page, _MAX_SAMPLE_VALUE, 0)))
        # Any other number is the largest that occurs, which says nothing of white.
        white = white if white > 255 and (white + 1).bit_count() == 1 else 0
    return white if 0 < white < 65535 else None


def _tag(page: Any, code: int, default: Any = None) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


# ---- Everything that Pillow reads ----


def _read_picture(file: BinaryIO) -> tuple[np.ndarray, int | None, bytes | None, int]:
    is_deep_png, white = _colours_of_deep_png(file) is not None, None
    with Image.open(file) as picture:
        _check_frames(picture)
        picture.load()
        profile = picture.info.get("icc_profile")
        orientation = picture.getexif().get(_ORIENTATION, 1)
        if is_deep_png:
            # Pillow would drop half of the bits of colours without a word.
            file.seek(0)
            content = file.read()
            array = imagecodecs.png_decode(content)
            significant = 2 ** _significant_bits(content) - 1
            # Encoders should use all of the range anyway; not all do.
            declared = 255 < significant < 65535 and array.max() <= significant
            # Dark numbers that use all of the range end in zeros.
            is_unscaled = declared and np.any(array % (65536 // (significant + 1)))
            white = significant if is_unscaled else None
        elif picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
            array = np.asarray(picture).astype(np.uint16)
        elif picture.format in _OTHER_DEPTHS or _is_deep_ppm(file):
            found = f"a picture of {picture.format}, of which only 8 bits would be read"
            raise _RefusedError(found, "save it as PNG or TIFF")
        elif picture.mode == "I":
            raise _RefusedError("whole numbers of 32 bits", "save it with 8 or 16 bits")
        elif picture.mode == "F":
            array = np.asarray(picture)
        else:
            array = np.asarray(_in_8_bits(picture, profile))
            profile = None if picture.mode == "CMYK" else profile
    return array, white, profile, orientation


def _colours_of_deep_png(file: BinaryIO) -> int | None:
    """The colour type of a PNG of 16 bits; None of other files."""
    header = file.read(26)
    file.seek(0)
    is_deep = header[:8] == b"\x89PNG\r\n\x1a\n" and header[24:25] == b"\x10"
    return header[25] if is_deep and len(header) == 26 else None


def _is_deep_ppm(file: BinaryIO) -> bool:
    """Whether it is a PPM of colours with more than 8 bits."""
    file.seek(0)
    header = re.sub(rb"#[^\n]*\n", b" ", file.read(1000)).split(maxsplit=4)
    return len(header) > 3 and header[0] in (b"P3", b"P6") and int(header[3]) > 255


def _check_frames(picture: Image.Image) -> None:
    # The other pictures in a JPEG of a camera are previews, depths and the like.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        frames = getattr(picture, "n_frames", "several")
        raise _RefusedError(f"with {frames} frames", "save one of them alone")


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16")


def _in_8_bits(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """In grey or RGB, with alpha if there is any."""
    if picture.mode == "CMYK" and profile is not None:
        rgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, io.BytesIO(profile), rgb, outputMode="RGB")
        assert converted is not None  # It is None for a conversion in place.
        return converted
    colours = "L" if _is_grey(picture.mode) else "RGB"
    alpha = "A" if picture.has_transparency_data else ""
    return picture.convert(colours + alpha)


def _significant_bits(png: bytes) -> int:
    """What the chunk sBIT of a PNG of 16 bits says, or 16."""
    place = 8
    while place + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        if kind == b"sBIT":
            return max(png[place + 8 : place + 8 + length], default=16)
        if kind == b"IDAT":
            break
        place += 12 + length
    return 16


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """As the EXIF orientation (1 to 8) says that the image is shown."""
    if orientation not in range(2, 9):
        return array
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    flips = (orientation - 1) % 4
    array = array[:, ::-1] if flips in (1, 2) else array
    return array[::-1] if flips in (2, 3) else array
