"""A convolutional U-Net that sees a neighbourhood of each pixel only: photographs of any size.

No attention, no positions, no statistics over pixels: what it makes of a part of an image does
not depend on the rest of the image beyond its receptive field. Kadkhodaie, Guth, Mallat and
Simoncelli, ICLR 2023, arXiv:2303.02984, show that neighbourhoods suffice where coarser scales are
known.
Residual blocks without normalization as in Zhang et al., "Plug-and-Play Image Restoration with Deep
Denoiser Prior" (DRUNet), TPAMI 2021, arXiv:2008.13751; without biases as in Mohan et al., ICLR
2020, arXiv:1906.05478.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.errors import check_at_least
from lavps_jax.networks.conditioning import check_inputs, require
from lavps_jax.networks.convolution import Conv
from lavps_jax.networks.layers import FourierFeatures, Linear, group_patches, ungroup_patches
from lavps_jax.networks.precision import spread
from lavps_jax.networks.pure import keep


@dataclass(frozen=True)
class LocalUNetConfig:
    """Shape of a local U-Net; `build` makes the network.

    Attributes:
      in_channels: channels of the input.
      out_channels: channels of the output.
      patch_size: the outermost level has squares of so many pixels a side stacked to its channels.
      block_channels: channels of the levels from the outermost to the innermost; each level has
        half the squares per side.
      layers_per_block: residual blocks per level going down, and as many going up again; the
        innermost level has them once.
      noise_features: width of the embedded noise levels.
      num_noise_levels: 1, or 2 for networks that see the noise of two times.
    """

    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 2
    block_channels: tuple[int, ...] = (64, 96, 128, 192)
    layers_per_block: int = 1
    noise_features: int = 128
    num_noise_levels: int = 1

    def __post_init__(self):
        for name in ("in_channels", "out_channels", "patch_size", "layers_per_block"):
            check_at_least(name, getattr(self, name), 1)
        channels = self.block_channels
        levels = len(channels) >= 1 and min(channels) >= 1
        require(levels, "block_channels", channels, "give at least one level, of 1 channel or more")
        even = self.noise_features >= 2 and self.noise_features % 2 == 0
        require(even, "noise_features", self.noise_features, "use an even number from 2")
        valid_levels = self.num_noise_levels in (1, 2)
        require(valid_levels, "num_noise_levels", self.num_noise_levels, "use 1 or 2")

    @property
    def num_classes(self) -> int:
        """None: it has no classes."""
        return 0

    @property
    def size_multiple(self) -> int:
        """Images of any size: the network continues them at the lower and right edge."""
        return 1

    @property
    def smallest_side(self) -> int:
        """Image sides must be at least this many pixels."""
        return 1

    @property
    def sees_measurement(self) -> bool:
        """Never: only an HDiT can degrade its features."""
        return False

    def build(self, rngs: nnx.Rngs) -> LocalUNet:
        """Makes the network with fresh weights; it returns zero until it is trained."""
        return LocalUNet(self, rngs=rngs)


class ResidualBlock(nnx.Module):
    """x + W_2 relu((1 + S e) * W_1 x): 3 x 3 convolutions W_1 and W_2, the embedded noise e."""

    def __init__(self, channels: int, noise_features: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(channels, channels, 3, use_bias=False, rngs=rngs)
        self.scale = Linear(noise_features, channels, zero=True, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, use_bias=False, zero=True, rngs=rngs)

    def __call__(self, x: Float[Array, "H W C"], noise: Float[Array, " F"]) -> Array:
        hidden = self.conv1(x)
        hidden = hidden * spread(1 + self.scale(noise), hidden)
        return keep(x + self.conv2(jax.nn.relu(hidden)))


class LocalUNet(nnx.Module):
    """Local U-Net.

    Args:
      config: shape of the network.
      rngs: source of the initial weights (stream ``params``).
    """

    def __init__(self, config: LocalUNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        channels, features = config.block_channels, config.noise_features
        squares = config.patch_size**2

        def blocks(width: int) -> nnx.List:
            layers = range(config.layers_per_block)
            return nnx.List([ResidualBlock(width, features, rngs=rngs) for _ in layers])

        steps = list(itertools.pairwise(channels))
        self.fourier = FourierFeatures(config.num_noise_levels, features, rngs=rngs)
        self.embedding = Linear(features, features, use_bias=True, rngs=rngs)
        self.conv_in = Conv(config.in_channels * squares, channels[0], 3, use_bias=False, rngs=rngs)
        self.down_blocks = nnx.List([blocks(width) for width in channels])
        self.halvings = nnx.List([Linear(4 * above, below, rngs=rngs) for above, below in steps])
        self.doublings = nnx.List([Linear(below, 4 * above, rngs=rngs) for above, below in steps])
        self.up_blocks = nnx.List([blocks(width) for width in channels[:-1]])
        self.conv_out = Conv(
            channels[0], config.out_channels * squares, 3, use_bias=False, zero=True, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "H W I"],
        noise_levels: Float[Array, " N"],
        *,
        label: Float[Array, " K"] | None = None,
        measurement: object = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W O"]:
        """Evaluates the network on one image; for fixed noise levels, f(a x) = a f(x) for a >= 0.

        Args:
          x: input, float (H, W, in_channels), of any size.
          noise_levels: noise conditioning values, float (num_noise_levels,).
          label: None, the network has no classes.
          measurement: None, see `LocalUNetConfig.sees_measurement`.
          dropout_key: of no effect, the network has no dropout.

        Returns:
          Float (H, W, out_channels).

        Raises:
          UserError: if the number of channels or of noise levels does not fit the configuration.
        """
        config = self.config
        check_inputs(config, x, noise_levels, label, measurement)
        (height, width, _), out_dtype = x.shape, x.dtype
        multiple = config.patch_size * 2 ** (len(config.block_channels) - 1)
        x = jnp.pad(x, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")
        noise = jax.nn.silu(self.embedding(self.fourier(noise_levels)))
        dtype = self.conv_in.kernel[...].dtype
        noise = noise.astype(dtype)

        x = self.conv_in(group_patches(x.astype(dtype), config.patch_size))
        skips = []
        for level, blocks in enumerate(self.down_blocks):
            if level:
                skips.append(x)
                x = self.halvings[level - 1](group_patches(x, 2))
            for block in blocks:
                x = block(x, noise)
        for level in reversed(range(len(self.up_blocks))):
            x = skips[level] + ungroup_patches(self.doublings[level](x), 2)
            for block in self.up_blocks[level]:
                x = block(x, noise)
        x = ungroup_patches(self.conv_out(x), config.patch_size)
        return x[:height, :width].astype(out_dtype)
