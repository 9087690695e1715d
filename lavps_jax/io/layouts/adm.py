"""The layout of the ADM networks, as `256x256_diffusion_uncond.pt` and `ffhq_10m.pt` have it.

Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, arXiv:2105.05233.
Names there: `input_blocks.I.0` is the first convolution, a residual block or a halving, and
`input_blocks.I.1` the attention after it; `output_blocks.I` have a doubling as their last entry.
The layout is also that of "Improved DDPM" (arXiv:2102.09672) and of latent diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from lavps_jax.io.foreign import axis_length
from lavps_jax.io.layouts.diffusers import unet_weights
from lavps_jax.networks import UNetConfig

_DOUBLING = re.compile(r"output_blocks\.(\d+)\.[12]\.(in_layers\.2|conv)\.weight")
_QKV = re.compile(r"\.qkv\.(weight|bias)$")
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def config_from_adm(state: Mapping[str, Any], *, head_size: int | None = 64) -> UNetConfig:
    """The configuration of an ADM network, from the shapes of its weights.

    Shapes do not tell the number of groups, which is 32.

    Args:
      state: anything with a shape, by name.
      head_size: width of an attention head, which shapes do not tell; None is a single head.

    Raises:
      UserError: naming a tensor that is not there, or that does not go with `head_size`.
    """
    outputs = {name.split(".")[1] for name in state if name.startswith("output_blocks.")}
    doublings = {int(found[1]): found[2] for found in map(_DOUBLING.fullmatch, state) if found}
    # Going up, a level has one residual block more; the doubling follows the last.
    blocks = min(doublings) + 1 if doublings else max(len(outputs), 1)
    resample = "conv" if "conv" in doublings.values() else "resnet"
    firsts = [1 + level * blocks for level in range(len(outputs) // blocks)]
    channels = tuple(axis_length(state, f"input_blocks.{i}.0.in_layers.2.weight") for i in firsts)
    time = axis_length(state, "input_blocks.1.0.emb_layers.1.weight")
    has_classes = "label_emb.weight" in state
    return UNetConfig(
        in_channels=axis_length(state, "input_blocks.0.0.weight", 1),
        out_channels=axis_length(state, "out.2.weight"),
        block_channels=channels,
        attention=tuple(f"input_blocks.{i}.1.qkv.weight" in state for i in firsts),
        layers_per_block=blocks - 1,
        head_size=head_size,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0.0,
        noise_scale=1.0,
        num_classes=axis_length(state, "label_emb.weight") if has_classes else 0,
        time_conditioning="add" if channels[:1] == (time,) else "scale_shift",
        resample=resample,
        null_class=not has_classes,
    )


def from_adm(
    state: Mapping[str, np.ndarray], config: UNetConfig, *, new_attention_order: bool = False
) -> nnx.State:
    """The weights of a state dict in this layout.

    Args:
      state: arrays by name.
      config: of the network, see `config_from_adm`.
      new_attention_order: whether the channels of a layer "qkv" are in the order (q k v, head,
        width); otherwise (head, q k v, width), as in the 256 x 256 networks.

    Returns:
      Weights of the network of `config`, NumPy arrays; most are views of those of `state`.

    Raises:
      UserError: naming what is missing, not expected, or of another shape.
    """
    parts: dict[str, np.ndarray] = {}
    for name, array in state.items():
        width = len(array) // 3 if _QKV.search(name) else 0
        size = width if new_attention_order else config.head_size or width // config.num_heads
        if width and len(array) % (3 * size) == 0:
            heads = array.reshape(-1, 3, size, *array.shape[1:])
            for index, letter in enumerate("qkv"):
                parts[f"{name} ({letter})"] = heads[:, index].reshape(width, *array.shape[1:])
        else:
            parts[name] = array
    return unet_weights(parts, config, lambda name: adm_name(name, config))


def adm_name(name: str, config: UNetConfig) -> str:
    """The name of a tensor, from the one that diffusers gives it.

    "(q)", "(k)" or "(v)" follows where it is a third of one.
    """
    blocks = config.layers_per_block + 1
    match name.split("."):
        case ["mid_block", kind, index, *part]:
            place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
        case ["down_blocks", level, "downsamplers", _, *part]:
            place = f"input_blocks.{(int(level) + 1) * blocks}.0"
        case ["down_blocks", level, kind, index, *part]:
            entry = int(kind == "attentions")
            place = f"input_blocks.{1 + int(level) * blocks + int(index)}.{entry}"
        case ["up_blocks", block, "upsamplers", _, *part]:
            entry = 1 + config.attention[-1 - int(block)]
            place = f"output_blocks.{(int(block) + 1) * blocks - 1}.{entry}"
        case ["up_blocks", block, kind, index, *part]:
            entry = int(kind == "attentions")
            place = f"output_blocks.{int(block) * blocks + int(index)}.{entry}"
        case _:
            layer, _, end = name.rpartition(".")
            return f"{_OUTER[layer]}.{end}"
    match part:
        case ["group_norm", end]:
            return f"{place}.norm.{end}"
        case ["to_out", _, end]:
            return f"{place}.proj_out.{end}"
        case [("to_q" | "to_k" | "to_v") as layer, end]:
            return f"{place}.qkv.{end} ({layer[-1]})"
        case ["conv", end]:
            return f"{place}.{'op' if name.startswith('down') else 'conv'}.{end}"
    return f"{place}.{_RESNET[part[0]]}.{part[1]}"
