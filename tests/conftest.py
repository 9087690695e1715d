"""Settings that must be in place before JAX is imported, and fixtures for all tests."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

# Eight virtual devices stand in for a machine with several accelerators.
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Most of the time of a test is compilation, and most of that is spent on making fast programs. The
# programs that tests start inherit this.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

from lavps_jax.diffusion import EDMDenoiser  # noqa: E402
from lavps_jax.networks import (  # noqa: E402
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
    PaletteConfig,
    PureModel,
    split,
)
from lavps_jax.published import from_published  # noqa: E402
from lavps_jax.starts import Amortized  # noqa: E402


@pytest.fixture
def rng_key() -> jax.Array:
    return jax.random.key(0)


DATA = Path(__file__).parent / "data" / "golden"
TOLERANCES = json.loads((DATA / "tolerances.json").read_text())


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


@pytest.fixture(scope="session")
def golden():
    """golden("elbo") is the file elbo.npz."""
    return functools.cache(Golden)


@pytest.fixture(scope="session")
def prior(golden) -> tuple[EDMDenoiser, dict[str, Any]]:
    """The prior of all golden files, and the parameters of samplers with its weights."""
    stored = golden("hdit_tiny")
    model, theta = stored.network(stored.backbone, "unet.")
    return EDMDenoiser(model), {"theta": theta}


@pytest.fixture(scope="session", params=["palette", "invfussion"])
def amortized(request, golden) -> tuple[Golden, Amortized, nnx.State]:
    """A published amortized network: its file, the start, and its weights."""
    return _amortized(golden, request.param)


@pytest.fixture(scope="session")
def palette(golden) -> tuple[Golden, Amortized, nnx.State]:
    """The same, always in Palette form."""
    return _amortized(golden, "palette")


def _amortized(golden, kind: str) -> tuple[Golden, Amortized, nnx.State]:
    stored = golden(f"amortized_{kind}")
    config = PaletteConfig(stored.backbone, noise_embedding="linear", inverse="published")
    model, phi = stored.network(config, "residual_nn.")
    start = Amortized(model, inverse="published", sees_measurement=kind == "invfussion")
    return stored, start, phi


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
