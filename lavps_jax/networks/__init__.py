"""Networks: backbones (HDiT, U-Net), the amortized start, and networks as pure functions."""

from lavps_jax.networks.amortized import (
    ConditionalDenoiser,
    ConditionalDenoiserConfig,
    InverseRule,
    Palette,
    PaletteConfig,
)
from lavps_jax.networks.degradation import Measurement
from lavps_jax.networks.hdit import (
    GlobalAttention,
    HDiT,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)
from lavps_jax.networks.pure import (
    Buffer,
    ComputeDtype,
    PureModel,
    Remat,
    split,
    trainable_mask,
)
from lavps_jax.networks.unet import UNet2D, UNetConfig

__all__ = [
    "Buffer",
    "ComputeDtype",
    "ConditionalDenoiser",
    "ConditionalDenoiserConfig",
    "GlobalAttention",
    "HDiT",
    "HDiTConfig",
    "InverseRule",
    "LevelConfig",
    "Measurement",
    "NeighbourhoodAttention",
    "Palette",
    "PaletteConfig",
    "PureModel",
    "Remat",
    "UNet2D",
    "UNetConfig",
    "split",
    "trainable_mask",
]
