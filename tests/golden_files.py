"""The numbers of the published implementation in tests/data/golden, and comparison with them.

LAVPS_GOLDEN names another folder of the same files, made from other draws.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lavps_jax.io.published import from_published
from lavps_jax.networks import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
    PureModel,
    split,
)
from lavps_jax.operators import Blur, Inpainting, MeasurementOperator, SuperResolution
from lavps_jax.problems.problem import Problem

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


def y_shape_of(operators: MeasurementOperator) -> tuple[int, ...]:
    """Of one of stacked operators."""
    return jax.tree.map(lambda leaf: leaf[0], operators).y_shape


def _moved(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of images (..., C, H, W)."""
    return *shape[-2:], shape[-3]


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

    def measurement(self, key: str, y_shape: tuple[int, ...]) -> jax.Array:
        """A flattened measurement (B, ...) as images of y_shape, (B, H, W, C)."""
        height, width, channels = y_shape
        flat = self.arrays[key]
        return jnp.asarray(np.moveaxis(flat.reshape(len(flat), channels, height, width), 1, -1))

    def operators(self, y: str, image: str, data: str | None = None) -> MeasurementOperator:
        """Those of the measurements `y`, leaves (B, ...).

        Args:
          y: name of the array of measurements.
          image: name of an array of images (..., C, H, W) of the size that was measured.
          data: what the names of the operator's arrays begin with, such as "box_" of "box_mask";
            None: what the name of the measurements begins with. Without such arrays pixels were
            averaged, by as much as the measurements are smaller than the images.
        """
        data = y.removesuffix("y") if data is None else data
        count, x_shape = len(self[y]), _moved(self[image].shape)
        for name in (f"{data}mask", f"{data}kernel", f"{data}mb_kernel"):
            if name in self.arrays and name.endswith("mask"):
                masks = jnp.moveaxis(jnp.asarray(self[name][:, 0]), 1, -1)
                masks = jnp.broadcast_to(masks, (count, *x_shape[:2], 1))
                return jax.vmap(lambda mask: Inpainting(mask, x_shape=x_shape))(masks)
            if name in self.arrays:
                kernels = jnp.broadcast_to(
                    jnp.asarray(self[name], jnp.float32), (count, *self[name].shape)
                )
                return jax.vmap(lambda kernel: Blur(kernel, x_shape=x_shape))(kernels)
        ratio = math.isqrt(math.prod(x_shape) * count // self[y].size)
        assert math.prod(x_shape) * count == ratio**2 * self[y].size, (y, x_shape)
        operator = SuperResolution(ratio, x_shape=x_shape)
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), operator)

    def problems(self, y: str, image: str, data: str | None = None) -> Problem:
        """The measurements `y`, leaves (B, ...); arguments as of `operators`."""
        operators = self.operators(y, image, data)
        each = jax.vmap(
            lambda y, operator: Problem(y, operator, self.sigma_y),
            axis_size=len(self[y]),
        )
        return each(self.measurement(y, y_shape_of(operators)), operators)

    @property
    def sigma_y(self) -> float:
        return self.settings.get("noise_level", 0.05)

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
