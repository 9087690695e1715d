"""U-Nets of other projects: the numbers of their own code on random weights, and names."""

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
from foreign_unets import IMAGE, LABEL, STEP, TIMES, drawn

from lavps_jax.errors import UserError
from lavps_jax.io.layouts.adm import config_from_adm, from_adm
from lavps_jax.io.layouts.ddpm import config_from_ddpm, from_ddpm
from lavps_jax.io.layouts.diffusers import config_from_diffusers, from_diffusers, to_diffusers
from lavps_jax.networks import UNetConfig, split

DATA = Path(__file__).parents[1] / "data" / "unets"


class Stored:
    """What other code computed; see PROVENANCE.md."""

    def __init__(self, name: str):
        with np.load(DATA / f"{name}.npz") as stored:
            self.outputs = {key: stored[key] for key in stored.files if key.startswith("out")}
            self.settings = json.loads(str(stored["settings"]))
            shapes = json.loads(str(stored["shapes"]))
        self.state = {key: drawn(key, shape) for key, shape in shapes.items()}


stored = functools.cache(Stored)


@functools.cache
def network(name: str) -> tuple[UNetConfig, nnx.State]:
    file = stored(name)
    match name.split("_"):
        case ["diffusers", _]:
            config = config_from_diffusers(file.settings)
            return config, from_diffusers(file.state, config)
        case ["taming", _]:
            config = config_from_ddpm(file.state)
            return config, from_ddpm(file.state, config)
    config = config_from_adm(file.state, head_size=16)
    new = file.settings.get("use_new_attention_order", False)
    return config, from_adm(file.state, config, new_attention_order=new)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, weights, x, label):
    """At all times; one program for networks that are the same in two layouts."""
    times = jnp.array(TIMES, jnp.float32)[:, None]
    return jax.vmap(lambda t: model(weights, x, t, label=label))(times)


@pytest.mark.parametrize(
    "name", ["diffusers_ddpm", "diffusers_adm", "azula_adm", "azula_new_order", "taming_ddpm"]
)
def test_outputs_are_those_of_the_other_code(name):
    config, weights = network(name)
    model = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[0]
    label = jnp.eye(config.num_classes)[LABEL] if config.num_classes else None
    for key, expected in stored(name).outputs.items():
        x = np.moveaxis(IMAGE[..., : int(key.removeprefix("out_"))], 0, -1)
        out = np.moveaxis(evaluate(model, weights, x, label), -1, 1)[..., ::STEP, ::STEP]
        assert out.shape == expected.shape
        assert np.std(expected) > 0.1 and np.std(expected[0] - expected[1]) > 0.01
        assert np.abs(out - expected).max() < 1e-5 * np.abs(expected).max()


def test_heads_by_number_lie_as_those_by_width():
    config, weights = network("azula_adm")  # It attends with 64 channels alone.
    four = dataclasses.replace(config, head_size=None, num_heads=4)
    jax.tree.map(np.testing.assert_array_equal, from_adm(stored("azula_adm").state, four), weights)


@pytest.mark.parametrize("name", ["diffusers_ddpm", "diffusers_adm", "azula_adm"])
def test_networks_go_to_diffusers_and_back(name):
    config, weights = network(name)
    state, settings = to_diffusers(weights, config)
    settings = json.loads(json.dumps(settings))
    assert config_from_diffusers(settings) == config
    back = from_diffusers(state, config)
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    if name.startswith("diffusers"):
        assert state.keys() == stored(name).state.keys()
        for key, array in stored(name).state.items():
            np.testing.assert_array_equal(state[key], array)
        # All of them are arguments of the class there.
        known = stored(name).settings | {"_class_name": "UNet2DModel", "attn_norm_num_groups": 32}
        assert known | settings == known


def test_the_null_class_is_one_more_class_in_diffusers():
    config = UNetConfig(block_channels=(4,), attention=(False,), norm_num_groups=2, num_classes=3)
    _, weights = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    weights = jax.tree.map(lambda leaf: drawn("any", leaf.shape), weights)
    state, settings = to_diffusers(weights, config)
    assert settings["num_class_embeds"] == len(state["class_embedding.weight"]) == 4
    other = config_from_diffusers(settings)
    assert (other.num_classes, other.null_class) == (4, False)
    jax.tree.map(np.testing.assert_array_equal, from_diffusers(state, other), weights)
    two = dataclasses.replace(config, num_noise_levels=2)
    with pytest.raises(UserError, match="num_noise_levels: got 2"):
        to_diffusers(weights, two)


def test_old_names_of_attention():
    config, weights = network("diffusers_ddpm")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    names = re.compile(r"(to_[qkv]|to_out\.0)(?=\.)")
    state = {
        names.sub(lambda found: old[found[0]], name): array
        for name, array in stored("diffusers_ddpm").state.items()
    }
    assert "mid_block.attentions.0.proj_attn.bias" in state
    jax.tree.map(np.testing.assert_array_equal, from_diffusers(state, config), weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"center_input_sample": True}, "center_input_sample: got True; this library has only Fal"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type: got fourier"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name: got UNet2DConditionModel"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups: got None"),
        ({"up_block_types": ["UpBlock2D"] * 2}, "up_block_types: got "),
        ({"down_block_types": ["SkipDownBlock2D"] * 2}, "got a block of type SkipDownBlock2D"),
        (
            {"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]},
            "up_block_types: got ",
        ),
    ],
)
def test_networks_that_are_not_here_are_refused(changes, message):
    settings = stored("diffusers_ddpm").settings
    with pytest.raises(UserError, match=re.escape(message)):
        config_from_diffusers(settings | changes)


def test_what_does_not_fit_is_named_in_one_line():
    config, _ = network("azula_adm")
    state = dict(stored("azula_adm").state)
    del state["middle_block.1.qkv.bias"]
    state["out.0.weight"] = np.ones(7, np.float32)
    state["extra"] = np.ones(7, np.float32)
    with pytest.raises(UserError) as raised:
        from_adm(state, config)
    assert "\n" not in str(raised.value)
    assert "missing: middle_block.1.qkv.bias (k), middle_block.1.qkv.bias (q)" in str(raised.value)
    assert "unexpected: extra; misshapen: out.0.weight [7] instead of [32]" in str(raised.value)
    config, _ = network("taming_ddpm")
    state = {**stored("taming_ddpm").state, "mid.block_1.conv1.bias": np.ones(3, np.float32)}
    with pytest.raises(
        UserError, match=r"misshapen: mid.block_1.conv1.bias \[3\] instead of \[64\]"
    ):
        from_ddpm(state, config)
    for read in (config_from_adm, config_from_ddpm):
        with pytest.raises(UserError, match="checkpoint: got missing: "):
            read(stored("diffusers_adm").state)
