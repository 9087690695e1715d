"""The published networks for 256 x 256 photographs (arXiv:2602.07102)."""

from __future__ import annotations

import dataclasses

from lavps_jax.networks.hdit import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)

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


def with_degradation(config: HDiTConfig) -> HDiTConfig:
    """The InvFussion form: every level degrades its features whose width holds a whole image."""

    def fits(index: int, level: LevelConfig) -> bool:
        return level.width % ((config.patch_size * 2**index) ** 2 * config.in_channels) == 0

    levels = tuple(
        dataclasses.replace(level, degrades=fits(index, level))
        for index, level in enumerate(config.levels)
    )
    return dataclasses.replace(config, levels=levels)
