"""The parts of the hourglass diffusion transformer (HDiT), each for one image.

Source: Crowson et al., "Scalable High-Resolution Pixel-Space Image Synthesis with Hourglass
Diffusion Transformers", ICML 2024, arXiv:2401.11605. Attribute names follow the published
state dicts, so that weights map name by name.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.networks.attention import (
    axial_rotation,
    global_attention,
    neighbourhood_attention,
    rotate,
)
from lavps_jax.networks.initial import normal
from lavps_jax.networks.precision import spread, widened
from lavps_jax.networks.pure import Buffer

_EPS = 1e-6


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Zeroes entries with probability `rate` and rescales the rest; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def fold_key(key: Array | None, index: int) -> Array | None:
    """The key of part `index`; None stays None (no dropout)."""
    return None if key is None else jax.random.fold_in(key, index)


class Linear(nnx.Module):
    """y = x @ kernel (+ bias) along the last axis; kernel (in, out).

    Written here, because `nnx.Linear` keeps its initializers as attributes, and two initializers
    built separately are not equal: every rebuilt network would be traced again.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = False,
        zero: bool = False,
        rngs: nnx.Rngs,
    ):
        shape = (in_features, out_features)
        if zero:
            kernel = jnp.zeros(shape)
        else:
            kernel = normal(rngs.params(), shape, 1 / math.sqrt(in_features))
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((out_features,))) if use_bias else None

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        y = jnp.dot(x, self.kernel[...])
        return y if self.bias is None else y + spread(self.bias[...], y)


def _rms_normalize(x: Float[Array, "... C"], scale: Float[Array, " C"]) -> Float[Array, "... C"]:
    square = jnp.square(widened(x))
    inverse = jax.lax.rsqrt(jnp.mean(square, axis=-1, keepdims=True) + _EPS)
    return (x * (spread(scale, square) * inverse)).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x * scale / sqrt(mean(x^2) + 1e-6) along the last axis."""

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones((features,)))

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
        return _rms_normalize(x, self.scale[...])


class AdaRMSNorm(nnx.Module):
    """x * (1 + W cond) / sqrt(mean(x^2) + 1e-6); W starts at zero."""

    def __init__(self, features: int, cond_features: int, *, rngs: nnx.Rngs):
        self.linear = Linear(cond_features, features, zero=True, rngs=rngs)

    def __call__(self, x: Float[Array, "... C"], cond: Float[Array, " M"]) -> Float[Array, "... C"]:
        return _rms_normalize(x, self.linear(cond) + 1.0)


class FourierFeatures(nnx.Module):
    """[cos, sin] of 2 pi W x, with fixed random W (out_features / 2, in_features)."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.weight = Buffer(normal(rngs.params(), (out_features // 2, in_features)))

    def __call__(self, x: Float[Array, " I"]) -> Float[Array, " O"]:
        weight = jax.lax.stop_gradient(self.weight[...])
        angle = 2 * math.pi * jnp.dot(weight, x)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


def _geglu(up_proj: Linear, x: Float[Array, "... C"]) -> Float[Array, "... F"]:
    """The first half of a linear map to 2 F features times the exact GELU of the second half."""
    value, gate = jnp.split(up_proj(x), 2, axis=-1)
    return value * jax.nn.gelu(gate, approximate=False)


class MappingBlock(nnx.Module):
    """x + down(GEGLU(norm(x))) on the conditioning vector."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(width)
        self.up_proj = Linear(width, 2 * hidden, rngs=rngs)
        self.down_proj = Linear(hidden, width, zero=True, rngs=rngs)

    def __call__(self, x: Float[Array, " M"]) -> Float[Array, " M"]:
        return x + self.down_proj(_geglu(self.up_proj, self.norm(x)))


class MappingNetwork(nnx.Module):
    """Turns the sum of the embeddings into the conditioning vector of all layers."""

    def __init__(self, width: int, depth: int, hidden: int, *, rngs: nnx.Rngs):
        self.in_norm = RMSNorm(width)
        self.blocks = nnx.List([MappingBlock(width, hidden, rngs=rngs) for _ in range(depth)])
        self.out_norm = RMSNorm(width)

    def __call__(self, x: Float[Array, " M"]) -> Float[Array, " M"]:
        x = self.in_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.out_norm(x)


class SelfAttention(nnx.Module):
    """Cosine-similarity attention with rotary positions, plus the residual.

    Queries and keys have length sqrt(scale), with one learned scale per head, 10 at the start.

    Args:
      features: width of the tokens, a multiple of head_size.
      cond_features: width of the conditioning vector.
      head_size: width of a head, a multiple of 8.
      kernel_size: side of the attention window; None attends to the whole grid.
      dropout_rate: dropped share of the attention's output.
      joint: whether there is a second set of keys and values, made of other tokens.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        features: int,
        cond_features: int,
        *,
        head_size: int,
        kernel_size: int | None,
        dropout_rate: float,
        joint: bool,
        rngs: nnx.Rngs,
    ):
        self.head_size = head_size
        self.kernel_size = kernel_size
        self.dropout_rate = dropout_rate
        self.scale = nnx.Param(jnp.full((features // head_size,), 10.0))
        self.norm = AdaRMSNorm(features, cond_features, rngs=rngs)
        self.qkv_proj = Linear(features, 3 * features, rngs=rngs)
        self.out_proj = Linear(features, features, zero=True, rngs=rngs)
        self.jnorm = AdaRMSNorm(features, cond_features, rngs=rngs) if joint else None
        self.jk_proj = Linear(2 * features, features, rngs=rngs) if joint else None
        self.jv_proj = Linear(features, features, rngs=rngs) if joint else None

    def __call__(
        self,
        x: Float[Array, "H W C"],
        cond: Float[Array, " M"],
        other: Float[Array, "H W C"] | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W C"]:
        """`other` are the tokens of the second set, if and only if there is one."""
        height, width, features = x.shape
        num_heads = features // self.head_size
        heads = (height, width, num_heads, self.head_size)
        cosine, sine = axial_rotation(*heads, x.dtype)
        normed = self.norm(x, cond)
        q, k, v = (part.reshape(heads) for part in jnp.split(self.qkv_proj(normed), 3, axis=-1))
        keys, values = [k], [v]
        if self.jnorm is not None and self.jk_proj is not None and self.jv_proj is not None:
            assert other is not None
            other = self.jnorm(other, cond)
            keys.append(self.jk_proj(jnp.concatenate([normed, other], axis=-1)).reshape(heads))
            values.append(self.jv_proj(other).reshape(heads))
        q, *keys = (rotate(self._to_sphere(one), cosine, sine) for one in (q, *keys))
        if self.kernel_size is None:
            out = global_attention(q, jnp.stack(keys), jnp.stack(values))
        else:
            out = neighbourhood_attention(q, jnp.stack(keys), jnp.stack(values), self.kernel_size)
        out = dropout(out.reshape(height, width, features), self.dropout_rate, dropout_key)
        return x + self.out_proj(out)

    def _to_sphere(self, x: Float[Array, "H W N D"]) -> Float[Array, "H W N D"]:
        square = jnp.square(widened(x))
        inverse = jax.lax.rsqrt(jnp.sum(square, axis=-1, keepdims=True) + _EPS)
        radius = jnp.sqrt(self.scale[...])[:, None]
        return (x * (spread(radius, inverse) * inverse)).astype(x.dtype)


class FeedForward(nnx.Module):
    """x + down(GEGLU(norm(x, cond))) on every token."""

    def __init__(
        self,
        features: int,
        cond_features: int,
        *,
        hidden: int,
        dropout_rate: float,
        rngs: nnx.Rngs,
    ):
        self.dropout_rate = dropout_rate
        self.norm = AdaRMSNorm(features, cond_features, rngs=rngs)
        self.up_proj = Linear(features, 2 * hidden, rngs=rngs)
        self.down_proj = Linear(hidden, features, zero=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "H W C"], cond: Float[Array, " M"], dropout_key: Array | None = None
    ) -> Float[Array, "H W C"]:
        hidden = _geglu(self.up_proj, self.norm(x, cond))
        return x + self.down_proj(dropout(hidden, self.dropout_rate, dropout_key))


def group_patches(x: Float[Array, "H W C"], size: int) -> Float[Array, "h w F"]:
    """Non-overlapping size x size patches as features, ordered (row, column, channel)."""
    height, width, channels = x.shape
    x = x.reshape(height // size, size, width // size, size, channels)
    return x.transpose(0, 2, 1, 3, 4).reshape(height // size, width // size, -1)


def ungroup_patches(x: Float[Array, "h w F"], size: int) -> Float[Array, "H W C"]:
    """The inverse of `group_patches`."""
    height, width, features = x.shape
    x = x.reshape(height, width, size, size, features // size**2)
    return x.transpose(0, 2, 1, 3, 4).reshape(height * size, width * size, -1)


class TokenMerge(nnx.Module):
    """size x size patches to tokens by one linear map without bias."""

    def __init__(self, in_features: int, out_features: int, size: int, *, rngs: nnx.Rngs):
        self.size = size
        self.proj = Linear(in_features * size**2, out_features, rngs=rngs)

    def __call__(self, x: Float[Array, "H W C"]) -> Float[Array, "h w F"]:
        return self.proj(group_patches(x, self.size))


class TokenSplit(nnx.Module):
    """Tokens to 2 x 2 tokens, mixed with the skip: skip + fac * (split - skip)."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.proj = Linear(in_features, out_features * 4, rngs=rngs)
        self.fac = nnx.Param(jnp.full((1,), 0.5))

    def __call__(
        self, x: Float[Array, "h w F"], skip: Float[Array, "H W C"]
    ) -> Float[Array, "H W C"]:
        split = ungroup_patches(self.proj(x), 2)
        return skip + spread(self.fac[...], skip) * (split - skip)


class PatchOut(nnx.Module):
    """Tokens to size x size patches of pixels; starts at zero."""

    def __init__(self, in_features: int, out_features: int, size: int, *, rngs: nnx.Rngs):
        self.size = size
        self.proj = Linear(in_features, out_features * size**2, zero=True, rngs=rngs)

    def __call__(self, x: Float[Array, "h w F"]) -> Float[Array, "H W C"]:
        return ungroup_patches(self.proj(x), self.size)
