"""Image files go in and out without losing a bit, and what cannot be kept is refused."""

from __future__ import annotations

import contextlib

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
        ("a.bmp", RGB),
        ("a.bmp", RGB[..., 0]),
        ("a.tif", RGB),
        ("a.tif", DEEP),
        ("a.tiff", DEEP[..., 0]),
        ("a.tif", np.concatenate([DEEP, DEEP[..., :1]], -1)),
        ("a.npy", RGB),
        ("a.npy", DEEP),
        ("a.npy", RNG.normal(size=(4, 5, 1)).astype(np.float32)),
        ("a.npy", RNG.normal(size=(4, 5, 2)).astype(np.float32)),
        ("a.npy", RNG.normal(size=(4, 5, 4)).astype(np.float32)),
        ("a.tif", RNG.normal(size=(4, 5, 4)).astype(np.float32)),
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


@pytest.mark.parametrize("name,alpha", [("a.png", np.uint8(77)), ("a.npy", np.float32(0.3))])
def test_alpha_grows_with_the_image(tmp_path, name, alpha):
    colours = RGB if name == "a.png" else RGB / np.float32(127.5) - 1
    save(tmp_path / name, np.dstack([colours, np.full((6, 9), alpha)]))
    image = read_image(tmp_path / name)
    black = -np.ones((12, 18, 3), np.float32)
    out = read_image(write_image(tmp_path / "b", black, image))
    assert out.alpha is not None and out.alpha.shape == (12, 18) and out.alpha.dtype == alpha.dtype
    np.testing.assert_allclose(out.alpha, alpha, rtol=1e-6)


def test_what_cannot_be_kept_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.tif").write_text("no picture")
    np.save(tmp_path / "five.npy", np.zeros((4, 4, 5)))
    np.save(tmp_path / "unit.npy", RGB / np.float32(255))
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
        "unit.npy": "2 x - 1",
        "pages.tif": "3 pages",
    }
    for name, part in words.items():
        with pytest.raises(UserError, match=part) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_a_suspiciously_large_picture_is_refused_in_one_line(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"a{suffix}", RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(UserError, match="exceeds limit of 18 pixels") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


# ---- TIFF ----


def pixels(path, levels=255) -> np.ndarray:
    return np.rint((read_image(path).pixels + 1) / 2 * levels)


@pytest.mark.parametrize("options", [{"compression": "lzw", "predictor": True}, {}])
def test_compressed_and_planar_tiffs_are_read(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP, photometric="rgb", **options)
    np.testing.assert_array_equal(pixels(path, 65535), DEEP)
    planes = np.moveaxis(DEEP, -1, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **options)
    np.testing.assert_array_equal(pixels(path, 65535), DEEP)


def test_a_jpeg_in_a_tiff_has_its_colours(tmp_path):
    smooth = np.broadcast_to(np.uint8([200, 90, 30]), (16, 16, 3))
    for kind in ("rgb", "ycbcr"):
        path = tmp_path / f"{kind}.tif"
        Image.fromarray(np.ascontiguousarray(smooth)).convert("YCbCr" if kind == "ycbcr" else "RGB"
        ).save(path, compression="jpeg", quality=95)  # fmt: skip
        np.testing.assert_allclose(pixels(path), smooth, atol=3)


def test_black_and_white_keep_their_places(tmp_path):
    """Whether a small number is black or white, and with an alpha that is neither."""
    grey = RGB[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", 255 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[..., 0], grey)
    two = np.dstack([255 - grey, RGB[..., 1]])
    extra = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "b.tif", two, photometric="miniswhite", **extra)
    np.testing.assert_array_equal(pixels(tmp_path / "b.tif")[..., 0], grey)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif").alpha, RGB[..., 1])
    tifffile.imwrite(tmp_path / "c.tif", grey < 128, photometric="miniswhite")
    np.testing.assert_array_equal(pixels(tmp_path / "c.tif")[..., 0], 255 * (grey >= 128))


def test_tiffs_that_would_show_other_colours_are_refused(tmp_path):
    grey, map_ = RGB[..., 0], np.zeros((3, 256), np.uint16)
    cases = {
        "PALETTE colours": (grey, {"photometric": "palette", "colormap": map_}),
        "SEPARATED colours": (ALPHA, {"photometric": "separated"}),
        "multiplied by alpha": (ALPHA, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        "TIFF of 3 channels": (RGB, {"photometric": "minisblack", "planarconfig": "contig"}),
        "TIFF of 4 bits": (grey // 16, {"photometric": "minisblack", "bitspersample": 4}),
        "smallest number is white": (grey.astype(np.float32), {"photometric": "miniswhite"}),
    }
    for words, (array, options) in cases.items():
        tifffile.imwrite(tmp_path / "a.tif", array, **options)
        with pytest.raises(UserError, match=words) as caught:
            read_image(tmp_path / "a.tif")
        assert caught.value.remedy.startswith("save it") and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy", ".bmp", ".webp"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_never_end_in_a_traceback(tmp_path, suffix):
    path, generator = tmp_path / f"a{suffix}", np.random.default_rng(1)
    if suffix == ".tif":
        tifffile.imwrite(path, DEEP, photometric="rgb", compression="lzw")
    else:
        save(path, RGB)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for attempt in range(60):
        damaged = whole.copy()
        damaged[generator.integers(0, len(whole), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(damaged[: generator.integers(1, len(whole))] if attempt % 3 else damaged)
        with contextlib.suppress(UserError):
            read_image(path)


# ---- PNG ----


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
