"""Which numbers of given measurements are black and white."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from given_arrays import CS, MASK, load, saved
from given_arrays import given as measurements
from PIL import Image

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.operators import families
from lavps_jax.samplers import DPS

RNG = np.random.default_rng(0)
Y = RNG.uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)


@pytest.mark.parametrize("unit,given", [((0, 1), (0, 1)), ((0, 255), None), ((-3, 9), (-3, 9))])
@pytest.mark.parametrize(
    "family,arrays",
    [
        (families.Identity(), {}),
        (families.RandomPixels(), {"mask": MASK}),
        (families.GaussianBlur(5, 1.0), {}),
        (families.SuperResolution(2), {}),
        (families.JPEG(75), {}),
    ],
)
def test_images_in_other_numbers(tmp_path, unit, given, family, arrays):
    """Both the measurement and the clean image of a .npz file."""
    kind = np.float32 if given else np.uint8
    u = np.random.default_rng(2).uniform(*unit, Y.shape).astype(kind)
    expected = 2 * (u.astype(np.float64) - unit[0]) / (unit[1] - unit[0]) - 1
    x_0 = {} if isinstance(family, families.SuperResolution) else {"x_0": u}
    found = measurements(saved(tmp_path, y=u, **arrays, **x_0), family, value_range=given)
    measured = found.batch(0)
    np.testing.assert_allclose(
        measured.problems.y, np.where(arrays.get("mask", True), expected, 0), atol=1e-5
    )
    if x_0:
        np.testing.assert_allclose(measured.x_0, expected, atol=1e-5)
    (note,) = found.notes
    assert note.startswith(f"observations: numbers of images with black at {unit[0]} and white at")


def test_linear_measurements_of_images_in_other_numbers(tmp_path):
    """What is no image is converted as the linear map says, and nothing else is."""
    u = RNG.uniform(0, 255, (3, 8, 8, 1)).astype(np.float32)
    x = u / 127.5 - 1
    both = families.Stack((families.SuperResolution(2), families.RandomPixels()))
    for family, arrays in (
        (families.FourierLines(), {"mask": MASK}),
        (families.CompressedSensing(0.25), {name: CS[name] for name in ("order", "rows")}),
        (both, {"parts/1/mask": MASK}),
    ):
        probe = saved(tmp_path, y=_measure(tmp_path, family, arrays, x), **arrays)
        expected = load(probe, family, image_shape=(8, 8, 1)).problems.y
        path = saved(tmp_path, y=_measure(tmp_path, family, arrays, u), **arrays)
        found = load(path, family, image_shape=(8, 8, 1), value_range=(0, 255)).problems.y
        np.testing.assert_allclose(found, expected, atol=1e-4)
    magnitudes = RNG.uniform(size=(1, 16, 16, 1))
    with pytest.raises(UserError, match="value_range: got .0.0, 255.0.; give y of this Fourier"):
        load(saved(tmp_path, y=magnitudes), families.PhaseRetrieval(2.0), value_range=(0.0, 255.0))
    assert load(saved(tmp_path, y=magnitudes), families.PhaseRetrieval(2.0)).image_shape == (
        8,
        8,
        1,
    )


def _measure(tmp_path, family, arrays, x):
    """A x for the operator that these arrays give."""
    shape = jax.eval_shape(family.draw(jax.random.key(0), (8, 8, 1)).forward, x[0])
    y = np.zeros((len(x), *shape.shape), shape.dtype)
    operators = load(saved(tmp_path, y=y, **arrays), family, image_shape=(8, 8, 1)).problems
    forward = jax.jit(jax.vmap(lambda operator, x: operator.forward(x)))
    return np.asarray(forward(operators.operator, x))


def test_counts_of_photons_are_numbers_from_0_to_the_peak(tmp_path):
    counts = RNG.poisson(20, Y.shape).astype(np.float32)
    path = saved(tmp_path, y=counts)
    found = load(path, families.Identity(), poisson_peak=30.0, value_range=(0, 30)).problems
    np.testing.assert_allclose(found.y, 2 * counts / 30 - 1, atol=1e-6)


def test_a_constant_tells_its_range_only_where_it_is_dark(tmp_path):
    load(saved(tmp_path, y=np.full((1, 8, 8, 1), -0.5, np.float32)), families.Identity())
    with pytest.raises(UserError, match="numbers from 0.5 to 0.5; say which numbers are black"):
        load(saved(tmp_path, y=np.full((1, 8, 8, 1), 0.5, np.float32)), families.Identity())


@pytest.mark.parametrize("folder", [True, False])
def test_files_of_floats_in_other_numbers(tmp_path, folder):
    u = RNG.uniform(0, 1, (8, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", u)
    path = str(tmp_path if folder else tmp_path / "a.npy")
    with pytest.raises(UserError, match="a.npy with numbers from .*--value-range 0 1"):
        load(path, families.Identity())
    measured = load(path, families.Identity(), value_range=(0, 1))
    np.testing.assert_allclose(measured.problems.y[0, ..., 0], 2 * u - 1, atol=1e-6)


def test_nearly_black_measurements_are_told(tmp_path):
    twelve = RNG.integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(twelve).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert "nearly black" in measurements(path, families.Identity()).notes[1]
    found = measurements(path, families.Identity(), value_range=(0, 4095))
    assert len(found.notes) == 1
    np.testing.assert_allclose(found.batch(0).problems.y[0, ..., 0], twelve / 2047.5 - 1, atol=1e-6)


def test_a_range_needs_measurements():
    for words, changes in (("give --observations", {}), ("got .1, 0.", {"observations": "a.png"})):
        given = (0, 1) if not changes else (1, 0)
        with pytest.raises(UserError, match=f"value_range: .*{words}"):
            SampleConfig("prior", SyntheticData(), families.Identity(), DPS(), "out", 0.1,
                         value_range=given, **changes)  # fmt: skip
