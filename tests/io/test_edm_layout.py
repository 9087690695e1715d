"""EDM networks: the numbers of other code on random weights, and the published networks."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from foreign_unets import C_NOISE, LABEL, drawn_edm, edm_image

from lavps_jax.config.settings import PriorTask, from_json, to_json
from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.errors import UserError
from lavps_jax.io.layouts.edm import config_from_edm, from_edm
from lavps_jax.io.layouts.recognised import Recognised, check_network, read_layout, recognise
from lavps_jax.networks import sizes, split

DATA = Path(__file__).parents[1] / "data" / "unets"
TAPS = {2: np.array([1, 1]) / 2, 4: np.array([1, 3, 3, 1]) / 8}


def resample_filter(shape) -> np.ndarray:
    return np.float32(np.outer(TAPS[shape[-1]], TAPS[shape[-1]]))[None, None]


@functools.cache
def stored(name: str) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """A state dict, and the outputs by the width of the image; see PROVENANCE.md."""
    with np.load(DATA / f"{name}.npz") as file:
        outputs = {int(key.removeprefix("out_")): file[key] for key in file.files if "out" in key}
        shapes = json.loads(str(file["shapes"]))
    state = {
        key: resample_filter(shape) if "resample" in key else drawn_edm(key, shape)
        for key, shape in shapes.items()
    }
    return state, outputs


@pytest.mark.parametrize(
    ("name", "width"),
    # Images of 8 rows, square and not; every size costs a compilation.
    [("edm_ddpmpp", 8), ("edm_ncsnpp", 12), ("edm_adm", 12)],
)
def test_outputs_are_those_of_the_other_code(name, width):
    state, outputs = stored(name)
    config = recognise(state).network
    model = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[0]
    weights = read_layout(state, config)
    label = jnp.eye(config.num_classes)[LABEL] if config.num_classes else None
    x, expected = np.moveaxis(edm_image(width), 0, -1), outputs[width]
    out = np.stack([model(weights, x, c[None], label=label) for c in C_NOISE])
    assert np.std(expected) > 0.1 and np.std(expected[0] - expected[1]) > 0.01
    error = np.abs(np.moveaxis(out, -1, 1) - expected).max()
    assert error < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "config", "num_parameters"),
    [
        # Numbers of `parameters()` there; those of the augmentation are 9 times the noise features.
        ("ffhq-64x64-uncond-ve", sizes.EDM_64_NCSN, 62_761_091 - 9 * 256 + 128),
        ("imagenet64-cond", sizes.EDM_IMAGENET64, 295_899_267),
    ],
)
def test_the_published_networks_are_told_and_have_a_place_for_every_tensor(
    name, config, num_parameters
):
    shapes = json.loads(str(np.load(DATA / "edm_published.npz")[name]))
    state = {
        key: resample_filter(shape)
        if "resample" in key
        else np.broadcast_to(np.float32(0), tuple(shape))
        for key, shape in shapes.items()
    }
    assert config_from_edm(state) == dataclasses.replace(config, dropout=0.0)
    weights = from_edm(state, config)
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == num_parameters


def test_a_file_is_recognised_as_a_prior_of_edm():
    state = stored("edm_ncsnpp")[0]
    found = recognise(state)
    assert found == Recognised(config_from_edm(state), EDM(), 8)
    with pytest.raises(UserError, match="^preset: .*architecture ncsn.. instead of ddpm"):
        check_network(state, dataclasses.replace(found.network, architecture="ddpm++"))
    task = PriorTask(found.network, parameterisation=found.parameterisation)
    assert from_json(to_json(task)) == task


def test_what_is_of_another_network_is_named():
    state = stored("edm_ddpmpp")[0]
    config = config_from_edm(state)
    smooth = {
        key: resample_filter((4,)) if "resample" in key else one for key, one in state.items()
    }
    with pytest.raises(UserError, match=r"enc.4x4_down.conv0.resample_filter; .*\[1.0, 1.0\]"):
        from_edm(smooth, config)
    skip = {**state, "enc.4x4_aux_skip.weight": np.ones((128, 3, 1, 1), np.float32)}
    with pytest.raises(UserError, match=re.escape("unexpected: enc.4x4_aux_skip.weight")):
        from_edm(skip, config)
    less = {key: one for key, one in state.items() if key != "dec.4x4_in0.qkv.bias"}
    with pytest.raises(UserError, match=re.escape("missing: dec.4x4_in0.qkv.bias (k)")):
        from_edm(less, config)
    with pytest.raises(UserError, match=r"missing: enc.\*_conv.weight; give the weights of an EDM"):
        config_from_edm({"conv_in.weight": np.ones(1)})
