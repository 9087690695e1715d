"""The convolutional U-Net of DDPM and ADM: configuration and network.

Sources: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (DDPM), NeurIPS 2020,
arXiv:2006.11239; Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis" (ADM), NeurIPS
2021, arXiv:2105.05233. Layout and attribute names are those of `UNet2DModel` of the diffusers
library, so that its weights map name by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.errors import check_choices
from lavps_jax.networks.conditioning import ClassEmbedding, check_inputs, require
from lavps_jax.networks.convolution import (
    Conv,
    Downsample,
    GroupNorm,
    Upsample,
    doubled,
    halved,
)
from lavps_jax.networks.layers import fold_key
from lavps_jax.networks.pure import keep
from lavps_jax.networks.unet_layers import (
    AttentionBlock,
    LevelsConfig,
    ResnetBlock,
    TimestepEmbedding,
    timestep_embedding,
)

Keys: TypeAlias = Iterator[Array | None]
"""One key of dropout after the other, or None for ever."""


@dataclass(frozen=True)
class UNetConfig(LevelsConfig):
    """Shape of a U-Net; `build` makes the network.

    Attributes:
      in_channels: channels of the input.
      out_channels: channels of the output.
      block_channels: channels of the levels from the outermost to the innermost; each level has
        half the pixels per side.
      attention: per level, whether its residual blocks are followed by self-attention; the
        innermost block in the middle always has it.
      layers_per_block: residual blocks per level going down; one more going up.
      head_size: width of an attention head; None gives every level num_heads of them.
      norm_num_groups: groups of the normalizations; divides all block_channels.
      norm_eps: added to the variance in them.
      dropout: dropped share in training, in [0, 1).
      downsample_padding: 1 pads all sides where the size is halved; 0 pads only after the last
        row and column (the published DDPM networks).
      flip_sin_to_cos: whether the cosines come first in the embedding of the time.
      freq_shift: shift of its frequencies, 0 or 1 (DDPM).
      noise_scale: the first noise level times this is the time that is embedded; 1 if the caller
        gives times 0 to 999 themselves.
      num_classes: classes of a class-conditional network; 0 means none.
      num_noise_levels: 1, or 2 for networks that see the noise of two times.
      time_conditioning: whether the time is added before the second norm of a residual block
        (DDPM), or scales and shifts its output (ADM).
      resample: whether a 3 x 3 convolution changes the size (DDPM), or a residual block that
        takes means of 2 x 2 pixels or repeats them (ADM).
      null_class: whether a class-conditional network has a vector for the null class.
      num_heads: attention heads where head_size is None.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_channels: tuple[int, ...] = (32, 64, 96)
    attention: tuple[bool, ...] = (False, False, True)
    layers_per_block: int = 2
    head_size: int | None = None
    norm_num_groups: int = 32
    norm_eps: float = 1e-6
    dropout: float = 0.0
    downsample_padding: int = 1
    flip_sin_to_cos: bool = False
    freq_shift: float = 1.0
    noise_scale: float = 1000.0
    num_classes: int = 0
    num_noise_levels: int = 1
    time_conditioning: Literal["add", "scale_shift"] = "add"
    resample: Literal["conv", "resnet"] = "conv"
    null_class: bool = True
    num_heads: int = 1

    def __post_init__(self):
        check_choices(self)
        self.check_levels()
        for name in ("norm_num_groups", "num_heads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "use at least 1")
        channels = self.block_channels
        groups, head_size = self.norm_num_groups, self.head_size
        require(
            all(c >= 1 and c % groups == 0 and c % 2 == 0 for c in channels),
            "block_channels",
            channels,
            f"use even multiples of norm_num_groups ({groups})",
        )
        attending = [c for c, has in zip(channels, self.attention, strict=True) if has]
        divisor = self.num_heads if head_size is None else head_size
        require(
            divisor >= 1 and all(c % divisor == 0 for c in (*attending, channels[-1])),
            "num_heads" if head_size is None else "head_size",
            divisor,
            f"use a divisor of the channels of the levels with attention, {channels}",
        )
        half = channels[0] // 2
        require(self.freq_shift < half, "freq_shift", self.freq_shift, f"use a number below {half}")
        require(self.norm_eps > 0, "norm_eps", self.norm_eps, "use a positive number")
        padding = self.downsample_padding
        require(padding in (0, 1), "downsample_padding", padding, "use 0 or 1")
        valid_levels = self.num_noise_levels in (1, 2)
        require(valid_levels, "num_noise_levels", self.num_noise_levels, "use 1 or 2")

    @property
    def time_features(self) -> int:
        """Width of the embedded time."""
        return 4 * self.block_channels[0]

    def build(self, rngs: nnx.Rngs) -> UNet2D:
        """Makes the network with fresh weights; it returns zero until it is trained."""
        return UNet2D(self, rngs=rngs)


class DownBlock(nnx.Module):
    """The residual blocks of one level going down, then the halving if a level is below."""

    def __init__(self, level: int, config: UNetConfig, *, rngs: nnx.Rngs):
        channels = config.block_channels[level]
        above = config.block_channels[max(level - 1, 0)]
        inputs = [above] + [channels] * (config.layers_per_block - 1)
        self.resnets = nnx.List([_resnet(c, channels, config, rngs) for c in inputs])
        attending = inputs if config.attention[level] else []
        self.attentions = nnx.List([_attention(channels, config, rngs) for _ in attending])
        halving, below = _halving(channels, config, rngs), config.block_channels[level + 1 :]
        self.downsamplers = nnx.List([halving] if below else [])

    def __call__(self, x: Array, temb: Array, keys: Keys) -> list[Array]:
        """Returns the output of every residual block and of the halving, in order."""
        outputs = []
        for i, resnet in enumerate(self.resnets):
            x = keep(resnet(x, temb, next(keys)))
            x = keep(self.attentions[i](x)) if self.attentions else x
            outputs.append(x)
        for downsample in self.downsamplers:
            outputs.append(_resized(downsample, x, temb, keys))
        return outputs


class MidBlock(nnx.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, config: UNetConfig, *, rngs: nnx.Rngs):
        self.resnets = nnx.List([_resnet(channels, channels, config, rngs) for _ in range(2)])
        self.attentions = nnx.List([_attention(channels, config, rngs)])

    def __call__(self, x: Array, temb: Array, keys: Keys) -> Array:
        x = keep(self.resnets[0](x, temb, next(keys)))
        x = keep(self.attentions[0](x))
        return keep(self.resnets[1](x, temb, next(keys)))


class UpBlock(nnx.Module):
    """The residual blocks of one level going up, each with a skip, then the doubling if a level is
    above."""

    def __init__(self, level: int, config: UNetConfig, *, rngs: nnx.Rngs):
        channels, layers = config.block_channels[level], config.layers_per_block
        below, above = config.block_channels[level + 1 :], config.block_channels[:level]
        # Skips in the order they are taken: of the residual blocks, then the input of the level.
        skips = [channels] * layers + [(above or (channels,))[-1]]
        inputs = [(below or (channels,))[0]] + [channels] * layers
        widths = [a + b for a, b in zip(inputs, skips, strict=True)]
        self.resnets = nnx.List([_resnet(c, channels, config, rngs) for c in widths])
        attending = inputs if config.attention[level] else []
        self.attentions = nnx.List([_attention(channels, config, rngs) for _ in attending])
        self.upsamplers = nnx.List([_doubling(channels, config, rngs)] if above else [])

    def __call__(self, x: Array, skips: list[Array], temb: Array, keys: Keys) -> Array:
        for i, (resnet, skip) in enumerate(zip(self.resnets, skips, strict=True)):
            x = keep(resnet(jnp.concatenate([x, skip], axis=-1), temb, next(keys)))
            x = keep(self.attentions[i](x)) if self.attentions else x
        for upsample in self.upsamplers:
            x = _resized(upsample, x, temb, keys)
        return x


class UNet2D(nnx.Module):
    """Convolutional U-Net of DDPM and ADM.

    Args:
      config: shape of the network.
      rngs: source of the initial weights (stream ``params``).
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, time_features = config.block_channels, config.time_features
        self.conv_in = Conv(config.in_channels, channels[0], 3, rngs=rngs)
        self.time_embedding = TimestepEmbedding(channels[0], time_features, rngs=rngs)
        # The second noise level starts without effect: a network of one noise level can be the
        # start of one with two.
        two = config.num_noise_levels == 2
        second = TimestepEmbedding(channels[0], time_features, zero=True, rngs=rngs)
        self.time_embedding_s = second if two else None
        classes = config.num_classes
        self.class_embedding = (
            ClassEmbedding(classes, time_features, null_class=config.null_class, rngs=rngs)
            if classes
            else None
        )

        levels = range(len(channels))
        self.down_blocks = nnx.List([DownBlock(level, config, rngs=rngs) for level in levels])
        self.mid_block = MidBlock(channels[-1], config, rngs=rngs)
        up_blocks = [UpBlock(level, config, rngs=rngs) for level in reversed(levels)]
        self.up_blocks = nnx.List(up_blocks)
        self.conv_norm_out = GroupNorm(channels[0], config.norm_num_groups, config.norm_eps)
        self.conv_out = Conv(channels[0], config.out_channels, 3, zero=True, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "H W I"],
        noise_levels: Float[Array, " N"],
        *,
        label: Float[Array, " K"] | None = None,
        measurement: object = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W O"]:
        """Evaluates the network on one image.

        Args:
          x: input, float (H, W, in_channels); H and W multiples of config.size_multiple.
          noise_levels: noise conditioning values, float (num_noise_levels,); times
            config.noise_scale they are the times that are embedded.
          label: class, one-hot float (num_classes,); None or all zeros is the null class, if
            config.null_class.
          measurement: None, see `UNetConfig.sees_measurement`.
          dropout_key: PRNG key; dropout is active if and only if it is given.

        Returns:
          Float (H, W, out_channels).

        Raises:
          UserError: if the size of the image, the number of channels or of noise levels, or the
            label does not fit the configuration.
        """
        check_inputs(self.config, x, noise_levels, label, measurement)
        temb = self._embed(noise_levels, label)
        layers = self.config.layers_per_block
        keys = (fold_key(dropout_key, index) for index in itertools.count())
        dtype = self.conv_in.kernel[...].dtype
        temb = temb.astype(dtype)
        out_dtype, x = x.dtype, self.conv_in(x.astype(dtype))
        skips = [x]
        for down_block in self.down_blocks:
            skips += down_block(skips[-1], temb, keys)
        x = self.mid_block(skips[-1], temb, keys)
        for up_block in self.up_blocks:
            taken = [skips.pop() for _ in range(layers + 1)]
            x = up_block(x, taken, temb, keys)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(out_dtype)

    def _embed(
        self, noise_levels: Float[Array, " N"], label: Float[Array, " K"] | None
    ) -> Float[Array, " T"]:
        config = self.config

        def sinusoids(noise_level: Array) -> Array:
            return timestep_embedding(
                noise_level * config.noise_scale,
                config.block_channels[0],
                flip_sin_to_cos=config.flip_sin_to_cos,
                freq_shift=config.freq_shift,
            )

        temb = self.time_embedding(sinusoids(noise_levels[0]))
        if self.time_embedding_s is not None:
            temb = temb + self.time_embedding_s(sinusoids(noise_levels[1]))
        if self.class_embedding is not None:
            temb = temb + self.class_embedding(label)
        return temb


def _resnet(
    in_channels: int,
    out_channels: int,
    config: UNetConfig,
    rngs: nnx.Rngs,
    resize: Callable[[Array], Array] | None = None,
) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        config.time_features,
        num_groups=config.norm_num_groups,
        eps=config.norm_eps,
        dropout_rate=config.dropout,
        scale_shift=config.time_conditioning == "scale_shift",
        resize=resize,
        rngs=rngs,
    )


def _halving(channels: int, config: UNetConfig, rngs: nnx.Rngs) -> Downsample | ResnetBlock:
    if config.resample == "resnet":
        return _resnet(channels, channels, config, rngs, halved)
    return Downsample(channels, config.downsample_padding, rngs=rngs)


def _doubling(channels: int, config: UNetConfig, rngs: nnx.Rngs) -> Upsample | ResnetBlock:
    if config.resample == "resnet":
        return _resnet(channels, channels, config, rngs, doubled)
    return Upsample(channels, rngs=rngs)


def _resized(
    layer: Downsample | Upsample | ResnetBlock, x: Array, temb: Array, keys: Keys
) -> Array:
    """What a layer of `_halving` or `_doubling` makes of x."""
    return keep(layer(x, temb, next(keys))) if isinstance(layer, ResnetBlock) else layer(x)


def _attention(channels: int, config: UNetConfig, rngs: nnx.Rngs) -> AttentionBlock:
    return AttentionBlock(
        channels,
        head_size=config.head_size or channels // config.num_heads,
        num_groups=config.norm_num_groups,
        eps=config.norm_eps,
        rngs=rngs,
    )
