"""The convolutional U-Nets of score-based models, DDPM++ and NCSN++, as EDM trains them.

Sources: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
ICLR 2021, arXiv:2011.13456; Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models" (EDM), NeurIPS 2022, arXiv:2206.00364.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.errors import check_choices
from lavps_jax.networks.conditioning import check_inputs, require
from lavps_jax.networks.convolution import (
    Conv,
    GroupNorm,
    doubled,
    halved,
    inner_smoothly_halved,
    smoothly_doubled,
    smoothly_halved,
)
from lavps_jax.networks.initial import normal
from lavps_jax.networks.layers import Linear, fold_key
from lavps_jax.networks.pure import Buffer, keep
from lavps_jax.networks.unet_layers import (
    AttentionBlock,
    LevelsConfig,
    ResnetBlock,
    TimestepEmbedding,
    timestep_embedding,
)

_EPS = 1e-6
_SUM_SCALE = math.sqrt(0.5)


@dataclass(frozen=True)
class SongUNetConfig(LevelsConfig):
    """Shape of a DDPM++ or NCSN++; `build` makes the network.

    Attributes:
      architecture: "ddpm++" has sinusoids of the noise level, means of 2 x 2 pixels and repeated
        pixels; "ncsn++" has random Fourier features of it, smooth changes of the size, and adds
        the image, at every smaller size, to the features going down.
      in_channels: channels of the input.
      out_channels: channels of the output.
      model_channels: channels of the first convolution; the embedded noise level has four times
        as many.
      block_channels: channels of the levels from the outermost to the innermost; each level has
        half the pixels per side. With model_channels they are all multiples of 32, or all
        multiples of 4 below 64.
      attention: per level, whether self-attention of one head follows each residual block going
        down and the last one going up; the innermost block in the middle always has it.
      layers_per_block: residual blocks per level going down; one more going up.
      dropout: dropped share in training, in [0, 1).
      num_classes: classes of a class-conditional network; 0 means none.
    """

    architecture: Literal["ddpm++", "ncsn++"] = "ddpm++"
    in_channels: int = 3
    out_channels: int = 3
    model_channels: int = 128
    block_channels: tuple[int, ...] = (128, 256, 256, 256)
    attention: tuple[bool, ...] = (False, False, True, False)
    layers_per_block: int = 4
    dropout: float = 0.0
    num_classes: int = 0

    def __post_init__(self):
        check_choices(self)
        self.check_levels()
        widths = (self.model_channels, *self.block_channels)
        require(
            min(widths) >= 1
            and (all(c % 32 == 0 for c in widths) or all(c % 4 == 0 and c < 64 for c in widths)),
            "model_channels, block_channels",
            widths,
            "use multiples of 32, or of 4 below 64",
        )

    @property
    def num_noise_levels(self) -> int:
        """Always one."""
        return 1

    @property
    def noise_features(self) -> int:
        """Width of what a noise level is made of before it is embedded."""
        return self.model_channels * (2 if self.architecture == "ncsn++" else 1)

    @property
    def time_features(self) -> int:
        """Width of the embedded noise level."""
        return 4 * self.model_channels

    def build(self, rngs: nnx.Rngs) -> SongUNet:
        """Makes the network with fresh weights; it returns zero until it is trained."""
        return SongUNet(self, rngs=rngs)


class NoiseFourierFeatures(nnx.Module):
    """[sin, cos] of 2 pi f c, with fixed random frequencies f ~ N(0, 16^2)."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.freqs = Buffer(normal(rngs.params(), (features // 2,), 16.0))

    def __call__(self, c: Float[Array, ""]) -> Float[Array, " F"]:
        angle = c * (2 * math.pi * jax.lax.stop_gradient(self.freqs[...]))
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])


class SongBlock(nnx.Module):
    """A residual block, then attention if asked; the sum with each residual times sqrt(1/2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: SongUNetConfig,
        *,
        attends: bool = False,
        resize: Callable[[Array], Array] | None = None,
        rngs: nnx.Rngs,
    ):
        groups = _num_groups(out_channels)
        self.resnet = ResnetBlock(
            in_channels,
            out_channels,
            config.time_features,
            num_groups=_num_groups(in_channels),
            out_groups=groups,
            eps=_EPS,
            dropout_rate=config.dropout,
            resize=resize,
            project=resize is not None,
            rngs=rngs,
        )
        self.attention = (
            AttentionBlock(
                out_channels, head_size=out_channels, num_groups=groups, eps=_EPS, rngs=rngs
            )
            if attends
            else None
        )

    def __call__(
        self, x: Float[Array, "H W I"], temb: Float[Array, " T"], dropout_key: Array | None
    ) -> Float[Array, "h w O"]:
        x = self.resnet(x, temb, dropout_key) * _SUM_SCALE
        return keep(x if self.attention is None else self.attention(x) * _SUM_SCALE)


class SongUNet(nnx.Module):
    """DDPM++ or NCSN++.

    Args:
      config: shape of the network.
      rngs: source of the initial weights (stream ``params``).
    """

    def __init__(self, config: SongUNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, blocks = config.block_channels, config.layers_per_block
        ncsn, features = config.architecture == "ncsn++", config.noise_features
        self.map_noise = NoiseFourierFeatures(features, rngs=rngs) if ncsn else None
        classes = config.num_classes
        self.map_label = Linear(classes, features, use_bias=True, rngs=rngs) if classes else None
        self.time_embedding = TimestepEmbedding(features, config.time_features, rngs=rngs)
        self.conv_in = Conv(config.in_channels, config.model_channels, 3, rngs=rngs)

        def block(inputs: int, outputs: int, attends: bool = False, resize=None) -> SongBlock:
            return SongBlock(inputs, outputs, config, attends=attends, resize=resize, rngs=rngs)

        halve, double = (smoothly_halved, smoothly_doubled) if ncsn else (halved, doubled)
        self.down = nnx.List([block(c, c, resize=halve) for c in channels[:-1]])
        self.up = nnx.List([block(c, c, resize=double) for c in channels[1:]])
        self.middle = nnx.List([block(channels[-1], channels[-1], has) for has in (True, False)])
        self.encoder, self.decoder = nnx.List([]), nnx.List([])
        outer = (config.model_channels, *channels)
        for level, (c, attends) in enumerate(zip(channels, config.attention, strict=True)):
            widths = [outer[level]] + [c] * (blocks - 1)
            self.encoder.append(nnx.List([block(width, c, attends) for width in widths]))
            inner = channels[min(level + 1, len(channels) - 1)]
            widths = [inner + c] + [2 * c] * (blocks - 1)
            going_up = [block(width, c) for width in widths] + [block(c + outer[level], c, attends)]
            self.decoder.append(nnx.List(going_up))
        # A pixel more on all sides than keeps the size: the filter that follows takes them.
        images = itertools.pairwise((config.in_channels, *channels[:-1]) if ncsn else ())
        pyramid = [Conv(a, b, 3, padding=(2, 2), rngs=rngs) for a, b in images]
        self.pyramid = nnx.List(pyramid)
        self.norm_out = GroupNorm(channels[0], _num_groups(channels[0]), _EPS)
        self.conv_out = Conv(channels[0], config.out_channels, 3, zero=True, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "H W I"],
        noise_levels: Float[Array, " 1"],
        *,
        label: Float[Array, " K"] | None = None,
        measurement: object = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W O"]:
        """Evaluates the network on one image.

        Args:
          x: input, float (H, W, in_channels); H and W multiples of config.size_multiple.
          noise_levels: noise conditioning value, float (1,); log(sigma) / 4 in EDM.
          label: class, one-hot float (num_classes,); None or all zeros is the null class.
          measurement: None, see `SongUNetConfig.sees_measurement`.
          dropout_key: PRNG key; dropout is active if and only if it is given.

        Returns:
          Float (H, W, out_channels).

        Raises:
          UserError: if the size of the image, the number of channels or of noise levels, or the
            label does not fit the configuration.
        """
        check_inputs(self.config, x, noise_levels, label, measurement)
        keys = (fold_key(dropout_key, index) for index in itertools.count())
        dtype = self.conv_in.kernel[...].dtype
        temb = self._embed(noise_levels[0], label).astype(dtype)
        out_dtype, x = x.dtype, x.astype(dtype)
        image, x = x, self.conv_in(x)
        skips = [x]
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](x, temb, next(keys))
                if self.pyramid:
                    image = inner_smoothly_halved(self.pyramid[level - 1](image))
                    image = x = keep((x + image) * _SUM_SCALE)
                skips.append(x)
            for block in blocks:
                x = block(x, temb, next(keys))
                skips.append(x)
        for block in self.middle:
            x = block(x, temb, next(keys))
        for level, blocks in reversed(list(enumerate(self.decoder))):
            if level < len(self.up):
                x = self.up[level](x, temb, next(keys))
            for block in blocks:
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), temb, next(keys))
        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(out_dtype)

    def _embed(
        self, noise_level: Float[Array, ""], label: Float[Array, " K"] | None
    ) -> Float[Array, " T"]:
        config = self.config
        if self.map_noise is None:
            features = timestep_embedding(
                noise_level, config.noise_features, flip_sin_to_cos=False, freq_shift=1.0
            )
        else:
            features = self.map_noise(noise_level)
        if self.map_label is not None:
            label = jnp.zeros(config.num_classes, features.dtype) if label is None else label
            features = features + self.map_label(label * math.sqrt(config.num_classes))
        return self.time_embedding(features)


def _num_groups(channels: int) -> int:
    """Groups of a normalization: 32, or fewer of four channels."""
    return min(32, channels // 4)
