"""The layout of the DDPM networks in PyTorch, as `celeba_hq.ckpt` and the code of DDIM have it.

Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502. Names there:
`down.LEVEL.block.I`, `down.LEVEL.attn.I`, `down.LEVEL.downsample.conv`, `mid.block_1`, and so on;
`up.LEVEL` counts from the outermost level too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from lavps_jax.io.foreign import axis_length
from lavps_jax.io.layouts.diffusers import unet_weights
from lavps_jax.networks import UNetConfig

_PARTS = {
    "linear_1": "0",
    "linear_2": "1",
    "time_emb_proj": "temb_proj",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out": "proj_out",
}


def config_from_ddpm(state: Mapping[str, Any]) -> UNetConfig:
    """The configuration of a DDPM network, from the shapes of its weights.

    Shapes do not tell the number of heads, which is one, nor that of groups, which is 32.

    Args:
      state: anything with a shape, by name.

    Raises:
      UserError: naming a tensor that is not there.
    """
    found = {name.split(".")[1] for name in state if name.startswith("down.")}
    first = {name.split(".")[3] for name in state if name.startswith("down.0.block.")}
    levels = range(max(len(found), 1))
    return UNetConfig(
        in_channels=axis_length(state, "conv_in.weight", 1),
        out_channels=axis_length(state, "conv_out.weight"),
        block_channels=tuple(axis_length(state, f"down.{i}.block.0.conv1.weight") for i in levels),
        attention=tuple(f"down.{i}.attn.0.q.weight" in state for i in levels),
        layers_per_block=len(first),
        downsample_padding=0,
        noise_scale=1.0,
    )


def from_ddpm(state: Mapping[str, np.ndarray], config: UNetConfig) -> nnx.State:
    """The weights of a state dict in this layout.

    Args:
      state: arrays by name.
      config: of the network, see `config_from_ddpm`.

    Returns:
      Weights of the network of `config`, NumPy arrays; most are views of those of `state`.

    Raises:
      UserError: naming what is missing, not expected, or of another shape.
    """
    return unet_weights(state, config, lambda name: ddpm_name(name, config))


def ddpm_name(name: str, config: UNetConfig) -> str:
    """The name of a tensor, from the one that diffusers gives it."""
    match name.split("."):
        case ["time_embedding", layer, end]:
            return f"temb.dense.{_PARTS[layer]}.{end}"
        case ["conv_norm_out", end]:
            return f"norm_out.{end}"
        case ["mid_block", "resnets", index, *part]:
            place = f"mid.block_{int(index) + 1}"
        case ["mid_block", _, _, *part]:
            place = "mid.attn_1"
        case [("down_blocks" | "up_blocks") as way, block, kind, index, *part]:
            level = int(block)
            if way == "up_blocks":
                level = len(config.block_channels) - 1 - level
            places = {"resnets": f"block.{index}", "attentions": f"attn.{index}",
                      "downsamplers": "downsample", "upsamplers": "upsample"}  # fmt: skip
            place = f"{way.removesuffix('_blocks')}.{level}.{places[kind]}"
        case _:
            return name
    part, end = part[0], part[-1]
    return f"{place}.{_PARTS.get(part, part)}.{end}"
