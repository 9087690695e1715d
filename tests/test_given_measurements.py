"""Given measurements are restored as they are, with the operator that made them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from lavps_jax.build import NetworkShape
from lavps_jax.config import DPSConfig, SampleConfig
from lavps_jax.data import SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.given_measurements import load_measurements
from lavps_jax.measurements import Measured
from lavps_jax.noise import PoissonNoise
from lavps_jax.operators import (
    CentreBox,
    Colorization,
    Compressed,
    CompressedSensing,
    Cropped,
    Denoise,
    FourierLines,
    GaussianBlur,
    HighDynamicRange,
    LinearOperator,
    MotionBlur,
    PhaseRetrieval,
    RandomPixels,
    Several,
    SuperResolve,
    SuperResolveBicubic,
    Then,
)

RNG = np.random.default_rng(0)
Y = RNG.uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)


def load(path, family, sigma_y=0.1, *, channels=1, multiple=1, **changes) -> Measured:
    config = SampleConfig(
        "prior", SyntheticData(), family, DPSConfig(), "out", sigma_y, observations=path, **changes
    )
    return load_measurements(config, NetworkShape(channels, multiple))


def saved(tmp_path, **arrays):
    path = tmp_path / "observations.npz"
    np.savez(path, **arrays)
    return str(path)


def test_measurements_are_taken_as_they_are(tmp_path):
    x_0 = RNG.uniform(-1, 1, Y.shape)
    measured = load(saved(tmp_path, y=Y, x_0=x_0), Denoise(), 0.1)
    np.testing.assert_array_equal(measured.problems.y, Y)
    np.testing.assert_allclose(measured.x_0, x_0, rtol=1e-6)
    np.testing.assert_allclose(measured.problems.sigma_y, [0.1] * 3, rtol=1e-6)
    assert measured.names == [f"observation-{i:05d}" for i in range(3)]
    assert load(saved(tmp_path, y=Y), Denoise(), 0.1).x_0 is None


@pytest.mark.parametrize("stacked", [False, True])
def test_the_given_kernel_blurs(tmp_path, stacked):
    kernels = RNG.uniform(size=(3, 5, 5)).astype(np.float32)
    kernels /= kernels.sum((1, 2), keepdims=True)
    given = kernels if stacked else kernels[0]
    measured = load(saved(tmp_path, y=Y, kernel=given), MotionBlur(size=3), 0.1)
    np.testing.assert_array_equal(
        measured.problems.operator.kernel, kernels if stacked else [kernels[0]] * 3
    )


def test_the_given_mask_hides(tmp_path):
    mask = RNG.uniform(size=(3, 8, 8, 1)) < 0.5
    measured = load(saved(tmp_path, y=Y, mask=mask), RandomPixels(), 0.1)
    np.testing.assert_array_equal(measured.problems.y, np.where(mask, Y, 0))
    np.testing.assert_array_equal(measured.problems.operator.mask, mask)


def test_fixed_operators_need_no_arrays(tmp_path):
    path = saved(tmp_path, y=Y)
    assert load(path, SuperResolve(2), 0.1).image_shape == (16, 16, 1)
    box = load(path, CentreBox(0.5), 0.1).problems.operator
    assert box.mask.shape == (3, 8, 8, 1) and np.all(np.sum(box.mask, axis=(1, 2, 3)) == 48)
    assert load(path, GaussianBlur(5, 1.0), 0.1).image_shape == (8, 8, 1)


def test_a_folder_of_images(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("b", "a"):
        Image.fromarray(pixels if name == "a" else pixels[::-1]).save(tmp_path / f"{name}.png")
    measured = load(str(tmp_path), Denoise(), 0.1)
    assert measured.names == ["a.png", "b.png"]
    np.testing.assert_allclose(measured.problems.y[0, ..., 0], pixels / 127.5 - 1, atol=1e-6)


def test_the_noise_of_each_file_is_estimated_with_its_own_grey_levels(tmp_path):
    noise = np.random.default_rng(0).standard_normal((2, 64, 64))
    coarse = np.round(127.5 * (1 + 0.02 * noise[0])).astype(np.uint8)
    fine = np.round(32767.5 * (1 + 0.0005 * noise[1])).astype(np.uint16)
    Image.fromarray(coarse).save(tmp_path / "coarse.png")
    Image.fromarray(fine).save(tmp_path / "fine.png")
    found = load(str(tmp_path), Denoise(), "estimate").problems.sigma_y
    np.testing.assert_allclose(found, [0.02, 0.0005], rtol=0.1)


CS = {
    "y": np.zeros((1, 16, 1)),
    "order": np.arange(64),
    "rows": np.arange(16),
}
MASK = np.arange(64).reshape(8, 8, 1) % 3 > 0
TWO = np.stack([np.ones((3, 3)) / 9, np.ones((3, 3)) / 9, np.full((3, 3), 2 / 9)])
HOLE = Y.copy()
HOLE[1, 2, 3, 0] = np.nan


@pytest.mark.parametrize(
    "family,arrays,words",
    [
        (Denoise(), {"y": HOLE}, r"y: got nan at \(1, 2, 3, 0\)"),
        (Denoise(), {"x": Y}, "with \\['x'\\]"),
        (Denoise(), {"y": Y[..., 0]}, "give images"),
        (Denoise(), {"y": (127 * Y).astype(np.int64)}, "y of int64; save it with 8 or 16 bits"),
        (CompressedSensing(), CS | {"y": np.zeros((1, 16, 1), np.uint8)}, "y: got dtype uint8"),
        (Denoise(), {"y": Y, "mask": np.ones((8, 8, 1))}, 'array "mask"; give only y, x_0'),
        (Denoise(), {"y": Y, "x_0": Y[:, :4]}, "x_0: got shape"),
        (MotionBlur(3), {"y": Y}, "no kernel"),
        (MotionBlur(3), {"y": Y, "kernel": np.ones((2, 3, 3))}, "kernel: got shape"),
        (MotionBlur(3), {"y": Y, "kernel": np.ones((4, 4))}, "kernel: got the sum 16; divide it"),
        (MotionBlur(3), {"y": Y, "kernel": -np.ones((3, 3)) / 9}, "kernel: got the sum -1;"),
        (MotionBlur(3), {"y": Y, "kernel": TWO}, "kernel: got the sum 2;"),
        (
            Then(MotionBlur(3), SuperResolve(2)),
            {"y": Y[:, :4, :4], "first/kernel": np.ones((3, 3))},
            "first/kernel: got the sum 9;",
        ),
        (CompressedSensing(), CS | {"order": np.arange(64) + 0.5}, "order: got .* fractions"),
        (RandomPixels(), {"y": Y, "mask": np.ones((8, 8))}, "mask: got shape"),
        (RandomPixels(), {"y": Y, "mask": np.ones((4, 4, 1))}, "mask: got shape"),
        (RandomPixels(), {"y": Y, "mask": np.full((8, 8, 1), 255)}, "mask: got values from 255"),
        (Denoise(), {"y": Y, "x_0": np.full(Y.shape, 200)}, "x_0 of int64"),
        (Denoise(), {"y": Y, "x_0": Y + 0j}, "x_0 of complex64"),
        (Denoise(), {"y": Y, "x_0": (Y + 1) / 2}, "x_0: got .*--value-range 0 1"),
        (Denoise(), {"y": (Y + 1) / 2}, "y: got .*--value-range 0 1"),
        (RandomPixels(), {"y": (Y + 1) / 2, "mask": MASK}, "y: got .*--value-range 0 1"),
        (RandomPixels(), {"y": Y, "mask": np.ones((8, 8, 1))}, "mask: got ones alone"),
        (Denoise(), {"y": Y[:0]}, "y of shape"),
        (Denoise(), {"y": 100 * Y}, "give that of images"),
        (CompressedSensing(), CS | {"order": np.arange(60)}, "order: got shape"),
        (CompressedSensing(), CS | {"order": np.zeros(64, int)}, "order: got shape"),
        (CompressedSensing(), CS | {"rows": np.arange(16) + 60}, "rows: got 16 numbers"),
        (Compressed((5, 50)), {"y": Y, "quality": np.array(0.0)}, "quality: got 0"),
        (HighDynamicRange((1.0, 2.0)), {"y": Y, "gain": np.array(-1.0)}, "gain: got -1"),
        (MotionBlur(3), {"y": Y, "kernel": np.zeros((3, 3))}, "kernel: got the sum 0;"),
        (MotionBlur(3), {"y": Y, "kernel": np.ones((9, 9)) / 81}, "kernel size: got 9"),
        (MotionBlur(3), {"y": Y, "kernel": 1j * np.ones((3, 3))}, "kernel: got dtype complex"),
        (Several(), {"y": np.zeros((1, 80)), "parts/1/mask": np.zeros((8, 8, 1))}, "mask: got"),
        (RandomPixels(), {"y": Y, "mask": np.zeros((8, 8, 1))}, "mask: got values from 0.0 to 0.0"),
        (RandomPixels(), {"y": Y, "mask": np.full((8, 8, 1), "a")}, "mask: got dtype"),
        (Denoise(), {"y": Y + 1j}, "y: got dtype complex64; give what this operator measures"),
        (FourierLines(), {"y": Y, "mask": np.ones((8, 8, 1))}, "y: got dtype float32"),
        (CompressedSensing(), {"y": Y[..., 0]}, "--image-shape H W C"),
        (GaussianBlur(21), {"y": Y}, "kernel size: got 21"),
        (Colorization(), {"y": np.tile(Y, 3)}, "y: got shape"),
        (
            RandomPixels(),
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
            load(str(path), Denoise(), 0.1)


def test_families_tell_the_image_behind_a_measurement():
    assert SuperResolve(3).image_shape((4, 5, 1)) == (12, 15, 1)
    assert SuperResolveBicubic(3).image_shape((4, 5, 1)) == (12, 15, 1)
    assert Colorization().image_shape((4, 5, 1)) == (4, 5, 3)
    assert PhaseRetrieval(2.0).image_shape((64, 80, 3)) == (32, 40, 3)
    assert Then(GaussianBlur(5), SuperResolve(2)).image_shape((4, 5, 1)) == (8, 10, 1)
    assert HighDynamicRange().image_shape((4, 5, 1)) == (4, 5, 1)
    assert CompressedSensing().image_shape((4, 1)) is None
    assert Several().image_shape((40,)) is None


def test_measurements_that_are_no_images(tmp_path):
    order, rows = RNG.permutation(64), RNG.permutation(64)[:16]
    y = RNG.normal(size=(2, 16, 1)).astype(np.float32)
    path = saved(tmp_path, y=y, order=order, rows=rows)
    measured = load(path, CompressedSensing(0.25), image_shape=(8, 8, 1))
    np.testing.assert_array_equal(measured.problems.operator.rows, [rows] * 2)
    assert measured.image_shape == (8, 8, 1)
    with pytest.raises(UserError, match="no order of the operator|no rows of the operator"):
        load(saved(tmp_path, y=y), CompressedSensing(0.25), image_shape=(8, 8, 1))
    mask = np.zeros((8, 8, 1), bool)
    mask[:, :3] = True
    spectrum = (RNG.normal(size=Y.shape) + 1j).astype(np.complex64)
    measured = load(saved(tmp_path, y=spectrum, mask=mask), FourierLines())
    np.testing.assert_array_equal(measured.problems.y, np.where(mask, spectrum, 0))
    both = Several((SuperResolve(2), RandomPixels()))
    y = RNG.uniform(-1, 1, (2, 16 + 64)).astype(np.float32)
    path = saved(tmp_path, y=y, **{"parts/1/mask": mask})
    measured = load(path, both, image_shape=(8, 8, 1))
    np.testing.assert_array_equal(measured.problems.operator.parts[1].mask, [mask] * 2)


def test_measurements_in_other_units_than_images(tmp_path):
    white = np.ones((1, 32, 32, 1), np.float32)
    mask = np.ones((32, 32, 1))
    spectrum = np.fft.fft2(white, axes=(1, 2), norm="ortho").astype(np.complex64)
    assert np.abs(spectrum).max() > 30
    load(saved(tmp_path, y=spectrum, mask=mask), FourierLines())
    with pytest.raises(UserError, match="y: got values up to 4080"):
        load(saved(tmp_path, y=127.5 * spectrum, mask=mask), FourierLines())


def test_photons_come_from_light(tmp_path):
    for family, arrays in (
        (CompressedSensing(), CS),
        (FourierLines(), {"y": Y + 0j, "mask": np.ones((8, 8, 1))}),
    ):
        shape = (8, 8, 1)
        with pytest.raises(UserError, match="poisson_peak: got .* with y") as caught:
            load(saved(tmp_path, **arrays), family, poisson_peak=9.0, image_shape=shape)
        assert "does not measure light" in str(caught.value)


def test_a_folder_of_16_bits_and_sizes(tmp_path):
    for name, width in (("a", 8), ("b", 8), ("c", 9)):
        Image.fromarray(np.full((8, width), 40_000, np.uint16)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"c.png of shape \(8, 9, 1\); give images of one shape"):
        load(str(tmp_path), Denoise())
    (tmp_path / "c.png").unlink()
    measured = load(str(tmp_path), Denoise())
    np.testing.assert_allclose(measured.problems.y, 40_000 / 32767.5 - 1, atol=1e-6)
    assert measured.names == ["a.png", "b.png"]


def test_jpeg_of_a_colour_image_needs_a_prior_of_colours(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "mine.jpg")
    load(str(tmp_path / "mine.jpg"), Compressed(75), channels=3)
    for family in (Compressed(75), Then(GaussianBlur(3, 1.0), Compressed(75))):
        with pytest.raises(UserError, match="JPEG mixes the channels"):
            load(str(tmp_path / "mine.jpg"), family, channels=1)


def test_sides_that_the_network_does_not_take_get_room(tmp_path):
    measured = load(saved(tmp_path, y=Y[:, :, :6]), GaussianBlur(3, 1.0), multiple=8)
    operator = measured.problems.operator
    assert measured.image_shape == (8, 8, 1) and isinstance(operator, Cropped)
    assert isinstance(operator, LinearOperator) and operator.corner == (0, 1)
    x = RNG.uniform(-1, 1, (2, 8, 8, 1))
    np.testing.assert_array_equal(measured.shown(x), x[:, :, 1:7])
    assert not np.any(measured.problems.x_pinv[:, :, [0, 7]])
    with pytest.raises(UserError, match="x_0: got shape .* sides 8 x 8 only"):
        load(saved(tmp_path, y=Y[:, :, :6], x_0=Y[:, :, :6]), Denoise(), multiple=8)
    same = load(saved(tmp_path, y=Y), Denoise(), multiple=8)
    assert not isinstance(same.problems.operator, Cropped)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [True, False])
def test_one_image_file(tmp_path, channels, grey):
    pixels = RNG.integers(0, 256, (8, 10, 3), np.uint8)
    pixels = pixels[..., 0] if grey else pixels
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    family = SuperResolve(2)
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
    found = load(path, Denoise(), "estimate").problems.sigma_y
    np.testing.assert_allclose(found, [0.02, 0.2], rtol=0.06)
    counted = load(path, Denoise(), poisson_peak=50.0).problems
    assert isinstance(counted.noise, PoissonNoise)
    np.testing.assert_allclose(counted.noise.peak, [50, 50])
    # sqrt of the mean count, 17.5, in units of 25 photons.
    np.testing.assert_allclose(counted.sigma_y, 17.5**0.5 / 25, rtol=0.05)
    hidden = np.zeros((192, 192, 1))
    hidden[:, :120] = 1
    path = saved(tmp_path, y=y.astype(np.float32), mask=hidden)
    found = load(path, RandomPixels(), "estimate").problems.sigma_y
    np.testing.assert_allclose(found, [0.02, 0.2], rtol=0.08)
    with pytest.raises(UserError, match="sigma_y: got estimate"):
        white = saved(tmp_path, y=np.ones((1, 8, 8, 1), np.float32))
        load(white, Denoise(), "estimate", value_range=(-1, 1))


# ---- Numbers of black and white ----


@pytest.mark.parametrize("unit,given", [((0, 1), (0, 1)), ((0, 255), None), ((-3, 9), (-3, 9))])
@pytest.mark.parametrize(
    "family,arrays",
    [
        (Denoise(), {}),
        (RandomPixels(), {"mask": MASK}),
        (GaussianBlur(5, 1.0), {}),
        (SuperResolve(2), {}),
        (Compressed(75), {}),
    ],
)
def test_images_in_other_numbers(tmp_path, unit, given, family, arrays):
    """Both the measurement and the clean image of a .npz file."""
    kind = np.float32 if given else np.uint8
    u = np.random.default_rng(2).uniform(*unit, Y.shape).astype(kind)
    expected = 2 * (u.astype(np.float64) - unit[0]) / (unit[1] - unit[0]) - 1
    x_0 = {} if isinstance(family, SuperResolve) else {"x_0": u}
    measured = load(saved(tmp_path, y=u, **arrays, **x_0), family, value_range=given)
    np.testing.assert_allclose(
        measured.problems.y, np.where(arrays.get("mask", True), expected, 0), atol=1e-5
    )
    if x_0:
        np.testing.assert_allclose(measured.x_0, expected, atol=1e-5)
    (note,) = measured.notes
    assert note.startswith(f"observations: numbers of images with black at {unit[0]} and white at")


def test_linear_measurements_of_images_in_other_numbers(tmp_path):
    """What is no image is converted as the linear map says, and nothing else is."""
    u = RNG.uniform(0, 255, (3, 8, 8, 1)).astype(np.float32)
    x = u / 127.5 - 1
    both = Several((SuperResolve(2), RandomPixels()))
    for family, arrays in (
        (FourierLines(), {"mask": MASK}),
        (CompressedSensing(0.25), {name: CS[name] for name in ("order", "rows")}),
        (both, {"parts/1/mask": MASK}),
    ):
        probe = saved(tmp_path, y=_measure(tmp_path, family, arrays, x), **arrays)
        expected = load(probe, family, image_shape=(8, 8, 1)).problems.y
        path = saved(tmp_path, y=_measure(tmp_path, family, arrays, u), **arrays)
        found = load(path, family, image_shape=(8, 8, 1), value_range=(0, 255)).problems.y
        np.testing.assert_allclose(found, expected, atol=1e-4)
    magnitudes = RNG.uniform(size=(1, 16, 16, 1))
    with pytest.raises(UserError, match="value_range: got .0.0, 255.0.; give y of this Fourier"):
        load(saved(tmp_path, y=magnitudes), PhaseRetrieval(2.0), value_range=(0.0, 255.0))
    assert load(saved(tmp_path, y=magnitudes), PhaseRetrieval(2.0)).image_shape == (8, 8, 1)


def _measure(tmp_path, family, arrays, x):
    """A x for the operator that these arrays give."""
    shape = jax.eval_shape(family.draw(jax.random.key(0), (8, 8, 1)).forward, x[0])
    y = np.zeros((len(x), *shape.shape), shape.dtype)
    operators = load(saved(tmp_path, y=y, **arrays), family, image_shape=(8, 8, 1)).problems
    return np.asarray(jax.vmap(lambda operator, x: operator.forward(x))(operators.operator, x))


def test_counts_of_photons_are_numbers_from_0_to_the_peak(tmp_path):
    counts = RNG.poisson(20, Y.shape).astype(np.float32)
    path = saved(tmp_path, y=counts)
    found = load(path, Denoise(), poisson_peak=30.0, value_range=(0, 30)).problems
    np.testing.assert_allclose(found.y, 2 * counts / 30 - 1, atol=1e-6)


def test_a_constant_tells_its_range_only_where_it_is_dark(tmp_path):
    load(saved(tmp_path, y=np.full((1, 8, 8, 1), -0.5, np.float32)), Denoise())
    with pytest.raises(UserError, match="numbers from 0.5 to 0.5; say which numbers are black"):
        load(saved(tmp_path, y=np.full((1, 8, 8, 1), 0.5, np.float32)), Denoise())


@pytest.mark.parametrize("folder", [True, False])
def test_files_of_floats_in_other_numbers(tmp_path, folder):
    u = RNG.uniform(0, 1, (8, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", u)
    path = str(tmp_path if folder else tmp_path / "a.npy")
    with pytest.raises(UserError, match="a.npy with numbers from .*--value-range 0 1"):
        load(path, Denoise())
    measured = load(path, Denoise(), value_range=(0, 1))
    np.testing.assert_allclose(measured.problems.y[0, ..., 0], 2 * u - 1, atol=1e-6)


def test_nearly_black_measurements_are_told(tmp_path):
    twelve = RNG.integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(twelve).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert "nearly black" in load(path, Denoise()).notes[1]
    measured = load(path, Denoise(), value_range=(0, 4095))
    assert len(measured.notes) == 1
    np.testing.assert_allclose(measured.problems.y[0, ..., 0], twelve / 2047.5 - 1, atol=1e-6)


def test_a_range_needs_measurements():
    for words, changes in (("give --observations", {}), ("got .1, 0.", {"observations": "a.png"})):
        given = (0, 1) if not changes else (1, 0)
        with pytest.raises(UserError, match=f"value_range: .*{words}"):
            SampleConfig("prior", SyntheticData(), Denoise(), DPSConfig(), "out", 0.1,
                         value_range=given, **changes)  # fmt: skip


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("shape", [(5, 5, 1), (4, 4), (3, 5), (2, 5, 1)])
def test_kernels_of_other_shapes(tmp_path, stacked, shape):
    """With a last axis of one; and even or oblong, with the centre at k // 2."""
    kernel = RNG.uniform(size=shape)
    kernel /= kernel.sum()
    given = np.stack([kernel] * 3) if stacked else kernel
    found = load(saved(tmp_path, y=Y, kernel=given), MotionBlur(3)).problems.operator
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
    assert load(str(tmp_path / "given"), Denoise()).names == ["a.png", "link/b.png"]
    assert caplog.messages == ["observations: 1 file of other kinds left out: c.heic"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_photo_stored_in_colours_is_grey(tmp_path, channels):
    grey = np.repeat(RNG.integers(0, 256, (8, 8, 1), np.uint8), 3, axis=-1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    measured = load(str(tmp_path / "grey.png"), Denoise(), channels=channels)
    assert measured.names == ["grey"] and measured.problems.y.shape == (1, 8, 8, 1)
    x = RNG.uniform(-1, 1, (1, 2, 8, 8, channels))
    np.testing.assert_allclose(measured.joined(x), x[0].mean(-1, keepdims=True))


def test_a_folder_of_colour_images_is_restored_channel_by_channel(tmp_path):
    for name in ("a", "b"):
        pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    measured = load(str(tmp_path), Denoise(), channels=1)
    assert measured.names[3:] == ["b.png-red", "b.png-green", "b.png-blue"]
    assert measured.pictures() == [("a.png", slice(0, 3)), ("b.png", slice(3, 6))]
    np.testing.assert_allclose(
        measured.joined(np.asarray(measured.problems.y[3:])), measured.files[1].pixels
    )
