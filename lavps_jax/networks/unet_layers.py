"""The parts that the convolutional U-Nets share, each for one image, and their configurations."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.networks.conditioning import require
from lavps_jax.networks.convolution import Conv, GroupNorm
from lavps_jax.networks.layers import Linear, dropout
from lavps_jax.networks.precision import spread, widened


class LevelsConfig:
    """What the configurations of convolutional U-Nets share: levels of half the pixels per side.

    Their fields are those of the subclasses, which check them in `check_levels`.
    """

    in_channels: int
    out_channels: int
    block_channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers_per_block: int
    dropout: float
    num_classes: int

    def check_levels(self) -> None:
        """Raises a UserError that names a field which is out of range."""
        for name in ("in_channels", "out_channels", "layers_per_block"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "use at least 1")
        channels = self.block_channels
        require(len(channels) >= 1, "block_channels", channels, "give at least one level")
        require(
            len(self.attention) == len(channels),
            "attention",
            self.attention,
            f"give one entry for each of the {len(channels)} block_channels",
        )
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "use a rate in [0, 1)")
        require(self.num_classes >= 0, "num_classes", self.num_classes, "use 0 or more")

    @property
    def size_multiple(self) -> int:
        """Image sides must be multiples of this many pixels."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def smallest_side(self) -> int:
        """Image sides must be at least this many pixels: one for the innermost level."""
        return self.size_multiple

    @property
    def sees_measurement(self) -> bool:
        """Never: only an HDiT can degrade its features."""
        return False


def timestep_embedding(
    time: Float[Array, ""], features: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> Float[Array, " F"]:
    """[sin, cos] (or [cos, sin]) of the time at features / 2 frequencies from 1 to about 1e-4.

    Frequency i is 10000^(-i / (features / 2 - freq_shift)).
    """
    half = features // 2
    frequencies = np.exp(-math.log(10000.0) * np.arange(half) / (half - freq_shift))
    angle = time * jnp.asarray(frequencies, time.dtype)
    parts = [jnp.sin(angle), jnp.cos(angle)]
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts)


class TimestepEmbedding(nnx.Module):
    """Two linear layers with a SiLU between; the second starts at zero if asked."""

    def __init__(self, in_features: int, features: int, *, zero: bool = False, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_features, features, use_bias=True, rngs=rngs)
        self.linear_2 = Linear(features, features, use_bias=True, zero=zero, rngs=rngs)

    def __call__(self, x: Float[Array, " I"]) -> Float[Array, " T"]:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class ResnetBlock(nnx.Module):
    """Norm, SiLU, convolution, the time, and the same again; plus the residual.

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      time_features: width of the embedded time.
      num_groups: groups of the normalizations.
      out_groups: groups of the second one, if others.
      eps: added to the variance in them.
      dropout_rate: dropped share in training.
      scale_shift: whether the time scales and shifts the second norm, norm(h) (1 + a) + b, in
        place of being added before it.
      resize: what changes the size, on both paths: the residual, and the other one after its first
        SiLU.
      project: whether a 1 x 1 convolution is on the path of the residual even where it has as many
        channels as the output.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_features: int,
        *,
        num_groups: int,
        out_groups: int | None = None,
        eps: float,
        dropout_rate: float,
        scale_shift: bool = False,
        resize: Callable[[Array], Array] | None = None,
        project: bool = False,
        rngs: nnx.Rngs,
    ):
        self.dropout_rate = dropout_rate
        self.scale_shift = scale_shift
        self.resize = resize
        self.norm1 = GroupNorm(in_channels, num_groups, eps)
        self.conv1 = Conv(in_channels, out_channels, 3, rngs=rngs)
        time_width = 2 * out_channels if scale_shift else out_channels
        self.time_emb_proj = Linear(time_features, time_width, use_bias=True, rngs=rngs)
        self.norm2 = GroupNorm(out_channels, out_groups or num_groups, eps)
        self.conv2 = Conv(out_channels, out_channels, 3, rngs=rngs)
        same = in_channels == out_channels and not project
        self.conv_shortcut = None if same else Conv(in_channels, out_channels, 1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "H W I"], temb: Float[Array, " T"], dropout_key: Array | None
    ) -> Float[Array, "H W O"]:
        h = jax.nn.silu(self.norm1(x))
        if self.resize is not None:
            h, x = self.resize(h), self.resize(x)
        h, time = self.conv1(h), self.time_emb_proj(jax.nn.silu(temb))
        if self.scale_shift:
            scale, shift = jnp.split(time, 2)
            h = self.norm2(h) * (1 + spread(scale, h)) + spread(shift, h)
        else:
            h = self.norm2(h + spread(time, h))
        h = dropout(jax.nn.silu(h), self.dropout_rate, dropout_key)
        h = self.conv2(h)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class AttentionBlock(nnx.Module):
    """Scaled dot-product attention over all pixels, plus the residual."""

    def __init__(
        self, channels: int, *, head_size: int, num_groups: int, eps: float, rngs: nnx.Rngs
    ):
        self.head_size = head_size
        self.group_norm = GroupNorm(channels, num_groups, eps)
        self.to_q = Linear(channels, channels, use_bias=True, rngs=rngs)
        self.to_k = Linear(channels, channels, use_bias=True, rngs=rngs)
        self.to_v = Linear(channels, channels, use_bias=True, rngs=rngs)
        # A list of one, for the sake of the published name "to_out.0".
        self.to_out = nnx.List([Linear(channels, channels, use_bias=True, rngs=rngs)])

    def __call__(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        height, width, channels = x.shape
        h = self.group_norm(x).reshape(height * width, channels)
        shape = (height * width, channels // self.head_size, self.head_size)
        q, k, v = (layer(h).reshape(shape) for layer in (self.to_q, self.to_k, self.to_v))
        logits = jnp.einsum("qnd,knd->nqk", q / math.sqrt(self.head_size), k)
        weights = jax.nn.softmax(widened(logits), axis=-1).astype(v.dtype)
        out = jnp.einsum("nqk,knd->qnd", weights, v)
        return x + self.to_out[0](out.reshape(x.shape))
