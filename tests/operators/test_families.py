"""Random operators obey the settings of their family and can be drawn inside jit and vmap."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operator_cases import LINEAR, NONLINEAR, is_random

from lavps_jax.errors import UserError
from lavps_jax.operators import Inpainting, families

X_SHAPE = (12, 20, 3)
FAMILIES = [*LINEAR, *NONLINEAR]


def stack(family, num_draws, x_shape=X_SHAPE):
    keys = jax.random.split(jax.random.key(1), num_draws)
    return jax.jit(jax.vmap(lambda key: family.draw(key, x_shape)))(keys)


@functools.partial(jax.jit, static_argnums=0)
def draw(family, rng_key):
    return family.draw(rng_key, X_SHAPE)


@jax.jit
def forward(operator, x):
    return operator.forward(x)


@jax.jit
def forward_of_each(operators, x):
    return jax.vmap(lambda operator, x: operator.forward(x))(operators, x)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_draws_stack_under_vmap_and_equal_a_loop(family):
    stacked = stack(family, 3)
    x = jax.random.normal(jax.random.key(2), (3, *X_SHAPE))
    y = np.asarray(forward_of_each(stacked, x))
    keys = jax.random.split(jax.random.key(1), 3)
    for index, key in enumerate(keys):
        operator = draw(family, key)
        assert jax.tree.structure(operator) == jax.tree.structure(stacked)
        assert y[index].shape == operator.y_shape
        np.testing.assert_allclose(y[index], forward(operator, x[index]), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_only_random_families_depend_on_the_key(family):
    first, second = (jax.tree.leaves(draw(family, jax.random.key(k))) for k in (0, 1))
    equal = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert equal != is_random(family)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_families_are_hashable_and_frozen(family):
    assert hash(family) == hash(dataclasses.replace(family))
    assert family == dataclasses.replace(family)
    for field in dataclasses.fields(family):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(family, field.name, 1)


def test_random_box_sides_and_corners():
    height, width = 20, 30
    masks = np.asarray(stack(families.RandomBox(0.4, 0.6), 300, (height, width, 3)).mask)
    assert masks.shape == (300, height, width, 1)
    assert set(np.unique(masks)) == {0.0, 1.0}
    sides, corners = [], []
    for mask in masks[..., 0]:
        rows, columns = np.nonzero(mask == 0)
        box = (np.ptp(rows) + 1, np.ptp(columns) + 1)
        assert len(rows) == box[0] * box[1]  # a full rectangle
        sides.append(box)
        corners.append((rows.min(), columns.min()))
    sides, corners = np.array(sides), np.array(corners)
    assert set(sides[:, 0]) == set(range(8, 13))
    assert set(sides[:, 1]) == set(range(12, 19))
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.2  # drawn separately
    last = corners + sides
    assert corners.min(0).tolist() == [0, 0] and last.max(0).tolist() == [height, width]
    # A uniform corner leaves the box in the middle on average.
    middle = np.mean(corners + sides / 2, axis=0)
    np.testing.assert_allclose(middle, [height / 2, width / 2], rtol=0.06)


def test_centre_box_is_centred():
    mask = np.asarray(families.CentreBox(0.5).draw(jax.random.key(0), X_SHAPE).mask)[..., 0]
    expected = np.ones((12, 20))
    expected[3:9, 5:15] = 0
    np.testing.assert_array_equal(mask, expected)


def test_random_pixels_observe_the_asked_fraction():
    family = families.RandomPixels(0.15, 0.2)
    operators = stack(family, 200, (32, 32, 3))
    masks = np.asarray(operators.mask)
    assert masks.shape == (200, 32, 32, 1)
    assert set(np.unique(masks)) == {0.0, 1.0}
    fractions = masks.mean(axis=(1, 2, 3))
    five_std = 5 * np.sqrt(0.2 * 0.8 / 1024)
    assert np.all(fractions > 0.15 - five_std) and np.all(fractions < 0.2 + five_std)
    assert np.mean(fractions) == pytest.approx(0.175, abs=0.005)
    # The probability itself varies: variance of a uniform on the range plus that of the pixels.
    expected = 0.05**2 / 12 + 0.175 * 0.825 / 1024
    assert np.var(fractions) == pytest.approx(expected, rel=0.35)
    # Every place is as likely as any other.
    assert np.max(np.abs(masks.mean(axis=(0, 3)) - 0.175)) < 5 * np.sqrt(0.175 * 0.825 / 200)
    observed = jax.vmap(lambda operator: operator.num_observed())(operators)
    np.testing.assert_allclose(observed, 3 * masks.sum(axis=(1, 2, 3)))


def test_random_pixels_always_observe_one():
    masks = np.asarray(stack(families.RandomPixels(1e-9, 1e-9), 20, (8, 8, 1)).mask)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2, 3)), 1)


def test_a_range_is_drawn_evenly_and_a_number_is_kept():
    gains = np.asarray(stack(families.HighDynamicRange((1.5, 3.5)), 400).gain)
    assert 1.5 <= gains.min() < 1.52 and 3.48 < gains.max() <= 3.5
    assert abs(gains.mean() - 2.5) < 5 * 2 / 12**0.5 / 20
    assert set(np.asarray(stack(families.HighDynamicRange(2.5), 3).gain)) == {2.5}
    qualities = np.asarray(stack(families.JPEG((10, 12)), 200).quality)
    assert set(qualities) == {10, 11, 12}
    # Along the columns, the second axis: 0 degrees; across them: 90.
    for angle, axis in ((0.0, 0), (90.0, 1)):
        kernel = np.asarray(
            draw(families.AnisotropicBlur(9, 2.0, 0.5, angle), jax.random.key(0)).kernel
        )
        assert kernel.max(axis=axis).min() > 20 * kernel.max(axis=1 - axis).min()


def test_a_disc_out_of_focus_is_even_and_has_the_area_of_its_radius():
    kernel = np.asarray(draw(families.DefocusBlur(11, 4.0), jax.random.key(0)).kernel)
    distance = np.hypot(*np.mgrid[-5:6, -5:6])
    assert np.ptp(kernel[distance < 3.5]) == 0 and not np.any(kernel[distance > 4.5])
    np.testing.assert_allclose(1 / kernel[5, 5], np.pi * 4**2, rtol=0.02)


def test_noise_only_counts_where_observed():
    operator = families.RandomBox().draw(jax.random.key(0), X_SHAPE)
    noise = jax.random.normal(jax.random.key(1), X_SHAPE)
    projected = np.asarray(operator.project(noise))
    hole = np.broadcast_to(np.asarray(operator.mask) == 0, X_SHAPE)
    assert np.all(projected[hole] == 0)
    np.testing.assert_array_equal(projected[~hole], np.asarray(noise)[~hole])
    assert operator.num_observed() == np.sum(~hole)
    blur = families.GaussianBlur(9, 1.5).draw(jax.random.key(0), X_SHAPE)
    np.testing.assert_array_equal(blur.project(noise), noise)
    assert blur.num_observed() == noise.size


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: families.RandomBox(0.0, 0.5), "min_fraction"),
        (lambda: families.RandomBox(0.4, 1.0), "max_fraction"),
        (lambda: families.RandomBox(0.6, 0.4), "min_fraction"),
        (lambda: families.CentreBox(1.5), "fraction"),
        (lambda: families.RandomPixels(-0.1, 0.5), "min_observed"),
        (lambda: families.RandomPixels(0.3, 0.2), "min_observed"),
        (lambda: families.SuperResolution(1), "factor"),
        (lambda: families.SuperResolution(5).draw(jax.random.key(0), X_SHAPE), "factor"),
        (lambda: families.MotionBlur(20, 0.5), "kernel size"),
        (lambda: families.MotionBlur(21, 1.5), "intensity"),
        (lambda: families.MotionBlur(25, 0.5).draw(jax.random.key(0), X_SHAPE), "kernel size"),
        (lambda: families.GaussianBlur(4, 1.0), "kernel size"),
        (lambda: families.GaussianBlur(5, 0.0), "std"),
        (lambda: families.GaussianBlur(5, (2.0, 1.0)), "std"),
        (lambda: families.MotionBlur(5, (0.5, 1.5)), "intensity"),
        (lambda: families.JPEG((0, 50)), "quality"),
        (lambda: families.AnisotropicBlur(5, 2.0, 1.0, (0.0, 400.0)), "angle"),
        (lambda: families.DefocusBlur(5, 3.0), "radius"),
        # `Blur` could mirror the border that far; the kernel is larger than the image all the same.
        (lambda: families.GaussianBlur(13, 1.0).draw(jax.random.key(0), X_SHAPE), "kernel size"),
    ],
)
def test_settings_out_of_range_are_refused(make, field):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.field == field


@pytest.mark.parametrize("shape", [X_SHAPE, (12, 20), (20, 12, 1), (4, 12, 20, 3)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(UserError, match="mask"):
        Inpainting(jnp.ones(shape), x_shape=X_SHAPE)


@pytest.mark.parametrize("values,words", [(1, "ones alone"), (0, "values from"), (255, "values")])
def test_a_mask_that_hides_nothing_or_has_other_values_is_refused(values, words):
    mask = jnp.full((*X_SHAPE[:2], 1), float(values))
    with pytest.raises(UserError, match=f"mask: got {words}"):
        Inpainting(mask, x_shape=X_SHAPE)


def test_random_pixels_always_hide_one_and_show_one():
    for low, high in ((0.001, 0.002), (0.998, 0.999)):
        family = families.RandomPixels(low, high)
        for seed in range(20):
            mask = family.draw(jax.random.key(seed), (2, 2, 1)).mask
            assert 0 < jnp.sum(mask) < 4


def test_a_family_knows_what_it_includes():
    wide = families.MotionBlur(31, intensity=(0.3, 1.0), extent=(0.2, 1.0))
    mixed = families.Mixture((wide, families.RandomPixels(0.05, 0.5), families.RandomBox(0.2, 0.6)))
    stack = families.Stack((families.SuperResolution(2), families.RandomPixels()))
    for inside in (
        families.MotionBlur(31, intensity=0.5),
        families.MotionBlur(31, intensity=(0.5, 0.7), extent=0.2),
        families.RandomPixels(0.3, 0.3),
        families.RandomBox(0.3, 0.5),
        mixed,
    ):
        assert mixed.includes(inside) and inside.includes(inside)
    for outside in (
        families.MotionBlur(21, intensity=0.5),
        families.MotionBlur(31, intensity=(0.2, 0.7)),
        families.MotionBlur(31, 0.5, extent=0.1),
        families.MotionBlur(31, 0.5, border="circular"),
        families.NonlinearBlur(31, 0.5),
        families.RandomPixels(0.3, 0.6),
        families.RandomBox(0.1, 0.5),
        families.SuperResolution(2),
        stack,
    ):
        assert not mixed.includes(outside)
    assert stack.includes(stack)
    assert not stack.includes(families.Stack((families.SuperResolution(4), families.Identity())))
