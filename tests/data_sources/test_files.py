"""Image files go in and out without losing a bit, and what cannot be kept is refused."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from image_files import save
from PIL import Image, ImageCms, ImageOps

from lavps_jax.data import ShippedData, load_batch
from lavps_jax.data.decoding import decoded_shape
from lavps_jax.data.files import read_image, read_kernel, read_mask, write_image
from lavps_jax.data.value_range import range_of
from lavps_jax.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 3), np.uint16)


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
        "unit.npy": "--value-range 0 1",
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


def deep_png(array, colour_type, *, before=b"") -> bytes:
    """A PNG of 16 bits, with chunks before its pixels."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + ends


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("colour_type,count", [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_is_not_cut_to_8(tmp_path, colour_type, count):
    array = np.concatenate([DEEP, DEEP[..., :1]], -1)[..., :count]
    (tmp_path / "a.png").write_bytes(deep_png(array, colour_type))
    colours = count // 2 * 2 - 1 if count % 2 == 0 else count
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", 65535), array[..., :colours])
    alpha = read_image(tmp_path / "a.png").alpha
    assert (alpha is None) == (count == 3)
    if alpha is not None:
        np.testing.assert_array_equal(alpha, array[..., -1])
    assert decoded_shape(tmp_path / "a.png", "") == (6, 9, colours)


# ---- Levels ----


TWELVE = RNG.integers(0, 4096, (6, 9), np.uint16)


def test_a_declared_white_is_that_of_the_image(tmp_path):
    """Of 12 bits in 16, packed or in a PNG; it is declared again where the result is written."""
    grey = {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "packed.tif", TWELVE, bitspersample=12, **grey)
    for name, code in (("max_sample_value.tif", 281), ("white_level.tif", 50717)):
        tifffile.imwrite(tmp_path / name, TWELVE, extratags=[(code, "H", 1, 4095, True)], **grey)
    inverse = {"photometric": "miniswhite", "extratags": [(281, "H", 1, 4095, True)]}
    tifffile.imwrite(tmp_path / "miniswhite.tif", 4095 - TWELVE, **inverse)
    (tmp_path / "sbit.png").write_bytes(deep_png(TWELVE, 0, before=chunk(b"sBIT", b"\x0c")))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    for file in files:
        image = read_image(file)
        np.testing.assert_allclose(image.pixels[..., 0], TWELVE / 2047.5 - 1, atol=1e-6)
        assert image.bits == 16 and image.step == 2 / 4095
        out = write_image(tmp_path / "out", image.pixels, image)
        np.testing.assert_array_equal(tifffile.imread(out), TWELVE)
        np.testing.assert_array_equal(read_image(out).pixels, image.pixels)


def test_a_white_that_is_not_declared_is_that_of_the_depth_or_given(tmp_path):
    # The largest number that occurs, which some programs write, is not that of white.
    tags = {"photometric": "minisblack", "extratags": [(281, "H", 1, 3127, True)]}
    tifffile.imwrite(tmp_path / "a.tif", TWELVE, **tags)
    (tmp_path / "a.png").write_bytes(deep_png(DEEP[..., 0], 0, before=chunk(b"sBIT", b"\x0c")))
    for name, array in (("a.tif", TWELVE), ("a.png", DEEP[..., 0])):
        found = read_image(tmp_path / name).pixels[..., 0]
        np.testing.assert_allclose(found, array / 32767.5 - 1, atol=1e-6)
    found = read_image(tmp_path / "a.tif", (0, 4095)).pixels[..., 0]
    np.testing.assert_allclose(found, TWELVE / 2047.5 - 1, atol=1e-6)
    tags["extratags"] = [(281, "H", 1, 1023, True)]
    tifffile.imwrite(tmp_path / "b.tif", TWELVE, **tags)
    with pytest.raises(UserError, match="--value-range BLACK WHITE that includes them"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("kind", ["uniform", "dark"])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_floats_from_0_are_not_taken_for_floats_around_0(tmp_path, kind, noise, suffix):
    generator = np.random.default_rng(3)
    unit = generator.uniform(size=(64, 64))
    if kind == "dark":  # Bright things on black, as Fashion-MNIST.
        unit = np.kron(generator.uniform(size=(4, 4)) > 0.6, np.ones((16, 16))) * (0.5 + unit / 2)
    noisy = (unit + noise * generator.standard_normal(unit.shape)).astype(np.float32)
    path = save(tmp_path / f"unit{suffix}", noisy)
    with pytest.raises(UserError, match="which numbers are black and white: --value-range 0 1"):
        read_image(path)
    image = read_image(path, (0, 1))
    np.testing.assert_allclose(image.pixels[..., 0], 2 * noisy - 1, atol=1e-6)
    written = np.load(write_image(tmp_path / "out", image.pixels, image))
    np.testing.assert_allclose(written[..., 0], noisy, atol=1e-6)  # In the numbers of the file.
    both = 2 * noisy - 1
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.npy", both)).pixels[..., 0], both)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("seen", [1.0, 0.15])
def test_floats_around_0_are_taken_with_any_noise(noise, seen):
    """Real images, whole and with hidden pixels; the same in [0, 1] are not."""
    generator = np.random.default_rng(4)
    for x in load_batch(ShippedData().open(), range(0, 64, 8)):
        mask = generator.uniform(size=(32, 32, 1)) < seen
        y = x + noise * generator.standard_normal(x.shape)
        assert range_of(mask * y, field="y", found="y") == (-1, 1)
        if noise < 0.5 or seen == 1:
            with pytest.raises(UserError, match="--value-range"):
                range_of(mask * (y + 1) / 2, field="y", found="y")


def test_whole_numbers_of_other_types_need_a_range(tmp_path):
    path = save(tmp_path / "a.npy", TWELVE.astype(np.int64))
    with pytest.raises(UserError, match="int64; save it with 8 or 16 bits"):
        read_image(path)
    found = read_image(path, (0, 4095)).pixels[..., 0]
    np.testing.assert_allclose(found, TWELVE / 2047.5 - 1, atol=1e-6)
    big_endian = save(tmp_path / "a.npy", TWELVE.astype(">u2"))
    np.testing.assert_array_equal(pixels(tmp_path / big_endian, 65535)[..., 0], TWELVE)
    (tmp_path / "a.pgm").write_bytes(b"P5 9 6 4095\n" + TWELVE.astype(">u2").tobytes())
    np.testing.assert_allclose(pixels(tmp_path / "a.pgm", 4095)[..., 0], TWELVE, atol=0.1)


# ---- Colours, frames, names ----


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "grey.png", "deep.tif"])
def test_the_colour_profile_is_kept(tmp_path, name):
    path = tmp_path / name
    if name == "deep.tif":
        tifffile.imwrite(path, DEEP, photometric="rgb", iccprofile=PROFILE)
    else:
        array = RGB[..., 0] if name == "grey.png" else RGB
        Image.fromarray(array).save(path, icc_profile=PROFILE)
    image = read_image(path)
    assert image.profile == PROFILE
    assert read_image(write_image(tmp_path / "out", image.pixels, image)).profile == PROFILE
    save(tmp_path / "none.png", RGB)
    assert read_image(tmp_path / "none.png").profile is None


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.tif"])
def test_several_frames_are_refused(tmp_path, name):
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 90, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    for read in (read_image, lambda path: read_mask(path, "p"), lambda path: read_kernel(path, "p"),
                 lambda path: decoded_shape(path, "p")):  # fmt: skip
        with pytest.raises(UserError, match="with 3 (frames|pages); save one of them alone"):
            read(tmp_path / name)


def test_the_previews_in_a_photo_are_no_frames(tmp_path):
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    frames[0].save(tmp_path / "a.mpo", save_all=True, append_images=frames[1:])
    os.rename(tmp_path / "a.mpo", tmp_path / "a.jpg")
    frames[0].save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), pixels(tmp_path / "b.jpg"))


def test_the_name_of_a_file_says_nothing(tmp_path):
    for suffix in (".PNG", ".Tif", ".NPY"):
        save(tmp_path / f"a{suffix.lower()}", RGB)
        for other in (suffix, ".jpg", ""):
            content = (tmp_path / f"a{suffix.lower()}").read_bytes()
            (tmp_path / f"b{other}").write_bytes(content)
            np.testing.assert_array_equal(pixels(tmp_path / f"b{other}"), RGB)


def test_dark_numbers_that_use_all_of_the_range_are_not_brightened(tmp_path):
    """10 bits, scaled to 16 or not: sBIT says the same in both files."""
    dark = RNG.integers(0, 16, (6, 9)).astype(np.uint16)
    for name, stored, white in (("scaled", dark * 64, 65535), ("plain", dark + 1, 1023)):
        content = deep_png(stored, 0, before=chunk(b"sBIT", bytes([10])))
        (tmp_path / f"{name}.png").write_bytes(content)
        assert read_image(tmp_path / f"{name}.png").value_range == (0, white)


def test_depths_that_would_be_lost_are_refused(tmp_path):
    header = b"P6\n# a camera\n9 6\n65535\n"
    (tmp_path / "deep.png").write_bytes(header + DEEP.astype(">u2").tobytes())
    with pytest.raises(UserError, match="a picture of PPM, of which only 8 bits .* PNG or TIFF"):
        read_image(tmp_path / "deep.png")
    (tmp_path / "eight.png").write_bytes(b"P6 9 6 255\n" + RGB.tobytes())
    np.testing.assert_array_equal(pixels(tmp_path / "eight.png"), RGB)


def test_black_with_few_stars_does_not_tell_its_range():
    stars = np.zeros((64, 64, 1))
    stars[3, 4], stars[40, 9] = 1.0, 0.8
    with pytest.raises(UserError, match="with numbers from 0 to 1; say which numbers are black"):
        range_of(stars, field="path", found="a.npy")
    assert range_of(stars - 1, field="path", found="a.npy") == (-1, 1)
