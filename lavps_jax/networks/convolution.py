"""A convolution as matrix products, and the layers around it in a convolutional U-Net.

XLA's convolutions are several times slower inside loops than outside on a CPU; products are not.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.networks.initial import normal
from lavps_jax.networks.precision import spread, widened


def convolve(
    x: Float[Array, "H W I"],
    kernel: Float[Array, "K K I O"],
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Float[Array, "h w O"]:
    """Cross-correlates an image with a kernel (not flipped), zero padding.

    The columns a kernel sees are stacked to the channels, then each row of the kernel is one
    matrix product: K times the memory of x instead of the K * K of stacking whole patches.

    Args:
      x: image, float (H, W, in).
      kernel: float (K, K, in, out), axes (row, column, in, out).
      stride: step in pixels along both axes.
      padding: zeros before and after, along both axes.

    Returns:
      Float (h, w, out) with h = (H + sum(padding) - K) // stride + 1.
    """
    size = kernel.shape[0]
    x = jnp.pad(x, (padding, padding, (0, 0)))
    height, width = ((length - size) // stride + 1 for length in x.shape[:2])

    def shifted(x: Array, start: int, length: int, axis: int) -> Array:
        stop = start + (length - 1) * stride + 1
        return jax.lax.slice_in_dim(x, start, stop, stride, axis=axis)

    x = jnp.concatenate([shifted(x, j, width, 1) for j in range(size)], axis=-1)
    rows = kernel.reshape(size, -1, kernel.shape[-1])
    return sum(
        (jnp.dot(shifted(x, i, height, 0), rows[i]) for i in range(1, size)),
        jnp.dot(shifted(x, 0, height, 0), rows[0]),
    )


def halved(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """The means of squares of 2 x 2 pixels."""
    height, width, channels = x.shape
    return jnp.mean(x.reshape(height // 2, 2, width // 2, 2, channels), axis=(1, 3))


def doubled(x: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
    """Every pixel repeated in a square of 2 x 2."""
    height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, None, :, None, :], (height, 2, width, 2, channels))
    return x.reshape(2 * height, 2 * width, channels)


def inner_smoothly_halved(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """Every second pixel of x, filtered with (1, 3, 3, 1) / 8 along both axes, where all taps are.

    h = H / 2 - 1 and w = W / 2 - 1.
    """
    for axis in (0, 1):
        size = x.shape[axis]
        a, b, c, d = (jax.lax.slice_in_dim(x, i, size + i - 3, 2, axis=axis) for i in range(4))
        x = (a + 3 * (b + c) + d) / 8
    return x


def smoothly_halved(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """Half the size; filtered with (1, 3, 3, 1) / 8 along both axes, with zeros around x."""
    return inner_smoothly_halved(jnp.pad(x, ((1, 1), (1, 1), (0, 0))))


def smoothly_doubled(x: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
    """Twice the size; pixels with zeros between, filtered with (1, 3, 3, 1) / 4 along both axes."""
    for axis in (0, 1):
        size = x.shape[axis]
        wide = jnp.pad(x, [(int(i == axis), int(i == axis)) for i in range(3)])
        before, behind = (jax.lax.slice_in_dim(wide, i, size + i, axis=axis) for i in (0, 2))
        both = jnp.stack([before + 3 * x, 3 * x + behind], axis=axis + 1) / 4
        x = both.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


class Conv(nnx.Module):
    """A convolution; kernel (row, column, in, out).

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      kernel_size: side of the kernel.
      stride: step in pixels.
      padding: zeros before and after; None keeps the size at stride 1.
      use_bias: whether a number per channel is added.
      zero: whether the kernel starts at zero.
      rngs: source of the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
        use_bias: bool = True,
        zero: bool = False,
        rngs: nnx.Rngs,
    ):
        same = (kernel_size // 2, kernel_size // 2)
        self.stride = stride
        self.padding = same if padding is None else padding
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        if zero:
            kernel = jnp.zeros(shape)
        else:
            kernel = normal(rngs.params(), shape, 1 / (kernel_size * math.sqrt(in_channels)))
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((out_channels,))) if use_bias else None

    def __call__(self, x: Float[Array, "H W I"]) -> Float[Array, "h w O"]:
        y = convolve(x, self.kernel[...], stride=self.stride, padding=self.padding)
        return y if self.bias is None else y + spread(self.bias[...], y)


class GroupNorm(nnx.Module):
    """Normalizes groups of neighbouring channels over all pixels, then scale and bias."""

    def __init__(self, channels: int, num_groups: int, eps: float):
        self.num_groups = num_groups
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        height, width, channels = x.shape
        dtype = x.dtype
        groups = widened(x).reshape(height, width, self.num_groups, -1)
        # Mean first, then the variance of what is left: in float32 the mean of squares minus the
        # squared mean loses digits where the mean is large.
        groups = groups - jnp.mean(groups, axis=(0, 1, 3), keepdims=True)
        variance = jnp.mean(jnp.square(groups), axis=(0, 1, 3), keepdims=True)
        x = (groups * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (x * spread(self.scale[...], x) + spread(self.bias[...], x)).astype(dtype)


class Downsample(nnx.Module):
    """Halves the size by a 3 x 3 convolution of stride 2.

    Args:
      channels: channels of input and output.
      padding: 1 pads both sides; 0 pads one zero after the last row and column only (the published
        DDPM networks).
      rngs: source of the initial weights.
    """

    def __init__(self, channels: int, padding: int, *, rngs: nnx.Rngs):
        both = (1, 1) if padding else (0, 1)
        self.conv = Conv(channels, channels, 3, stride=2, padding=both, rngs=rngs)

    def __call__(self, x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles the size by repeating pixels, then a 3 x 3 convolution."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        return self.conv(doubled(x))
