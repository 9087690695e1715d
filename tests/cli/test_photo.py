"""`lavps-sample photo` as a user meets it, with the shipped prior, on crops of photographs."""

from __future__ import annotations

import json
import signal
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from scipy.ndimage import convolve

from lavps_jax import data, programs
from lavps_jax.config.photo import jpeg_settings
from lavps_jax.operators import JPEG
from lavps_jax.runs.photo import in_words

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def photo(monkeypatch, tmp_path, capfd):
    """A function of arguments that runs the program in an empty folder: its status and words."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["sample.py", "photo", *map(str, arguments)])
        code = 0
        try:
            programs.sample()
        except SystemExit as stop:
            code = stop.code
        return code, capfd.readouterr()

    return run


def crop(number: int, height: int, width: int) -> np.ndarray:
    """A part of a shipped photograph in grey levels, float (H, W, 3)."""
    x = data.shipped("photographs")[number, 100 : 100 + height, 100 : 100 + width]
    return np.rint(127.5 * (np.asarray(x, np.float64) + 1))


def save(path, levels: np.ndarray, **settings) -> None:
    Image.fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8)).save(path, **settings)


def read(path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened, np.float64)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def test_a_noisy_photograph_keeps_its_depth_profile_and_upright_orientation(photo, tmp_path):
    clean = crop(0, 64, 48)
    noisy = np.clip(clean + 20 * np.random.default_rng(0).normal(size=clean.shape), 0, 255)
    numbers = np.rint(257 * noisy).astype(np.uint16)
    turned = [(274, "H", 1, 6, True)]  # The file lies on its side.
    lying = np.rot90(numbers)
    tifffile.imwrite("mine.tif", lying, photometric="rgb", iccprofile=PROFILE, extratags=turned)
    code, printed = photo("mine.tif", "--task", "denoise")
    assert code == 0, printed.err
    assert "chi2" not in printed.out and "VJPs" not in printed.out
    # The network knows noise: its starts are not compared with others.
    settings = json.loads((tmp_path / "mine-restored" / "config.json").read_text())
    assert settings["sampler"]["best_of"] is False
    first = printed.out.splitlines()[0]
    assert first.startswith("48 x 64 pixels, noise ") and " of 255: about " in first
    noise = float(first.split("noise ")[1].split(" of 255")[0])
    assert noise == pytest.approx(20, rel=0.15)
    restored = tmp_path / "mine-restored" / "restored"
    assert {one.name for one in restored.iterdir()} == {
        "lavps_sample_00.tif", "lavps_before_after.png",
    }  # fmt: skip
    with tifffile.TiffFile(restored / "lavps_sample_00.tif") as opened:
        page = opened.pages.first
        x, profile = page.asarray(), page.tags[34675].value
    assert x.dtype == np.uint16 and x.shape == (64, 48, 3) and profile == PROFILE
    assert rms(x / 257 - clean) < 0.7 * rms(noisy - clean)
    both = read(restored / "lavps_before_after.png")
    assert both.shape == (64, 96, 3)
    assert rms(both[:, :48] - noisy) < 1 and rms(both[:, 48:] - x / 257) < 1
    # What is there is not replaced unasked.
    code, printed = photo("mine.tif", "--task", "denoise")
    assert code == 2 and "--overwrite" in printed.err and printed.err.startswith("error: --out")


def test_an_enlarged_photograph_is_the_given_one_when_reduced(photo, tmp_path):
    """The residual is that of noise of 6 grey levels."""
    clean = crop(1, 32, 48)
    small = clean.reshape(16, 2, 24, 2, 3).mean((1, 3))
    save("small.png", small, icc_profile=PROFILE)
    code, printed = photo(
        "small.png", "--task", "upscale", "--samples", "2", "--noise", "6", "--steps", "24",
        "--out", "large",
    )  # fmt: skip
    assert code == 0, printed.err
    folder = tmp_path / "large" / "restored"
    samples = [read(folder / f"lavps_sample_0{k}.png") for k in range(2)]
    for x in samples:
        assert x.shape == (32, 48, 3)
        assert 4 < rms(x.reshape(16, 2, 24, 2, 3).mean((1, 3)) - small) < 9
    assert rms(read(folder / "lavps_mean.png") - np.mean(samples, 0)) < 1
    # The map is white where the standard deviation is a quarter of the grey levels.
    assert rms(read(folder / "lavps_std.png") / 4 - np.std(samples, 0)) < 1
    with Image.open(folder / "lavps_mean.png") as opened:
        assert opened.info["icc_profile"] == PROFILE


def test_a_scratch_is_filled_and_the_rest_is_kept(photo, tmp_path):
    """Where the photograph is smooth enough to tell; the mask is twice as large as it."""
    clean, seen = crop(1, 48, 48), np.full((48, 48), True)
    seen[20:23, 8:40] = False
    save("mine.png", np.where(seen[..., None], clean, 255))
    save("mask.png", 255 * np.kron(seen, np.ones((2, 2))))
    words = "mine.png", "--task", "inpaint", "--mask", "mask.png", "--steps", "20"
    code, printed = photo(*words)
    assert code == 2 and "96 x 96" in printed.err and "--scale-mask" in printed.err
    code, printed = photo(*words, "--scale-mask")
    assert code == 0, printed.err
    x = read(*tmp_path.glob("mine-restored/restored/*_sample_00.png"))
    assert rms((x - clean)[seen]) < 1.5 * 2.5
    assert rms((x - clean)[~seen]) < 0.7 * rms((clean - clean[seen].mean(0))[~seen])


def test_a_blurred_photograph_with_the_image_of_a_point(photo, tmp_path):
    """It is no mirror image of itself: one that is flipped would make things worse."""
    clean = crop(0, 48, 48)
    kernel = np.zeros((5, 5))
    kernel[2, 2:], kernel[:2, 2] = 1, 0.5
    blurred = convolve(clean, kernel[..., None] / kernel.sum(), mode="mirror")
    save("mine.png", blurred + np.random.default_rng(0).normal(size=clean.shape))
    save("point.png", 255 * kernel)
    words = "--kernel", "point.png", "--noise", "1"
    code, printed = photo("mine.png", "--task", "deblur", *words)
    assert code == 0, printed.err
    settings = json.loads((tmp_path / "mine-restored" / "config.json").read_text())
    assert settings["sampler"]["best_of"] is True  # Nobody knows this kernel.
    x = read(tmp_path / "mine-restored" / "restored" / "lavps_sample_00.png")
    assert rms(x - clean) < 0.8 * rms(blurred - clean)


def test_a_jpeg_file_says_its_quality_and_the_result_would_be_such_a_file(photo, tmp_path):
    save("mine.jpg", crop(1, 48, 48), quality=12)
    given = read("mine.jpg")
    code, printed = photo("mine.jpg", "--task", "dejpeg", "--steps", "20")
    assert code == 0, printed.err
    assert "JPEG quality 12" in printed.out
    x = read(tmp_path / "mine-restored" / "restored" / "mgdm_sample_00.png")
    again = JPEG(np.float32(12), x_shape=x.shape).forward(x.astype(np.float32) / 127.5 - 1)
    assert rms(127.5 * (np.asarray(again) + 1) - given) < 0.5 * rms(x - given)


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 93, 100])
def test_tables_of_a_jpeg_file(quality, tmp_path):
    save(tmp_path / "a.jpg", crop(0, 16, 16), quality=quality, subsampling=quality % 2)
    found = jpeg_settings(str(tmp_path / "a.jpg"))
    assert found.quality == quality and found.halve_colour == bool(quality % 2)


def test_durations():
    told = [in_words(one) for one in (0.2, 1, 100, 130, 7000, 7300)]
    assert told == ["1 second", "1 second", "100 seconds", "2 minutes", "117 minutes", "2 hours"]


@pytest.mark.parametrize(
    "arguments,words",
    [
        ("nowhere.png --task denoise", "photo: got nowhere.png; give an existing file"),
        (". --task denoise", "photo: got .;"),
        ("broken.png --task denoise", "not an image file"),
        ("animated.webp --task denoise", "with 2 frames"),
        ("cmyk.jpg --task dejpeg", "CMYK; give grey or RGB"),
        ("tiny.png --task denoise", "20 x 8 pixels; give one of at least 16"),
        ("flat.png --task denoise", "of one colour"),
        ("flat.png --task polish", "denoise"),
        ("noisy.png --task denoise --kernel noisy.png", "--kernel: got it with --task denoise"),
        ("noisy.png --task upscale --scale 5", "scale"),
        ("noisy.png --task deblur", "give --kernel FILE"),
        ("noisy.png --task deblur --kernel large.png", "40 x 30 pixels; give at most 24"),
        ("noisy.png --task deblur --kernel nowhere.png", "--kernel: got nowhere.png"),
        ("noisy.png --task inpaint", "give --mask FILE"),
        ("noisy.png --task inpaint --mask white.png", "without a black pixel"),
        ("noisy.png --task dejpeg", "give --quality 1 to 100"),
        ("noisy.png --task denoise --noise 300", "--noise: got 300"),
        ("noisy.png --task denoise --steps 3", "--steps: got 3"),
        ("noisy.png --task denoise --noise 9 --samples 1000000", "give --samples 1;"),
        ("ramp.png --task denoise", "--noise: got estimate"),
    ],
)
def test_what_will_not_do_is_one_line(photo, tmp_path, arguments, words):
    noise = np.random.default_rng(0).uniform(0, 255, (24, 32, 3))
    save("noisy.png", noise)
    save("tiny.png", noise[:8, :20])
    save("flat.png", np.full((24, 32, 3), 9))
    save("white.png", np.full((24, 32), 255))
    save("large.png", np.ones((30, 40)))
    save("ramp.png", np.mgrid[:64, :64].sum(0))
    Image.fromarray(noise.astype(np.uint8)).convert("CMYK").save("cmyk.jpg")
    frames = [Image.fromarray(one.astype(np.uint8)) for one in (noise, noise[::-1])]
    frames[0].save("animated.webp", save_all=True, append_images=frames[1:])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    before = set(tmp_path.iterdir())
    code, printed = photo(*arguments.split())
    assert code == 2 and words in printed.err and printed.err.count("\n") == 1, printed.err
    assert set(tmp_path.iterdir()) == before
