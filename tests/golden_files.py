"""The numbers of the published implementation in tests/data/golden, and comparison with them.

LAVPS_GOLDEN names another folder of the same files, made from other draws.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lavps_jax.networks import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
    PureModel,
    split,
)
from lavps_jax.published import from_published

DATA = Path(os.environ.get("LAVPS_GOLDEN") or Path(__file__).parent / "data" / "golden")
TOLERANCES = {
    # As stored here: one number for an array; as they come with new files: that number first.
    file.removesuffix(".npz"): {
        key: numbers[0] if isinstance(numbers, list) else numbers for key, numbers in arrays.items()
    }
    for file, arrays in json.loads((DATA / "tolerances.json").read_text()).items()
}


def cases(name: str, pattern: str) -> list[str]:
    """What the group of the pattern stands for in the names of a file's arrays, in their order."""
    with np.load(DATA / f"{name}.npz") as stored:
        found = [match[1] for key in stored.files if (match := re.fullmatch(pattern, key))]
    assert found, (name, pattern)
    return found


class Golden:
    """One file of numbers from the published implementation; see tests/data/golden."""

    def __init__(self, name: str):
        self.name = name
        with np.load(DATA / f"{name}.npz") as stored:
            self.arrays = {key: stored[key] for key in stored.files}
        self.settings = json.loads(str(self.arrays.pop("config_json", "{}")))

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def image(self, key: str) -> jax.Array:
        """An image array as (..., H, W, C)."""
        return jnp.asarray(np.moveaxis(self.arrays[key], -3, -1))

    def measurement(self, key: str, height: int = 32, width: int = 32) -> jax.Array:
        """A flattened measurement (B, ...) as images (B, H, W, 3)."""
        flat = self.arrays[key]
        return jnp.asarray(np.moveaxis(flat.reshape(len(flat), 3, height, width), 1, -1))

    def close(self, key: str, value, at=(), factor: float = 10.0) -> None:
        """Compares with self[key][at]: ten times the error of float32 is allowed."""
        value, expected = np.asarray(value, np.float64), self.arrays[key][at]
        if value.ndim >= 3:
            value = np.moveaxis(value, -1, -3)
        assert value.size == expected.size and value.size, (value.shape, expected.shape)
        worst = np.max(np.abs(value.reshape(expected.shape) - expected))
        allowed = factor * TOLERANCES[self.name][key]
        if report := os.environ.get("GOLDEN_REPORT"):  # See benchmarks/parity.py.
            one = {"file": self.name, "array": key, "worst": float(worst), "allowed": allowed}
            with open(report, "a") as file:
                file.write(json.dumps(one) + "\n")
        assert worst <= allowed, f"{key}: differs by {worst:.3g}, allowed {allowed:.3g}"

    @property
    def backbone(self) -> HDiTConfig:
        """The network of `sd/...`, as one for images."""
        shape = self.settings
        levels = []
        names = ("widths", "depths", "d_ffs", "self_attns", "joint")
        for width, depth, d_ff, kind, joint in zip(*(shape[name] for name in names), strict=True):
            if kind["type"] == "global":
                attention = GlobalAttention(kind["d_head"])
            else:
                attention = NeighbourhoodAttention(kind["kernel_size"], kind["d_head"])
            levels.append(LevelConfig(width, depth, attention, d_ff, degrades=joint))
        return HDiTConfig(
            patch_size=shape["patch_size"][0],
            levels=tuple(levels),
            mapping_width=shape["mapping_width"],
            mapping_depth=shape["mapping_depth"],
            mapping_ff=shape["mapping_d_ff"],
            num_classes=shape["label_dim"],
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """The weights by published name."""
        return {k.removeprefix("sd/"): v for k, v in self.arrays.items() if k.startswith("sd/")}

    def network(self, config: Any, prefix: str) -> tuple[PureModel, nnx.State]:
        """The published network, in this library."""
        model, weights = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
        weights = from_published(self.state_dict(), weights, prefix)
        return model, jax.tree.map(jnp.asarray, weights)
