"""Given measurements are restored as they are, with the operator that made them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from given_arrays import CS, MASK, load, saved
from PIL import Image

from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.errors import UserError
from lavps_jax.operators import Cropped, LinearOperator, families
from lavps_jax.problems import Poisson

RNG = np.random.default_rng(0)
Y = RNG.uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)


def test_measurements_are_taken_as_they_are(tmp_path):
    x_0 = RNG.uniform(-1, 1, Y.shape)
    measured = load(saved(tmp_path, y=Y, x_0=x_0), families.Identity(), 0.1)
    np.testing.assert_array_equal(measured.problems.y, Y)
    np.testing.assert_allclose(measured.x_0, x_0, rtol=1e-6)
    np.testing.assert_allclose(measured.sigma_y, [0.1] * 3, rtol=1e-6)
    assert measured.names == [f"observation-{i:05d}" for i in range(3)]
    assert load(saved(tmp_path, y=Y), families.Identity(), 0.1).x_0 is None


@pytest.mark.parametrize("stacked", [False, True])
def test_the_given_kernel_blurs(tmp_path, stacked):
    kernels = RNG.uniform(size=(3, 5, 5)).astype(np.float32)
    kernels /= kernels.sum((1, 2), keepdims=True)
    given = kernels if stacked else kernels[0]
    measured = load(saved(tmp_path, y=Y, kernel=given), families.MotionBlur(size=3), 0.1)
    np.testing.assert_array_equal(
        measured.problems.operator.kernel, kernels if stacked else [kernels[0]] * 3
    )


def test_the_given_mask_hides(tmp_path):
    mask = RNG.uniform(size=(3, 8, 8, 1)) < 0.5
    measured = load(saved(tmp_path, y=Y, mask=mask), families.RandomPixels(), 0.1)
    np.testing.assert_array_equal(measured.problems.y, np.where(mask, Y, 0))
    np.testing.assert_array_equal(measured.problems.operator.mask, mask)


def test_fixed_operators_need_no_arrays(tmp_path):
    path = saved(tmp_path, y=Y)
    assert load(path, families.SuperResolution(2), 0.1).image_shape == (16, 16, 1)
    box = load(path, families.CentreBox(0.5), 0.1).problems.operator
    assert box.mask.shape == (3, 8, 8, 1) and np.all(np.sum(box.mask, axis=(1, 2, 3)) == 48)
    assert load(path, families.GaussianBlur(5, 1.0), 0.1).image_shape == (8, 8, 1)


def test_a_folder_of_images(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("b", "a"):
        Image.fromarray(pixels if name == "a" else pixels[::-1]).save(tmp_path / f"{name}.png")
    measured = load(str(tmp_path), families.Identity(), 0.1)
    assert measured.names == ["a.png", "b.png"]
    np.testing.assert_allclose(measured.problems.y[0, ..., 0], pixels / 127.5 - 1, atol=1e-6)


def test_the_noise_of_each_file_is_estimated_with_its_own_grey_levels(tmp_path):
    noise = np.random.default_rng(0).standard_normal((2, 64, 64))
    coarse = np.round(127.5 * (1 + 0.02 * noise[0])).astype(np.uint8)
    fine = np.round(32767.5 * (1 + 0.0005 * noise[1])).astype(np.uint16)
    Image.fromarray(coarse).save(tmp_path / "coarse.png")
    Image.fromarray(fine).save(tmp_path / "fine.png")
    found = load(str(tmp_path), families.Identity(), "estimate").sigma_y
    np.testing.assert_allclose(found, [0.02, 0.0005], rtol=0.1)


TWO = np.stack([np.ones((3, 3)) / 9, np.ones((3, 3)) / 9, np.full((3, 3), 2 / 9)])
HOLE = Y.copy()
HOLE[1, 2, 3, 0] = np.nan


@pytest.mark.parametrize(
    "family,arrays,words",
    [
        (families.Identity(), {"y": HOLE}, r"y: got nan at \(1, 2, 3, 0\)"),
        (families.Identity(), {"x": Y}, "with \\['x'\\]"),
        (families.Identity(), {"y": Y[..., 0]}, "give images"),
        (
            families.Identity(),
            {"y": (127 * Y).astype(np.int64)},
            "y of int64; save it with 8 or 16 bits",
        ),
        (
            families.CompressedSensing(),
            CS | {"y": np.zeros((1, 16, 1), np.uint8)},
            "y: got dtype uint8",
        ),
        (
            families.Identity(),
            {"y": Y, "mask": np.ones((8, 8, 1))},
            'array "mask"; give only y, x_0',
        ),
        (families.Identity(), {"y": Y, "x_0": Y[:, :4]}, "x_0: got shape"),
        (families.MotionBlur(3), {"y": Y}, "no kernel"),
        (families.MotionBlur(3), {"y": Y, "kernel": np.ones((2, 3, 3))}, "kernel: got shape"),
        (
            families.MotionBlur(3),
            {"y": Y, "kernel": np.ones((4, 4))},
            "kernel: got the sum 16; divide it",
        ),
        (
            families.MotionBlur(3),
            {"y": Y, "kernel": -np.ones((3, 3)) / 9},
            "kernel: got the sum -1;",
        ),
        (families.MotionBlur(3), {"y": Y, "kernel": TWO}, "kernel: got the sum 2;"),
        (
            families.Composition(families.MotionBlur(3), families.SuperResolution(2)),
            {"y": Y[:, :4, :4], "first/kernel": np.ones((3, 3))},
            "first/kernel: got the sum 9;",
        ),
        (
            families.CompressedSensing(),
            CS | {"order": np.arange(64) + 0.5},
            "order: got .* fractions",
        ),
        (families.RandomPixels(), {"y": Y, "mask": np.ones((8, 8))}, "mask: got shape"),
        (families.RandomPixels(), {"y": Y, "mask": np.ones((4, 4, 1))}, "mask: got shape"),
        (
            families.RandomPixels(),
            {"y": Y, "mask": np.full((8, 8, 1), 255)},
            "mask: got values from 255",
        ),
        (families.Identity(), {"y": Y, "x_0": np.full(Y.shape, 200)}, "x_0 of int64"),
        (families.Identity(), {"y": Y, "x_0": Y + 0j}, "x_0 of complex64"),
        (families.Identity(), {"y": Y, "x_0": (Y + 1) / 2}, "x_0: got .*--value-range 0 1"),
        (families.Identity(), {"y": (Y + 1) / 2}, "y: got .*--value-range 0 1"),
        (families.RandomPixels(), {"y": (Y + 1) / 2, "mask": MASK}, "y: got .*--value-range 0 1"),
        (families.RandomPixels(), {"y": Y, "mask": np.ones((8, 8, 1))}, "mask: got ones alone"),
        (families.Identity(), {"y": Y[:0]}, "y of shape"),
        (families.Identity(), {"y": 100 * Y}, "give that of images"),
        (families.CompressedSensing(), CS | {"order": np.arange(60)}, "order: got shape"),
        (families.CompressedSensing(), CS | {"order": np.zeros(64, int)}, "order: got shape"),
        (families.CompressedSensing(), CS | {"rows": np.arange(16) + 60}, "rows: got 16 numbers"),
        (families.JPEG((5, 50)), {"y": Y, "quality": np.array(0.0)}, "quality: got 0"),
        (families.HighDynamicRange((1.0, 2.0)), {"y": Y, "gain": np.array(-1.0)}, "gain: got -1"),
        (families.MotionBlur(3), {"y": Y, "kernel": np.zeros((3, 3))}, "kernel: got the sum 0;"),
        (families.MotionBlur(3), {"y": Y, "kernel": np.ones((9, 9)) / 81}, "kernel size: got 9"),
        (
            families.MotionBlur(3),
            {"y": Y, "kernel": 1j * np.ones((3, 3))},
            "kernel: got dtype complex",
        ),
        (
            families.Stack(),
            {"y": np.zeros((1, 80)), "parts/1/mask": np.zeros((8, 8, 1))},
            "mask: got",
        ),
        (
            families.RandomPixels(),
            {"y": Y, "mask": np.zeros((8, 8, 1))},
            "mask: got values from 0.0 to 0.0",
        ),
        (families.RandomPixels(), {"y": Y, "mask": np.full((8, 8, 1), "a")}, "mask: got dtype"),
        (
            families.Identity(),
            {"y": Y + 1j},
            "y: got dtype complex64; give what this operator measures",
        ),
        (families.FourierLines(), {"y": Y, "mask": np.ones((8, 8, 1))}, "y: got dtype float32"),
        (families.CompressedSensing(), {"y": Y[..., 0]}, "--image-shape H W C"),
        (families.GaussianBlur(21), {"y": Y}, "kernel size: got 21"),
        (families.Colorization(), {"y": np.tile(Y, 3)}, "y: got shape"),
        (
            families.RandomPixels(),
            {"y": Y, "mask": np.arange(3)[:, None, None, None] * np.ones(Y.shape) > 0},
            "mask: got values from 0.0 to 0.0",
        ),
    ],
)
def test_unusable_measurements_are_refused(tmp_path, family, arrays, words):
    with pytest.raises(UserError, match=words) as caught:
        shape = (8, 8, 1) if len(arrays) > 1 and arrays.get("y", Y).ndim < 4 else None
        load(saved(tmp_path, **arrays), family, 0.1, image_shape=shape)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_measurements(tmp_path):
    text = tmp_path / "y.npz"
    text.write_text("not an array")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, y=np.array([{"a": 1}], dtype=object))
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = tmp_path / "no_bytes.npz"
    nothing.touch()
    damaged = tmp_path / "damaged.npz"
    np.savez_compressed(damaged, y=Y)
    content = bytearray(damaged.read_bytes())
    content[150:200] = bytes(50)
    damaged.write_bytes(content)
    array = tmp_path / "y.npy"
    np.save(array, Y)
    for path in (text, pickled, array, empty, nothing, damaged, tmp_path / "nothing.npz"):
        with pytest.raises(UserError):
            load(str(path), families.Identity(), 0.1)


def test_families_tell_the_image_behind_a_measurement():
    assert families.SuperResolution(3).image_shape((4, 5, 1)) == (12, 15, 1)
    assert families.SuperResolutionBicubic(3).image_shape((4, 5, 1)) == (12, 15, 1)
    assert families.Colorization().image_shape((4, 5, 1)) == (4, 5, 3)
    assert families.PhaseRetrieval(2.0).image_shape((64, 80, 3)) == (32, 40, 3)
    assert families.Composition(families.GaussianBlur(5), families.SuperResolution(2)).image_shape(
        (4, 5, 1)
    ) == (8, 10, 1)
    assert families.HighDynamicRange().image_shape((4, 5, 1)) == (4, 5, 1)
    assert families.CompressedSensing().image_shape((4, 1)) is None
    assert families.Stack().image_shape((40,)) is None


def test_measurements_that_are_no_images(tmp_path):
    order, rows = RNG.permutation(64), RNG.permutation(64)[:16]
    y = RNG.normal(size=(2, 16, 1)).astype(np.float32)
    path = saved(tmp_path, y=y, order=order, rows=rows)
    measured = load(path, families.CompressedSensing(0.25), image_shape=(8, 8, 1))
    np.testing.assert_array_equal(measured.problems.operator.rows, [rows] * 2)
    assert measured.image_shape == (8, 8, 1)
    with pytest.raises(UserError, match="no order of the operator|no rows of the operator"):
        load(saved(tmp_path, y=y), families.CompressedSensing(0.25), image_shape=(8, 8, 1))
    mask = np.zeros((8, 8, 1), bool)
    mask[:, :3] = True
    spectrum = (RNG.normal(size=Y.shape) + 1j).astype(np.complex64)
    measured = load(saved(tmp_path, y=spectrum, mask=mask), families.FourierLines())
    np.testing.assert_array_equal(measured.problems.y, np.where(mask, spectrum, 0))
    both = families.Stack((families.SuperResolution(2), families.RandomPixels()))
    y = RNG.uniform(-1, 1, (2, 16 + 64)).astype(np.float32)
    path = saved(tmp_path, y=y, **{"parts/1/mask": mask})
    measured = load(path, both, image_shape=(8, 8, 1))
    np.testing.assert_array_equal(measured.problems.operator.parts[1].mask, [mask] * 2)


def test_measurements_in_other_units_than_images(tmp_path):
    white = np.ones((1, 32, 32, 1), np.float32)
    mask = np.ones((32, 32, 1))
    spectrum = np.fft.fft2(white, axes=(1, 2), norm="ortho").astype(np.complex64)
    assert np.abs(spectrum).max() > 30
    load(saved(tmp_path, y=spectrum, mask=mask), families.FourierLines())
    with pytest.raises(UserError, match="y: got values up to 4080"):
        load(saved(tmp_path, y=127.5 * spectrum, mask=mask), families.FourierLines())


def test_photons_come_from_light(tmp_path):
    for family, arrays in (
        (families.CompressedSensing(), CS),
        (families.FourierLines(), {"y": Y + 0j, "mask": np.ones((8, 8, 1))}),
    ):
        shape = (8, 8, 1)
        with pytest.raises(UserError, match="poisson_peak: got .* with y") as caught:
            load(saved(tmp_path, **arrays), family, poisson_peak=9.0, image_shape=shape)
        assert "does not measure light" in str(caught.value)


def test_a_folder_of_16_bits_and_sizes(tmp_path):
    for name, width in (("a", 8), ("b", 8), ("c", 9)):
        Image.fromarray(np.full((8, width), 40_000, np.uint16)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"c.png of shape \(8, 9, 1\); give images of one shape"):
        load(str(tmp_path), families.Identity())
    (tmp_path / "c.png").unlink()
    measured = load(str(tmp_path), families.Identity())
    np.testing.assert_allclose(measured.problems.y, 40_000 / 32767.5 - 1, atol=1e-6)
    assert measured.names == ["a.png", "b.png"]


def test_jpeg_of_a_colour_image_needs_a_prior_of_colours(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "mine.jpg")
    load(str(tmp_path / "mine.jpg"), families.JPEG(75), channels=3)
    for family in (
        families.JPEG(75),
        families.Composition(families.GaussianBlur(3, 1.0), families.JPEG(75)),
    ):
        with pytest.raises(UserError, match="JPEG mixes the channels"):
            load(str(tmp_path / "mine.jpg"), family, channels=1)


def test_sides_that_the_network_does_not_take_get_room(tmp_path):
    measured = load(saved(tmp_path, y=Y[:, :, :6]), families.GaussianBlur(3, 1.0), multiple=8)
    operator = measured.problems.operator
    assert measured.image_shape == (8, 8, 1) and isinstance(operator, Cropped)
    assert isinstance(operator, LinearOperator) and operator.corner == (0, 1)
    x = RNG.uniform(-1, 1, (2, 8, 8, 1))
    np.testing.assert_array_equal(measured.shown(x), x[:, :, 1:7])
    assert not np.any(jax.vmap(estimate)(measured.problems)[:, :, [0, 7]])
    with pytest.raises(UserError, match="x_0: got shape .* sides 8 x 8 only"):
        load(saved(tmp_path, y=Y[:, :, :6], x_0=Y[:, :, :6]), families.Identity(), multiple=8)
    same = load(saved(tmp_path, y=Y), families.Identity(), multiple=8)
    assert not isinstance(same.problems.operator, Cropped)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [True, False])
def test_one_image_file(tmp_path, channels, grey):
    pixels = RNG.integers(0, 256, (8, 10, 3), np.uint8)
    pixels = pixels[..., 0] if grey else pixels
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    family = families.SuperResolution(2)
    measured = load(str(tmp_path / "mine.png"), family, channels=channels)
    y, count = pixels / 127.5 - 1, 1 if channels == 3 or grey else 3
    assert measured.names[0] == ("mine" if count == 1 else "mine-red")
    assert len(measured.names) == len(measured.problems.y) == count
    assert measured.image_shape == (16, 20, channels)
    found = np.asarray(measured.problems.y)
    together = found[..., 0].transpose(1, 2, 0) if count == 3 else found[0]
    np.testing.assert_allclose(together.squeeze(), y, atol=1e-6)
    x = RNG.uniform(-1, 1, (count, 4, 16, 20, channels))
    back = measured.joined(x)
    assert back.shape == (4, 16, 20, 1 if grey else 3)
    if grey and channels == 3:  # Networks draw colours, of which the grey image is the mean.
        np.testing.assert_allclose(back, x[0].mean(-1, keepdims=True))
        operator = measured.problems.operator
        one = type(operator)(*(_first(p) for p in (operator.first, operator.second)),
                             x_shape=operator.x_shape)  # fmt: skip
        expected = x[0, 0].mean(-1, keepdims=True).reshape(8, 2, 10, 2, 1).mean((1, 3))
        np.testing.assert_allclose(one.forward(x[0, 0].astype(np.float32)), expected, atol=1e-6)


def _first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def test_noise_is_estimated_or_counted(tmp_path):
    # Numbers of its own: which tests ran before must not matter. Thousands of details
    # make the estimate as exact as is asked for.
    draws = np.random.default_rng(1).normal(size=(2, 192, 192, 1))
    y = -0.3 + draws * [[[[0.02]]], [[[0.2]]]]
    path = saved(tmp_path, y=y.astype(np.float32))
    found = load(path, families.Identity(), "estimate").sigma_y
    np.testing.assert_allclose(found, [0.02, 0.2], rtol=0.06)
    counted = load(path, families.Identity(), poisson_peak=50.0)
    noise = counted.problems.noise
    assert isinstance(noise, Poisson)
    np.testing.assert_allclose(noise.peak, [50, 50])
    # sqrt of the mean count, 17.5, in units of 25 photons.
    np.testing.assert_allclose(counted.sigma_y, 17.5**0.5 / 25, rtol=0.05)
    hidden = np.zeros((192, 192, 1))
    hidden[:, :120] = 1
    path = saved(tmp_path, y=y.astype(np.float32), mask=hidden)
    found = load(path, families.RandomPixels(), "estimate").sigma_y
    np.testing.assert_allclose(found, [0.02, 0.2], rtol=0.08)
    with pytest.raises(UserError, match="sigma_y: got estimate"):
        white = saved(tmp_path, y=np.ones((1, 8, 8, 1), np.float32))
        load(white, families.Identity(), "estimate", value_range=(-1, 1))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("shape", [(5, 5, 1), (4, 4), (3, 5), (2, 5, 1)])
def test_kernels_of_other_shapes(tmp_path, stacked, shape):
    """With a last axis of one; and even or oblong, with the centre at k // 2."""
    kernel = RNG.uniform(size=shape)
    kernel /= kernel.sum()
    given = np.stack([kernel] * 3) if stacked else kernel
    found = load(saved(tmp_path, y=Y, kernel=given), families.MotionBlur(3)).problems.operator
    spike = np.zeros((8, 8, 1), np.float32)
    spike[4, 4] = 1
    blurred = np.asarray(_first(found).forward(spike))[..., 0]
    flat = kernel.reshape(shape[:2])
    rows, columns = shape[:2]
    expected = np.zeros((8, 8))
    for a in range(rows):
        for b in range(columns):
            expected[4 - a + rows // 2, 4 - b + columns // 2] = flat[a, b]
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_hidden_folders_links_and_other_files(tmp_path, caplog):
    pixels = RNG.integers(0, 256, (8, 8), np.uint8)
    for name in ("given/a.png", "given/.ipynb_checkpoints/a.png", "store/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "given" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "given" / "c.heic").touch()
    assert load(str(tmp_path / "given"), families.Identity()).names == ["a.png", "link/b.png"]
    assert caplog.messages == ["observations: 1 file of other kinds left out: c.heic"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_photo_stored_in_colours_is_grey(tmp_path, channels):
    grey = np.repeat(RNG.integers(0, 256, (8, 8, 1), np.uint8), 3, axis=-1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    measured = load(str(tmp_path / "grey.png"), families.Identity(), channels=channels)
    assert measured.names == ["grey"] and measured.problems.y.shape == (1, 8, 8, 1)
    x = RNG.uniform(-1, 1, (1, 2, 8, 8, channels))
    np.testing.assert_allclose(measured.joined(x), x[0].mean(-1, keepdims=True))
