"""Random weights and inputs of the U-Nets of other projects in tests/data/unets.

They are drawn again instead of stored: the numbers of `numpy.random.RandomState` are the same in
every version of NumPy.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np


def drawn(name: str, shape: Sequence[int]) -> np.ndarray:
    """A tensor of a state dict, float32: nothing is zero, and outputs are of order one."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) == 1:
        return np.float32(name.endswith(".weight") + 0.3 * noise)  # A norm's scale, or a bias.
    return np.float32(noise / math.sqrt(math.prod(shape[1:])))


IMAGE = drawn("image", (3, 32, 64)) * np.float32(math.sqrt(32 * 64))
TIMES = (0, 437, 999)
LABEL = 3
STEP = 3
"""Every third pixel is stored, along both axes."""

C_NOISE = np.float32(np.log([0.002, 0.5, 80]) / 4)
"""What EDM networks see of three noise levels."""


def drawn_edm(name: str, shape: Sequence[int]) -> np.ndarray:
    """As `drawn`, with frequencies of the size that they have in these networks."""
    return drawn(name, shape) * np.float32(50 if name == "map_noise.freqs" else 1)


def edm_image(width: int) -> np.ndarray:
    """An image of 8 rows, (3, 8, width)."""
    return IMAGE[:, :8, :width]
