"""The published networks have the tensors of the published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.io.published import published_name
from lavps_jax.networks import AmortizedNetworkConfig, UNetConfig, split
from lavps_jax.networks.hdit import GlobalAttention, HDiTConfig, LevelConfig, NeighbourhoodAttention
from lavps_jax.networks.sizes import FFHQ256, IMAGENET256, with_degradation
from lavps_jax.networks.tiled import Tiles
from lavps_jax.runs.loading import check_image_shape, network_shape

ROOT = Path(__file__).parents[2]
SHAPES = json.loads((ROOT / "tests/data/golden/state_dict_shapes.json").read_text())
NETWORKS = {
    "ffhq256/prior": ("unet.", FFHQ256),
    "ffhq256/palette": ("residual_nn.", AmortizedNetworkConfig(FFHQ256)),
    "ffhq256/invfussion": ("residual_nn.", AmortizedNetworkConfig(with_degradation(FFHQ256))),
    "imagenet256/prior": ("unet.", IMAGENET256),
    "imagenet256/palette": ("residual_nn.", AmortizedNetworkConfig(IMAGENET256)),
    "imagenet256/invfussion": (
        "residual_nn.",
        AmortizedNetworkConfig(with_degradation(IMAGENET256)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_published_tensor_has_its_place(name):
    prefix, config = NETWORKS[name]
    weights = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[1]
    ours = {}
    for path, variable in nnx.to_flat_state(weights):
        shape = variable.shape[::-1] if path[-1] == "kernel" else variable.shape
        ours[published_name(path, prefix)] = list(shape)
    implied = ("pos_emb.freqs", "time_in_proj_t.weight")
    theirs = {
        key: shape
        for key, shape in SHAPES[name].items()
        if not key.startswith("logvar_") and not key.endswith(implied)
    }
    assert ours == theirs
    assert len(jax.tree.leaves(weights)) == len(theirs)


TINY = HDiTConfig(
    patch_size=2,
    levels=(
        LevelConfig(8, 1, NeighbourhoodAttention(7, 8)),
        LevelConfig(8, 1, NeighbourhoodAttention(5, 8)),
        LevelConfig(8, 1, GlobalAttention(8)),
    ),
    mapping_width=8,
    mapping_depth=0,
)
SMALL_UNET = UNetConfig(block_channels=(4, 4, 4), norm_num_groups=2, downsample_padding=0)


@pytest.mark.parametrize("config,smallest", [(TINY, 24), (SMALL_UNET, 4)], ids=["hdit", "unet"])
def test_the_smallest_side_is_taken_and_no_smaller_one(config, smallest):
    assert config.smallest_side == smallest
    model, weights = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))

    def out(side):
        x = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
        return jax.eval_shape(model, weights, x, jnp.zeros(1))

    assert out(smallest).shape == (smallest, smallest, 3)
    check_image_shape(config, (smallest, 2 * smallest, 3))
    if config is TINY:
        with pytest.raises(UserError, match="kernel_size"):
            out(smallest - config.size_multiple)
        with pytest.raises(UserError, match="size of the images: got 16x24; use sides of at least"):
            check_image_shape(config, (16, 24, 3))
        with pytest.raises(UserError, match="tile: got 16"):
            check_image_shape(config, (48, 48, 3), Tiles(16, 4))


def test_published_networks_take_no_smaller_images_than_their_windows():
    assert FFHQ256.smallest_side == 64  # 7 tokens of 8 pixels are 56.
    assert IMAGENET256.smallest_side == 64


def test_what_a_stored_prior_takes():
    prior = ROOT / "pretrained" / "fashion_mnist" / "prior"
    takes = network_shape(str(prior))
    assert takes.smallest % takes.multiple == 0 and takes.multiple < takes.smallest <= 32
