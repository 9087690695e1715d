"""Settings that must be in place before JAX is imported, and fixtures for all tests."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

# Eight virtual devices stand in for a machine with several accelerators.
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

from lavps_jax.networks import (  # noqa: E402
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)


@pytest.fixture
def rng_key() -> jax.Array:
    return jax.random.key(0)


DATA = Path(__file__).parent / "data"


@dataclass
class Golden:
    """One file of golden numbers."""

    arrays: dict[str, np.ndarray]
    config: HDiTConfig

    def image(self, name: str) -> jax.Array:
        """An image array as (..., H, W, C)."""
        return jnp.asarray(np.moveaxis(self.arrays[name], -3, -1))

    def load_weights(self, weights: nnx.State) -> nnx.State:
        """`weights` with all values replaced by those of the file; every name must be used."""
        used = set()
        flat = nnx.to_flat_state(weights)
        for path, variable in flat:
            name = ".".join(str(part) for part in path).removeprefix("backbone.")
            name = re.sub(r"^((?:down|up)_levels\.\d+|mid_level)\.(\d+)\.", r"\1.\2.attn.", name)
            name = name.replace("kernel", "weight")
            value = self.arrays[name]
            value = value.T if path[-1] == "kernel" else value
            assert value.shape == variable.shape, name
            variable[...] = jnp.asarray(value)
            used.add(name)
        parameters = {name for name in self.arrays if "." in name}
        assert used == parameters
        return nnx.from_flat_state(flat)


def _read(file: str) -> Golden:
    arrays = {}
    with np.load(DATA / file) as stored:
        for key in stored.files:
            name, _, exponent = key.partition("@")
            value = stored[key]
            arrays[name] = np.float32(value * 2.0 ** -int(exponent)) if exponent else value
    shape = json.loads(str(arrays.pop("config_json")))
    levels = []
    for width, depth, d_ff, kind in zip(
        shape["widths"], shape["depths"], shape["d_ffs"], shape["self_attns"], strict=True
    ):
        if kind["type"] == "global":
            attention = GlobalAttention(kind["d_head"])
        else:
            attention = NeighbourhoodAttention(kind["kernel_size"], kind["d_head"])
        levels.append(LevelConfig(width, depth, attention, d_ff))
    config = HDiTConfig(
        patch_size=shape["patch_size"][0],
        levels=tuple(levels),
        mapping_width=shape["mapping_width"],
        mapping_depth=shape["mapping_depth"],
        mapping_ff=shape["mapping_d_ff"],
        num_classes=shape["label_dim"],
    )
    return Golden(arrays, config)


@pytest.fixture(scope="session")
def prior_golden() -> Golden:
    return _read("hdit_golden.npz")


@pytest.fixture(scope="session")
def class_golden() -> Golden:
    return _read("hdit_class_golden.npz")


@pytest.fixture(scope="session")
def palette_golden() -> Golden:
    return _read("palette_golden.npz")


@pytest.fixture(scope="session")
def perturb():
    """A function that adds noise to all weights: nothing is left at its initial zero."""

    def add_noise(weights: nnx.State, seed: int = 0, scale: float = 0.1) -> nnx.State:
        leaves, structure = jax.tree.flatten(weights)
        generator = np.random.default_rng(seed)
        noisy = [
            # Added in NumPy: outside of jit every new shape would be compiled.
            jnp.asarray(
                np.asarray(leaf) + scale * generator.standard_normal(leaf.shape), leaf.dtype
            )
            for leaf in leaves
        ]
        return jax.tree.unflatten(structure, noisy)

    return add_noise


@pytest.fixture
def tiny_config() -> HDiTConfig:
    return HDiTConfig(
        patch_size=2,
        levels=(
            LevelConfig(16, 1, NeighbourhoodAttention(3, 8), dropout=0.3),
            LevelConfig(24, 1, GlobalAttention(8), dropout=0.3),
        ),
        mapping_width=16,
        mapping_depth=1,
    )
