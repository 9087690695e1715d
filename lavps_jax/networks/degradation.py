"""Feature degradation: the operator applied inside the network, to its own features.

Source: Elata et al., "InvFussion: Bridging Supervised and Zero-shot Diffusion for Inverse
Problems", 2025, arXiv:2504.01689.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.networks.layers import Linear, group_patches, ungroup_patches
from lavps_jax.networks.precision import widened


class Measurement(NamedTuple):
    """One observation, as a network sees it.

    Attributes:
      y: float, any shape.
      forward: A, (H, W, C) to the shape of y.
      inverse: A^+ or a regularised form of it, the shape of y to (H, W, C).
    """

    y: Array
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


class FeatureDegradation(nnx.Module):
    """What the operator makes of the features, next to what was measured.

    The features of a level are read as K images, each is degraded by A, and y is put in front of
    them. A linear map and a GELU, K + 1 to K at every entry of y, mix them; A^+ brings the result
    back to the layout of the features.

    Args:
      features: width of the level, a multiple of patch_size^2 * channels.
      patch_size: side of a token in pixels.
      channels: of an image.
      rngs: source of the initial weights.
    """

    def __init__(self, features: int, patch_size: int, channels: int, *, rngs: nnx.Rngs):
        self.patch_size = patch_size
        self.channels = channels
        count = features // (patch_size**2 * channels)
        self.deg_linear = Linear(count + 1, count, use_bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "h w F"], measurement: Measurement) -> Float[Array, "h w F"]:
        # Operators have no half precision: there is no such FFT.
        pixels = ungroup_patches(widened(x), self.patch_size)
        height, width, _ = pixels.shape
        images = jnp.moveaxis(pixels.reshape(height, width, -1, self.channels), 2, 0)
        degraded = jax.vmap(measurement.forward)(images)
        seen = jnp.concatenate([measurement.y[None].astype(degraded.dtype), degraded])
        mixed = self.deg_linear(jnp.moveaxis(seen, 0, -1))
        mixed = jnp.moveaxis(jax.nn.gelu(mixed, approximate=False), -1, 0)
        restored = jnp.moveaxis(jax.vmap(measurement.inverse)(mixed), 0, 2)
        restored = group_patches(restored.reshape(height, width, -1), self.patch_size)
        return restored.astype(x.dtype)
