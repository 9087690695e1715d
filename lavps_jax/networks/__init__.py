"""Networks: backbones (HDiT, U-Net), the amortized start, and networks as pure functions."""

from lavps_jax.networks.amortized import (
    AmortizedNetwork,
    AmortizedNetworkConfig,
    InverseRule,
    SupervisedNetwork,
    SupervisedNetworkConfig,
)
from lavps_jax.networks.degradation import Measurement
from lavps_jax.networks.hdit import (
    GlobalAttention,
    HDiT,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)
from lavps_jax.networks.local_unet import LocalUNet, LocalUNetConfig
from lavps_jax.networks.pure import (
    Buffer,
    ComputeDtype,
    PureModel,
    Remat,
    split,
    trainable_mask,
)
from lavps_jax.networks.song_unet import SongUNet, SongUNetConfig
from lavps_jax.networks.unet import UNet2D, UNetConfig

__all__ = [
    "Buffer",
    "ComputeDtype",
    "SupervisedNetwork",
    "SupervisedNetworkConfig",
    "GlobalAttention",
    "HDiT",
    "HDiTConfig",
    "InverseRule",
    "LevelConfig",
    "LocalUNet",
    "LocalUNetConfig",
    "Measurement",
    "NeighbourhoodAttention",
    "AmortizedNetwork",
    "AmortizedNetworkConfig",
    "PureModel",
    "Remat",
    "SongUNet",
    "SongUNetConfig",
    "UNet2D",
    "UNetConfig",
    "split",
    "trainable_mask",
]
