"""Weights of the published PyTorch networks under the names they have here, and back.

A name here is the path of a weight in the network; there it is a key of a state dict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from lavps_jax.diffusion.parameterisations import EDM, Parameterisation
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.io.foreign import Path, dotted, from_foreign, to_foreign
from lavps_jax.networks import AmortizedNetworkConfig, HDiTConfig
from lavps_jax.networks.attention import rotary_frequencies
from lavps_jax.types import Weights

_LAYER = re.compile(r"^((?:down|up)_levels\.\d+|mid_level)\.(\d+)\.(?!feature_degradation)")
_FREQUENCIES = "self_attn.pos_emb.freqs"
_UNUSED = re.compile(r"^(logvar_(fourier|linear)\.|epsilon_net\.)")
"""The head of the training loss that says how uncertain it is, and the prior inside of an
inference model."""
_ALIAS = ("time_in_proj_t.weight", "time_in_proj.weight")
"""Inference models list one tensor under two names."""


def published_prefix(schedule: Schedule, network: Any, trained_as: Parameterisation) -> str:
    """What comes before a name in the state dict of a network.

    Raises:
      UserError: unless the published code would compute the same with these weights.
    """
    found: list[tuple[str, Any, Any]] = [
        ("schedule", schedule, Schedule()),
        ("task.parameterisation", trained_as, EDM()),
    ]
    match network:
        case HDiTConfig():
            prefix = "unet."
        case AmortizedNetworkConfig():
            prefix = "residual_nn."
            found += [
                ("task.network.noise_embedding", network.noise_embedding, "linear"),
                ("task.network.mean_unit", network.mean_unit, "image"),
                ("task.network.guidance", network.guidance, False),
                ("task.network.residual_of", network.residual_of, "prior"),
                ("task.network.state_scale", network.state_scale, "signal"),
                ("task.network.inverse", network.inverse, "published"),
                ("backbone", type(network.backbone).__name__, "HDiTConfig"),
            ]
        case _:
            remedy = "give one of a prior or an amortized network, on an HDiT"
            raise UserError("preset", type(network).__name__, remedy)
    for name, value, published in found:
        if value != published:
            raise UserError(name, value, f"the published networks have {published!r}")
    return prefix


def published_name(path: Path, prefix: str) -> str:
    """The key of a weight, from its path in the network."""
    name = dotted(path).removeprefix("backbone.")
    return prefix + _LAYER.sub(r"\1.\2.attn.", name).replace("kernel", "weight")


def from_published(state: Mapping[str, np.ndarray], weights: Weights, prefix: str) -> nnx.State:
    """The weights of a state dict.

    Args:
      state: arrays by published name.
      weights: the network's own, of arrays or `jax.ShapeDtypeStruct`: what is expected.
      prefix: of the published names, see `published_prefix`.

    Returns:
      Weights of the structure of `weights`. Arrays are views of those of `state`, not copies.

    Raises:
      UserError: naming what is missing, not expected, or of another shape.
    """
    return from_foreign(
        state,
        weights,
        lambda path: published_name(path, prefix),
        unused=lambda name: _is_implied(name, state, prefix),
        remedy="give the preset of this network",
    )


def to_published(weights: nnx.State, prefix: str) -> dict[str, np.ndarray]:
    """The state dict of trained weights, as the published code expects it; arrays are views.

    The fixed rotary frequencies are filled in. So is the uncertainty head of a prior, with zeros:
    sampling does not use it.
    """
    state = to_foreign(weights, lambda path: published_name(path, prefix))
    for name in [name for name in state if name.endswith("self_attn.scale")]:
        layer, heads = name.removesuffix("self_attn.scale"), len(state[name])
        features = len(state[f"{layer}self_attn.out_proj.weight"])
        table = rotary_frequencies(heads, features // heads)
        state[layer + _FREQUENCIES] = table.astype(np.float32)
    if prefix == "unet.":
        for name, shape in (("fourier.freqs", (128,)), ("fourier.phases", (128,)),
                            ("linear.weight", (1, 128)), ("linear.bias", (1,))):  # fmt: skip
            state[f"logvar_{name}"] = np.zeros(shape, np.float32)
    else:
        alias, name = (prefix + one for one in _ALIAS)
        state[alias] = state[name]
    return state


def _is_implied(name: str, state: Mapping[str, np.ndarray], prefix: str) -> bool:
    """Whether a name holds nothing that the network here would need.

    Raises:
      UserError: if it should repeat something else and does not.
    """
    if _UNUSED.match(name):
        return True
    if name.endswith(_FREQUENCIES):
        scale = state.get(name.replace("pos_emb.freqs", "scale"))
        table = state[name]
        if scale is None or table.ndim != 2 or len(scale) != len(table):
            return False
        expected = rotary_frequencies(len(scale), 8 * table.shape[1])
        if np.allclose(table, expected, rtol=5e-3):  # Of bfloat16; neighbours differ by more.
            return True
        raise UserError(name, "other rotary frequencies", "give weights of the published networks")
    alias, original = (prefix + one for one in _ALIAS)
    if name != alias or original not in state:
        return False
    if np.array_equal(state[alias], state[original]):
        return True
    raise UserError(
        alias, f"another tensor than {original}", "give weights of the published networks"
    )
