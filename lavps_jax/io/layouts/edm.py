"""The layout of the EDM networks as state dicts: DDPM++, NCSN++, and the ADM trained with them.

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022,
arXiv:2206.00364. Names there say the size of the features for images of the size of training:
`enc.64x64_block0`, `enc.32x32_down`, `dec.8x8_in0`, `dec.16x16_up`. The network is F of
D(x) = c_skip x + c_out F(c_in x, log(sigma) / 4), with sigma_data 1/2 for images in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.io.foreign import axis_length
from lavps_jax.io.layouts.diffusers import unet_weights
from lavps_jax.networks import SongUNetConfig, UNetConfig

_FIRST = re.compile(r"enc\.(\d+)x\1_conv\.weight")
_BLOCK = re.compile(r"enc\.(\d+)x\1_block(\d+)\.conv1\.weight")
_QKV = re.compile(r"\.qkv\.(weight|bias)$")
_PARTS = {
    "norm1": "norm0",
    "conv1": "conv0",
    "time_emb_proj": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "conv_shortcut": "skip",
    "group_norm": "norm2",
    "to_out": "proj",
}
_OUTER = {
    "time_embedding.linear_1": "map_layer0",
    "time_embedding.linear_2": "map_layer1",
    "class_embedding": "map_label",
    "conv_norm_out": "out_norm",
}


def config_from_edm(state: Mapping[str, Any]) -> SongUNetConfig | UNetConfig:
    """The configuration of an EDM network, from the names and shapes of its weights.

    An ADM is a `UNetConfig` of 32 groups and 64 channels per head, with the noise level as its
    time; EDM's code has fewer groups below 128 channels, which no published network has.

    Args:
      state: anything with a shape, by name.

    Raises:
      UserError: naming a tensor that is not there, or that this library has no network for.
    """
    side = trained_side(state)
    blocks = [found.groups() for found in map(_BLOCK.fullmatch, state) if found]
    levels = range(max(len({place for place, _ in blocks}), 1))
    places = [_size(side, level) for level in levels]
    channels = tuple(axis_length(state, f"enc.{place}_block0.conv1.weight") for place in places)
    has_classes = "map_label.weight" in state
    shape: dict[str, Any] = {
        "in_channels": axis_length(state, f"enc.{places[0]}_conv.weight", 1),
        "block_channels": channels,
        "attention": tuple(f"enc.{place}_block0.qkv.weight" in state for place in places),
        "layers_per_block": len({index for _, index in blocks}),
        "num_classes": axis_length(state, "map_label.weight", 1) if has_classes else 0,
    }
    if "out_conv.weight" not in state:
        return SongUNetConfig(
            architecture="ncsn++" if "map_noise.freqs" in state else "ddpm++",
            out_channels=axis_length(state, f"dec.{places[0]}_aux_conv.weight"),
            model_channels=axis_length(state, f"enc.{places[0]}_conv.weight"),
            **shape,
        )
    return UNetConfig(
        out_channels=axis_length(state, "out_conv.weight"),
        head_size=64,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0.0,
        noise_scale=1.0,
        time_conditioning="scale_shift",
        resample="resnet",
        null_class=not has_classes,
        **shape,
    )


def trained_side(state: Mapping[str, Any]) -> int:
    """The side of the images that the network was trained on, in pixels, from a name.

    Raises:
      UserError: if no tensor has such a name.
    """
    for found in filter(None, map(_FIRST.fullmatch, state)):
        return int(found[1])
    raise UserError(
        "checkpoint", "missing: enc.*_conv.weight", "give the weights of an EDM network"
    )


def from_edm(state: Mapping[str, np.ndarray], config: SongUNetConfig | UNetConfig) -> nnx.State:
    """The weights of a state dict in this layout.

    What would enter as the augmentation of an image in training is left out: it is zero otherwise.

    Args:
      state: arrays by name.
      config: of the network, see `config_from_edm`.

    Returns:
      Weights of the network of `config`, NumPy arrays; most are views of those of `state`.

    Raises:
      UserError: naming what is missing, not expected, of another shape, or a filter that changes
        the size in another way.
    """
    side = trained_side(state)
    ncsn = isinstance(config, SongUNetConfig) and config.architecture == "ncsn++"
    taps = np.array([1, 3, 3, 1] if ncsn else [1, 1], np.float32)
    known = (np.outer(taps, taps) / taps.sum() ** 2)[None, None]
    parts: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if name.endswith(".resample_filter"):
            if not np.array_equal(array, known):
                raise UserError("checkpoint", name, f"this network has only {taps.tolist()} there")
        elif _QKV.search(name) and len(array) % 3 == 0:
            # Channels are in the order (head, width, q k v).
            for index, letter in enumerate("qkv"):
                parts[f"{name} ({letter})"] = array[index::3]
        elif name == "map_label.weight" and isinstance(config, UNetConfig):
            parts[name] = array.T
        elif name != "map_augment.weight":
            parts[name] = array
    return unet_weights(parts, config, lambda name: edm_name(name, config, side))


def edm_name(name: str, config: SongUNetConfig | UNetConfig, side: int) -> str:
    """The name of a tensor, from that in `SongUNet`, or the one that diffusers gives it.

    Args:
      name: with "weight" in place of "kernel" and "scale".
      config: of the network.
      side: of the images it was trained on, in pixels.

    Returns:
      The name; "(q)", "(k)" or "(v)" follows where it is a third of a tensor.
    """
    last = len(config.block_channels) - 1
    match name.split("."):
        case ["conv_in", end]:
            return f"enc.{_size(side, 0)}_conv.{end}"
        case ["norm_out", end]:
            return f"dec.{_size(side, 0)}_aux_norm.{end}"
        case ["conv_out", end]:
            song = isinstance(config, SongUNetConfig)
            return f"dec.{_size(side, 0)}_aux_conv.{end}" if song else f"out_conv.{end}"
        case ["pyramid", level, end]:
            return f"enc.{_size(side, int(level) + 1)}_aux_residual.{end}"
        case ["down", level, _, *part] | ["down_blocks", level, "downsamplers", _, *part]:
            place = f"enc.{_size(side, int(level) + 1)}_down"
        case ["encoder", level, index, _, *part] | ["down_blocks", level, _, index, *part]:
            place = f"enc.{_size(side, int(level))}_block{index}"
        case ["middle", index, _, *part] | ["mid_block", _, index, *part]:
            place = f"dec.{_size(side, last)}_in{index}"
        case ["decoder", level, index, _, *part]:
            place = f"dec.{_size(side, int(level))}_block{index}"
        case ["up", level, _, *part]:
            place = f"dec.{_size(side, int(level))}_up"
        case ["up_blocks", block, "upsamplers", _, *part]:
            place = f"dec.{_size(side, last - int(block) - 1)}_up"
        case ["up_blocks", block, _, index, *part]:
            place = f"dec.{_size(side, last - int(block))}_block{index}"
        case _:
            layer, _, end = name.rpartition(".")
            return f"{_OUTER.get(layer, layer)}.{end}"
    layer, end = part[0], part[-1]
    if layer in ("to_q", "to_k", "to_v"):
        return f"{place}.qkv.{end} ({layer[-1]})"
    return f"{place}.{_PARTS[layer]}.{end}"


def _size(side: int, level: int) -> str:
    """The size of the features of a level, as names have it."""
    return f"{side >> level}x{side >> level}"
