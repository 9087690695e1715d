"""Published networks: those of LAVPS for 256 x 256 photographs, of ADM, of DDPM, and of EDM.

Sources: arXiv:2602.07102; Dhariwal, Nichol, NeurIPS 2021, arXiv:2105.05233; Ho et al., NeurIPS
2020, arXiv:2006.11239; Nichol, Dhariwal, ICML 2021, arXiv:2102.09672; Karras et al., NeurIPS 2022,
arXiv:2206.00364.
"""

from __future__ import annotations

import dataclasses

from lavps_jax.networks.hdit import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)
from lavps_jax.networks.song_unet import SongUNetConfig
from lavps_jax.networks.unet import UNetConfig

FFHQ256 = HDiTConfig(
    patch_size=4,
    levels=(
        LevelConfig(192, 2, NeighbourhoodAttention(5), dropout=0.05),
        LevelConfig(384, 2, NeighbourhoodAttention(7), dropout=0.05),
        LevelConfig(768, 4, GlobalAttention(), dropout=0.05),
        LevelConfig(1536, 2, GlobalAttention(), dropout=0.05),
    ),
    mapping_width=256,
    mapping_depth=2,
)
"""Faces; 151.9 million parameters as a prior."""

IMAGENET256 = HDiTConfig(
    patch_size=4,
    levels=(
        LevelConfig(384, 2, NeighbourhoodAttention(7)),
        LevelConfig(768, 2, NeighbourhoodAttention(7)),
        LevelConfig(1536, 16, GlobalAttention()),
    ),
    mapping_width=768,
    mapping_depth=2,
    num_classes=1000,
)
"""ImageNet with its classes; 598.3 million parameters as a prior."""


ADM_IMAGENET256 = UNetConfig(
    out_channels=6,
    block_channels=(256, 256, 512, 512, 1024, 1024),
    attention=(False, False, False, True, True, True),
    head_size=64,
    norm_eps=1e-5,
    flip_sin_to_cos=True,
    freq_shift=0.0,
    noise_scale=1.0,
    time_conditioning="scale_shift",
    resample="resnet",
)
"""ADM on ImageNet without classes, `256x256_diffusion_uncond.pt`; 552.8 million parameters."""

ADM_IMAGENET256_CLASSES = dataclasses.replace(ADM_IMAGENET256, num_classes=1000, null_class=False)
"""The same with classes, `256x256_diffusion.pt`."""

ADM_IMAGENET64 = dataclasses.replace(
    ADM_IMAGENET256_CLASSES,
    block_channels=(192, 384, 576, 768),
    attention=(False, True, True, True),
    layers_per_block=3,
    dropout=0.1,
)
"""ADM on ImageNet with classes, `64x64_diffusion.pt`; 295.9 million parameters."""

ADM_IMAGENET128 = dataclasses.replace(
    ADM_IMAGENET256_CLASSES,
    block_channels=(256, 256, 512, 768, 1024),
    attention=(False, False, True, True, True),
    head_size=None,
    num_heads=4,
)
"""ADM on ImageNet with classes, `128x128_diffusion.pt`; 421.5 million parameters."""

ADM_FFHQ256 = dataclasses.replace(
    ADM_IMAGENET256,
    block_channels=(128, 128, 256, 256, 512, 512),
    attention=(False, False, False, False, True, False),
    layers_per_block=1,
)
"""Faces, `ffhq_10m.pt` of the DPS code; 93.6 million parameters."""

IMPROVED_IMAGENET64 = dataclasses.replace(
    ADM_IMAGENET256,
    block_channels=(128, 256, 384, 512),
    attention=(False, False, True, True),
    layers_per_block=3,
    head_size=None,
    num_heads=4,
    noise_scale=0.25,
    resample="conv",
)
"""Improved DDPM on ImageNet, `imagenet64_uncond_100M_1500K.pt`; 121.1 million parameters. Of its
4000 times it is told a quarter."""

IMPROVED_CIFAR10 = dataclasses.replace(
    IMPROVED_IMAGENET64,
    block_channels=(128, 256, 256, 256),
    attention=(False, True, True, False),
    dropout=0.3,
)
"""The same on CIFAR-10, `cifar10_uncond_50M_500K.pt`; 52.5 million parameters."""

IMPROVED_IMAGENET64_CLASSES = dataclasses.replace(
    IMPROVED_IMAGENET64,
    block_channels=(192, 384, 576, 768),
    noise_scale=1.0,
    num_classes=1000,
    null_class=False,
)
"""Improved DDPM on ImageNet with classes, `imagenet64_cond_270M_250K.pt`; 273.0 million parameters.
It is told its 4000 times themselves."""

IMPROVED_BEDROOM256 = dataclasses.replace(
    ADM_FFHQ256, layers_per_block=2, head_size=None, time_conditioning="add", resample="conv"
)
"""Improved DDPM on LSUN bedrooms, `lsun_uncond_100M_1200K_bs128.pt`; 113.7 million parameters."""

DDPM256 = UNetConfig(
    block_channels=(128, 128, 256, 256, 512, 512),
    attention=(False, False, False, False, True, False),
    downsample_padding=0,
    noise_scale=1.0,
)
"""DDPM for CelebA-HQ and LSUN at 256 pixels; 113.7 million parameters."""

DDPM_CIFAR10 = dataclasses.replace(
    DDPM256, block_channels=(128, 256, 256, 256), attention=(False, True, False, False)
)
"""DDPM for CIFAR-10 at 32 pixels; 35.7 million parameters."""

EDM_CIFAR10 = SongUNetConfig(block_channels=(256, 256, 256), attention=(False, True, False))
"""EDM's DDPM++ for CIFAR-10, `edm-cifar10-32x32-uncond-vp`; 55.7 million parameters."""

EDM_CIFAR10_CLASSES = dataclasses.replace(EDM_CIFAR10, num_classes=10)
"""The same with classes, `edm-cifar10-32x32-cond-vp`."""

EDM_CIFAR10_NCSN = dataclasses.replace(EDM_CIFAR10, architecture="ncsn++")
"""EDM's NCSN++ for CIFAR-10, `edm-cifar10-32x32-uncond-ve`; 56.4 million parameters."""

EDM_CIFAR10_NCSN_CLASSES = dataclasses.replace(EDM_CIFAR10_NCSN, num_classes=10)
"""The same with classes, `edm-cifar10-32x32-cond-ve`."""

EDM_64 = SongUNetConfig(block_channels=(128, 256, 256, 256), attention=(False, False, True, False))
"""EDM's DDPM++ for FFHQ and AFHQv2 at 64 pixels, `edm-*-64x64-uncond-vp`; 61.8 million
parameters."""

EDM_64_NCSN = dataclasses.replace(EDM_64, architecture="ncsn++")
"""EDM's NCSN++ for the same, `edm-*-64x64-uncond-ve`; 62.8 million parameters."""

EDM_IMAGENET64 = dataclasses.replace(ADM_IMAGENET64, out_channels=3)
"""ADM on ImageNet with classes as EDM trains it, `edm-imagenet-64x64-cond-adm`; 295.9 million
parameters."""


def with_degradation(config: HDiTConfig) -> HDiTConfig:
    """The InvFussion form: every level degrades its features whose width holds a whole image."""

    def fits(index: int, level: LevelConfig) -> bool:
        return level.width % ((config.patch_size * 2**index) ** 2 * config.in_channels) == 0

    levels = tuple(
        dataclasses.replace(level, degrades=fits(index, level))
        for index, level in enumerate(config.levels)
    )
    return dataclasses.replace(config, levels=levels)
