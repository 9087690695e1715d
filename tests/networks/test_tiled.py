"""Networks on tiles: what acts pixel by pixel, or within the overlap, does not see them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.networks.tiled import TiledModel, Tiles, tiled


class Pointwise:
    """A stand-in for a network: (weights, image, another image, a number) -> two images."""

    def __call__(self, weights, x, other, level, label=None):
        return weights * x + other, x * level


class Neighbours:
    """The mean with the right neighbour, wrapped around the border of what it is given."""

    def __call__(self, weights, x):
        return (x + jnp.roll(x, -1, axis=1)) / 2


def model(kind: Any, side: int, overlap: int) -> TiledModel:
    return TiledModel(kind, Tiles(side, overlap))


X = jax.random.normal(jax.random.key(0), (20, 33, 2))
OTHER = jax.random.normal(jax.random.key(1), (20, 33, 1))


@pytest.mark.parametrize("side,overlap", [(8, 2), (8, 7), (20, 3), (64, 5)])
def test_what_acts_on_pixels_is_unchanged(side, overlap):
    args = (jnp.float32(3.0), X, jnp.tile(OTHER, 2), jnp.float32(0.5))
    expected = Pointwise()(*args)
    found = jax.jit(lambda *args: model(Pointwise(), side, overlap)(*args, label=None))(*args)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_borders_of_tiles_fade_out():
    whole = Neighbours()(None, X)
    blended = model(Neighbours(), 12, 6)(None, X)
    alone = model(Neighbours(), 12, 1)(None, X)
    inner = np.s_[:, :-1]
    errors = [np.abs(one - whole)[inner] for one in (blended, alone)]
    assert errors[0].max() < 0.35 * errors[1].max()
    assert 0 < np.mean(errors[0]) < np.mean(errors[1])


def test_gradients_flow_through_all_tiles():
    gradient = jax.grad(lambda x: jnp.sum(model(Neighbours(), 8, 3)(None, x)))(X)
    assert np.all(np.abs(gradient) > 1e-3)


class Deep:
    """Non-linear, so that a derivative needs what was computed before."""

    def __call__(self, weights, x):
        for _ in range(5):
            x = jnp.tanh(weights * x)
        return x


def test_gradients_of_many_tiles_are_those_of_the_whole():
    def loss(network, weights, x):
        return jnp.sum(network(weights, x) ** 2)

    found, expected = (
        jax.jit(jax.grad(lambda *args, network=network: loss(network, *args), argnums=(0, 1)))(
            jnp.float32(0.7), X
        )
        for network in (model(Deep(), 6, 2), Deep())
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_more_tiles_need_no_larger_program_and_keep_no_more():
    num_lines, kept = [], []
    for side in (32, 128):
        network = model(Deep(), 8, 2)
        x = jax.ShapeDtypeStruct((side, side, 1), jnp.float32)

        def value(x, network=network):
            return network(jnp.float32(2.0), x)

        num_lines.append(len(jax.jit(value).lower(x).as_text().splitlines()))
        backward = jax.eval_shape(lambda x, value=value: jax.vjp(value, x)[1], x)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(backward)) / side**2)
    assert num_lines[0] == num_lines[1]
    # The image and the sum of the weights; each layer on all tiles would be 1.7 images more.
    assert max(kept) < 2.5


def test_tiles_that_cannot_be():
    assert tiled(Pointwise(), None).__class__ is Pointwise  # type: ignore[arg-type]
    for side, overlap, field in ((8, 0, "tile_overlap"), (8, 8, "tile_overlap"), (1, 1, "tile")):
        with pytest.raises(UserError) as error:
            Tiles(side, overlap)
        assert error.value.field == field
