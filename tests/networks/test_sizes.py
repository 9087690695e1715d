"""The published networks have the tensors of the published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest
from flax import nnx

from lavps_jax.networks import PaletteConfig, split
from lavps_jax.networks.sizes import FFHQ256, IMAGENET256, with_degradation
from lavps_jax.published import published_name

SHAPES = json.loads(
    (Path(__file__).parents[1] / "data" / "golden" / "state_dict_shapes.json").read_text()
)
NETWORKS = {
    "ffhq256/prior": ("unet.", FFHQ256),
    "ffhq256/palette": ("residual_nn.", PaletteConfig(FFHQ256)),
    "ffhq256/invfussion": ("residual_nn.", PaletteConfig(with_degradation(FFHQ256))),
    "imagenet256/prior": ("unet.", IMAGENET256),
    "imagenet256/palette": ("residual_nn.", PaletteConfig(IMAGENET256)),
    "imagenet256/invfussion": ("residual_nn.", PaletteConfig(with_degradation(IMAGENET256))),
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
