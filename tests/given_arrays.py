"""Stored measurements, and how a run loads them."""

from __future__ import annotations

import numpy as np

from lavps_jax.config.settings import DPSConfig, SampleConfig
from lavps_jax.data import SyntheticData
from lavps_jax.runs.build import NetworkShape
from lavps_jax.runs.given_measurements import load_measurements
from lavps_jax.runs.measurements import Measured

CS = {
    "y": np.zeros((1, 16, 1)),
    "order": np.arange(64),
    "rows": np.arange(16),
}
MASK = np.arange(64).reshape(8, 8, 1) % 3 > 0


def load(path, family, sigma_y=0.1, *, channels=1, multiple=1, **changes) -> Measured:
    config = SampleConfig(
        "prior", SyntheticData(), family, DPSConfig(), "out", sigma_y, observations=path, **changes
    )
    return load_measurements(config, NetworkShape(channels, multiple))


def saved(tmp_path, **arrays):
    path = tmp_path / "observations.npz"
    np.savez(path, **arrays)
    return str(path)
