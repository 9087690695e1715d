"""Operators made of operators do what their parts do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.operators import (
    Brightness,
    LinearOperator,
    SuperResolution,
    compose,
    families,
    one_of,
    stack,
)

X_SHAPE = (8, 12, 3)
X = jax.random.normal(jax.random.key(0), X_SHAPE)


def test_composition_is_one_after_the_other():
    blur = families.GaussianBlur(5, 1.0).draw(jax.random.key(0), X_SHAPE)
    both = compose(blur, SuperResolution(2, x_shape=X_SHAPE))
    expected = SuperResolution(2, x_shape=X_SHAPE).forward(blur.forward(X))
    np.testing.assert_allclose(both.forward(X), expected, atol=1e-6)
    assert isinstance(both, LinearOperator)
    clipped = compose(blur, families.HighDynamicRange().draw(jax.random.key(0), X_SHAPE))
    assert not isinstance(clipped, LinearOperator)
    np.testing.assert_allclose(clipped.forward(X), jnp.clip(2 * blur.forward(X), -1, 1), atol=1e-6)


def test_stack_keeps_every_measurement():
    small = SuperResolution(4, x_shape=X_SHAPE)
    pixels = families.RandomPixels().draw(jax.random.key(1), X_SHAPE)
    lines = families.FourierLines().draw(jax.random.key(2), X_SHAPE)
    all_three = stack(small, pixels, lines)
    y = all_three.forward(X)
    assert y.dtype == jnp.float32 and y.shape == (2 * 3 * 3 + 8 * 12 * 3 + 2 * 8 * 12 * 3,)
    for part, one in zip((small, pixels, lines), all_three.measurements(y), strict=True):  # type: ignore[attr-defined]
        np.testing.assert_allclose(one, part.forward(X), atol=1e-6)
    observed = sum(float(part.num_observed()) for part in (small, pixels, lines))
    assert float(all_three.num_observed()) == observed


def test_a_batch_holds_different_operators():
    family = families.Mixture(
        (families.RandomPixels(), families.SuperResolution(2), families.FourierLines()),
        (1.0, 2.0, 1.0),
    )
    keys = jax.random.split(jax.random.key(3), 200)
    drawn = jax.jit(jax.vmap(lambda key: family.draw(key, X_SHAPE)))(keys)
    counts = np.bincount(np.asarray(drawn.which), minlength=3)
    np.testing.assert_allclose(counts / 200, [0.25, 0.5, 0.25], atol=0.11)
    one_of_each = [int(np.flatnonzero(drawn.which == k)[0]) for k in range(3)]
    few = jax.tree.map(lambda leaf: leaf[np.array(one_of_each)], drawn)
    together = jax.vmap(lambda operator: operator.forward(X))(few)
    assert together.shape == (3, 2 * 8 * 12 * 3)
    for k, y in enumerate(together):
        choice = jax.tree.map(lambda leaf, k=k: leaf[k], few.choices[k])
        alone = choice.forward(X)
        flat = np.ravel(alone)
        if np.iscomplexobj(flat):
            flat = np.concatenate([flat.real, flat.imag])
        np.testing.assert_allclose(y[: len(flat)], flat, atol=1e-6)
        assert not np.any(y[len(flat) :])
    observed = jax.vmap(lambda operator: operator.num_observed())(few)
    assert float(observed[1]) == 4 * 6 * 3


def test_operators_that_differ_in_their_arrays_alone_are_one_choice():
    kinds = (
        families.RandomPixels(),
        families.MotionBlur(5),
        families.SuperResolution(2),
        families.RandomBox(),
        families.GaussianBlur(5, 1.0),
        families.GaussianBlur(3, 1.0),
    )
    keys = jax.random.split(jax.random.key(4), len(kinds))
    alone = [kind.draw(key, X_SHAPE) for kind, key in zip(kinds, keys, strict=True)]
    assert len(one_of(jnp.asarray(0), *alone).choices) == 4
    each = jax.jit(jax.vmap(lambda which: one_of(which, *alone).forward(X)))
    for y, operator in zip(each(jnp.arange(len(kinds))), alone, strict=True):
        flat = np.ravel(operator.forward(X))
        np.testing.assert_allclose(y[: len(flat)], flat, atol=1e-6)
        assert np.std(flat) > 0.1 and not np.any(y[len(flat) :])


def test_a_mixture_of_operators_that_are_not_linear():
    family = families.Mixture(
        (
            families.HighDynamicRange((1.5, 4.0)),
            families.Composition(families.GaussianBlur(3), families.SuperResolution(2)),
        )
    )
    keys = jax.random.split(jax.random.key(3), 8)
    drawn = jax.vmap(lambda key: family.draw(key, X_SHAPE))(keys)
    assert not isinstance(drawn, LinearOperator) and set(np.asarray(drawn.which)) == {0, 1}
    gains = np.asarray(drawn.choices[0].gain)
    assert np.ptp(gains) > 0.5 and gains.min() >= 1.5 and gains.max() <= 4.0

    @jax.jit
    @jax.vmap
    def back(operator):
        ones = [(o.estimate(o.forward(X), 0.1), o.num_observed()) for o in operator.choices]
        return operator.estimate(operator.forward(X), 0.1), operator.num_observed(), ones

    found, counts, ones = back(drawn)
    for k, which in enumerate(np.asarray(drawn.which)):
        np.testing.assert_allclose(found[k], ones[which][0][k], atol=1e-5)
        assert float(counts[k]) == float(ones[which][1][k])


@pytest.mark.parametrize(
    "make,field",
    [
        (lambda: compose(SuperResolution(2, x_shape=X_SHAPE),
                         SuperResolution(2, x_shape=X_SHAPE)), "first"),
        (lambda: stack(SuperResolution(2, x_shape=X_SHAPE),
                       SuperResolution(2, x_shape=(4, 4, 1))), "parts"),
        (lambda: families.Mixture(()), "operator.families"),
        (lambda: families.Mixture((families.RandomPixels(),), (1.0, 2.0)), "operator.weights"),
        (lambda: families.Mixture((families.RandomPixels(),), (0.0,)), "operator.weights"),
        (lambda: one_of(jnp.asarray(0), SuperResolution(2, x_shape=X_SHAPE),
                        SuperResolution(2, x_shape=(4, 4, 1))), "choices"),
        (lambda: one_of(jnp.asarray(2), *[SuperResolution(2, x_shape=X_SHAPE)] * 2), "which"),
        (lambda: Brightness(jnp.ones(3), x_shape=(4, 4, 1)), "channels of the images"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(make, field):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.field == field
