"""EDM networks: the numbers of other code on random weights, names, and published sizes."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from foreign_unets import C_NOISE, LABEL, drawn_edm, edm_image

from lavps_jax.errors import UserError
from lavps_jax.io.foreign import dotted
from lavps_jax.io.layouts.edm import config_from_edm, edm_name, from_edm
from lavps_jax.networks import SongUNetConfig, UNetConfig, split

DATA = Path(__file__).parents[1] / "data" / "unets"
TAPS = {2: np.array([1, 1]) / 2, 4: np.array([1, 3, 3, 1]) / 8}


@functools.cache
def stored(name: str) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
    """A state dict, and the outputs by the width of the image; see PROVENANCE.md."""
    with np.load(DATA / f"{name}.npz") as file:
        outputs = {int(key.removeprefix("out_")): file[key] for key in file.files if "out" in key}
        shapes = json.loads(str(file["shapes"]))
    state = {key: drawn_edm(key, shape) for key, shape in shapes.items()}
    for key, shape in shapes.items():
        if key.endswith("resample_filter"):
            state[key] = np.float32(np.outer(TAPS[shape[-1]], TAPS[shape[-1]]))[None, None]
    return state, outputs


@pytest.mark.parametrize("name", ["edm_ddpmpp", "edm_ncsnpp", "edm_adm"])
def test_outputs_are_those_of_the_other_code(name):
    state, outputs = stored(name)
    config = config_from_edm(state)
    model = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[0]
    weights = from_edm(state, config)
    label = jnp.eye(config.num_classes)[LABEL] if config.num_classes else None
    evaluate = jax.jit(jax.vmap(lambda x, c: model(weights, x, c[None], label=label), (None, 0)))
    for width, expected in outputs.items():
        out = evaluate(np.moveaxis(edm_image(width), 0, -1), C_NOISE)
        assert np.std(expected) > 0.1 and np.std(expected[0] - expected[1]) > 0.01
        error = np.abs(np.moveaxis(out, -1, 1) - expected).max()
        print(name, width, error / np.abs(expected).max(), np.abs(expected).max())
        assert error < 1e-5 * np.abs(expected).max()
