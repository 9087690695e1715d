"""The layout of `UNet2DModel` of the diffusers library: a state dict and a config.json.

Names there are those of the network here, but for "weight" in place of "kernel" and "scale".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.io.foreign import Path, axis_length, dotted, from_foreign, to_foreign
from lavps_jax.networks import SongUNetConfig, UNetConfig, split

_OURS = re.compile(r"\.(kernel|scale)$")
_OLD_ATTENTION = re.compile(r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_ONLY = {
    "_class_name": "UNet2DModel",
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "add_attention": True,
    "class_embed_type": None,
}
"""Defaults of a config.json that are all this library has."""
_DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "num_class_embeds": None,
}
"""What holds otherwise where a config.json says nothing."""


def config_from_diffusers(settings: Mapping[str, Any]) -> UNetConfig:
    """The configuration of the network that a config.json describes.

    It embeds the times 0 to 999 as they are given: noise_scale is 1.

    Args:
      settings: content of config.json; what it does not say has the default of `UNet2DModel`.

    Raises:
      UserError: if this library has no such network.
    """
    found: dict[str, Any] = {**_ONLY, **_DEFAULTS, **settings}
    for name, known in _ONLY.items():
        if found[name] != known and (name, found[name]) != ("act_fn", "swish"):  # Another name.
            _refuse(name, found[name], known)
    shift = found["resnet_time_scale_shift"]
    time = "add" if shift == "default" else shift
    groups, own_groups = found["norm_num_groups"], found["attn_norm_num_groups"]
    if own_groups != groups and not (own_groups is None and time == "add"):
        _refuse("attn_norm_num_groups", own_groups, groups)
    down = [_block(kind, found["downsample_type"]) for kind in found["down_block_types"]]
    up = [_block(kind, found["upsample_type"]) for kind in found["up_block_types"]]
    attention = tuple(has for has, _ in down)
    # The last block of either way does not change the size.
    resample = {kind for _, kind in (*down[:-1], *up[:-1])} or {"conv"}
    if attention != tuple(has for has, _ in reversed(up)) or len(resample) > 1:
        _refuse("up_block_types", found["up_block_types"], "those of down_block_types, reversed")
    return UNetConfig(
        in_channels=found["in_channels"],
        out_channels=found["out_channels"],
        block_channels=tuple(found["block_out_channels"]),
        attention=attention,
        layers_per_block=found["layers_per_block"],
        head_size=found["attention_head_dim"],
        norm_num_groups=groups,
        norm_eps=found["norm_eps"],
        dropout=found["dropout"],
        downsample_padding=found["downsample_padding"],
        flip_sin_to_cos=found["flip_sin_to_cos"],
        freq_shift=found["freq_shift"],
        noise_scale=1.0,
        num_classes=found["num_class_embeds"] or 0,
        time_conditioning=time,
        resample=resample.pop(),
        null_class=not found["num_class_embeds"],
    )


def config_from_shapes(state: Mapping[str, Any]) -> UNetConfig:
    """What shapes tell of the configuration: not heads, groups, frequencies, and the null class.

    Args:
      state: anything with a shape, by name.

    Raises:
      UserError: naming a tensor that is not there.
    """
    places = [name.split(".") for name in state if name.startswith("down_blocks.")]
    levels = range(len({place[1] for place in places}))
    first = {place[3] for place in places if place[1:3] == ["0", "resnets"]}
    channels = tuple(axis_length(state, f"down_blocks.{i}.resnets.0.conv1.weight") for i in levels)
    time = axis_length(state, "down_blocks.0.resnets.0.time_emb_proj.weight")
    has_classes = "class_embedding.weight" in state
    resized = any(name.endswith(".downsamplers.0.conv1.weight") for name in state)
    return UNetConfig(
        in_channels=axis_length(state, "conv_in.weight", 1),
        out_channels=axis_length(state, "conv_out.weight"),
        block_channels=channels,
        attention=tuple(f"down_blocks.{i}.attentions.0.group_norm.weight" in state for i in levels),
        layers_per_block=len(first),
        norm_num_groups=1,
        num_classes=axis_length(state, "class_embedding.weight") if has_classes else 0,
        time_conditioning="add" if channels[0] == time else "scale_shift",
        resample="resnet" if resized else "conv",
        null_class=False,
    )


def from_diffusers(state: Mapping[str, np.ndarray], config: UNetConfig) -> nnx.State:
    """The weights of a state dict of `UNet2DModel`; attention may have the names of old versions.

    Args:
      state: arrays by name.
      config: of the network, see `config_from_diffusers`.

    Returns:
      Weights of the network of `config`, NumPy arrays; most are views of those of `state`.

    Raises:
      UserError: naming what is missing, not expected, or of another shape.
    """
    new = {
        _OLD_ATTENTION.sub(lambda found: _NEW_ATTENTION[found[0]], name): array
        for name, array in state.items()
    }
    return unet_weights(new, config, lambda name: name)


def to_diffusers(
    weights: nnx.State, config: UNetConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict and the content of config.json; `from_diffusers` gives back the same weights.

    The network there takes the times that are embedded, noise level times config.noise_scale. A
    null class is one more class there, the last.

    Raises:
      UserError: if the network sees two noise levels, which there is no place for.
    """
    if config.num_noise_levels != 1:
        raise UserError("num_noise_levels", config.num_noise_levels, "give a network of one")
    if config.num_heads != 1:
        raise UserError("num_heads", config.num_heads, "diffusers has one width of all heads")
    time = config.time_conditioning
    plain = "DownBlock2D" if config.resample == "conv" else "ResnetDownsampleBlock2D"
    down = ["AttnDownBlock2D" if has else plain for has in config.attention]
    settings = _ONLY | {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "block_out_channels": list(config.block_channels),
        "layers_per_block": config.layers_per_block,
        "attention_head_dim": config.head_size,
        "norm_num_groups": config.norm_num_groups,
        "attn_norm_num_groups": config.norm_num_groups,
        "norm_eps": config.norm_eps,
        "dropout": config.dropout,
        "downsample_padding": config.downsample_padding,
        "downsample_type": config.resample,
        "upsample_type": config.resample,
        "flip_sin_to_cos": config.flip_sin_to_cos,
        "freq_shift": config.freq_shift,
        "resnet_time_scale_shift": {"add": "default"}.get(time, time),
        "num_class_embeds": config.num_classes + config.null_class if config.num_classes else None,
    }
    return to_foreign(weights, _name), settings


def unet_weights(
    state: Mapping[str, np.ndarray],
    config: UNetConfig | SongUNetConfig,
    renamed: Callable[[str], str],
) -> nnx.State:
    """The weights of a U-Net, from arrays by the name that `renamed` makes of diffusers' name."""
    abstract = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[1]
    remedy = "give the weights of a network of this configuration"
    return from_foreign(state, abstract, lambda path: renamed(_name(path)), remedy=remedy)


def _name(path: Path) -> str:
    return _OURS.sub(".weight", dotted(path))


def _block(kind: str, resample: Any) -> tuple[bool, Any]:
    """Whether a kind of block attends, and how it changes the size."""
    match kind:
        case "AttnDownBlock2D" | "AttnUpBlock2D":
            return True, resample
        case "DownBlock2D" | "UpBlock2D":
            return False, "conv"
        case "ResnetDownsampleBlock2D" | "ResnetUpsampleBlock2D":
            return False, "resnet"
    raise UserError("config.json", f"a block of type {kind}", "give a network of other blocks")


def _refuse(name: str, value: Any, known: Any) -> None:
    raise UserError(f"config.json {name}", value, f"this library has only {known}")
