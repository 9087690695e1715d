"""Image files go in and out without losing a bit, and what cannot be kept is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from lavps_jax.data.files import read_image, write_image
from lavps_jax.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 3), np.uint16)


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


ALPHA = np.concatenate([RGB, RGB[..., :1]], -1)


@pytest.mark.parametrize(
    "name,array",
    [
        ("a.png", RGB),
        ("a.png", RGB[..., 0]),
        ("a.png", RGB[..., :2]),
        ("a.png", ALPHA),
        ("a.png", DEEP[..., 0]),
        ("a.webp", None),
        ("a.tif", RGB),
        ("a.tif", DEEP),
        ("a.tiff", DEEP[..., 0]),
        ("a.tif", np.concatenate([DEEP, DEEP[..., :1]], -1)),
        ("a.npy", RGB),
        ("a.npy", DEEP),
        ("a.npy", RNG.normal(size=(4, 5, 1)).astype(np.float32)),
    ],
)
def test_there_and_back(tmp_path, name, array):
    if array is None:
        Image.fromarray(array := ALPHA).save(tmp_path / name, lossless=True, exact=True)
    else:
        save(tmp_path / name, array)
    image = read_image(tmp_path / name)
    colours = array if array.ndim == 3 and array.shape[-1] % 2 else array[..., :-1]
    colours = array[..., None] if array.ndim == 2 else colours
    assert image.pixels.shape == colours.shape and image.pixels.dtype == np.float32
    assert image.bits == {1: 8, 2: 16, 4: 32}[array.itemsize]
    if image.bits < 32:
        span = 2**image.bits - 1
        np.testing.assert_allclose((image.pixels + 1) / 2 * span, colours, atol=0.02 * span / 255)
    written = read_image(write_image(tmp_path / "out", image.pixels, image))
    np.testing.assert_array_equal(written.pixels, image.pixels)
    assert written.bits == image.bits
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, array[..., -1])
        np.testing.assert_array_equal(written.alpha, image.alpha)
    assert (written.alpha is None) == (image.alpha is None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_the_camera_was(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    for name in ("a.png", "a.tif"):
        if name == "a.tif":
            tag = [(274, 3, 1, orientation, True)]
            tifffile.imwrite(tmp_path / name, RGB, photometric="rgb", extratags=tag)
        found = (read_image(tmp_path / name).pixels + 1) * 127.5
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_alpha_grows_with_the_image(tmp_path):
    save(tmp_path / "a.png", np.dstack([RGB, np.full((6, 9), 77, np.uint8)]))
    image = read_image(tmp_path / "a.png")
    out = read_image(write_image(tmp_path / "b", np.zeros((12, 18, 3), np.float32), image))
    assert out.alpha is not None and out.alpha.shape == (12, 18) and np.all(out.alpha == 77)


def test_what_cannot_be_kept_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.tif").write_text("no picture")
    np.save(tmp_path / "five.npy", np.zeros((4, 4, 5)))
    np.save(tmp_path / "whole.npy", np.zeros((4, 4), np.int64))
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for _ in range(3):
            file.write(RGB, photometric="rgb", contiguous=False)
    words = {
        "none.png": "existing file",
        "text.png": "image file",
        "text.tif": "image file",
        "five.npy": "1 to 4 channels",
        "whole.npy": "8 or 16 bits",
        "pages.tif": "3 pages",
    }
    for name, part in words.items():
        with pytest.raises(UserError, match=part) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_colour_png_of_16_bits_is_not_cut_to_8(tmp_path):
    import struct
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP)
    header = struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    with pytest.raises(UserError, match="save it as TIFF"):
        read_image(tmp_path / "a.png")
