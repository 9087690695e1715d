"""Stored measurements, and how a run loads them."""

from __future__ import annotations

import numpy as np

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import SyntheticData
from lavps_jax.runs.given_measurements import GivenMeasurements
from lavps_jax.runs.loading import NetworkShape
from lavps_jax.runs.measurements import Measured
from lavps_jax.samplers import DPS

CS = {
    "y": np.zeros((1, 16, 1)),
    "order": np.arange(64),
    "rows": np.arange(16),
}
MASK = np.arange(64).reshape(8, 8, 1) % 3 > 0


def given(path, family, sigma_y=0.1, *, channels=1, multiple=1, **changes) -> GivenMeasurements:
    config = SampleConfig(
        "prior", SyntheticData(), family, DPS(), "out", sigma_y, observations=path, **changes
    )
    return GivenMeasurements(config, NetworkShape(channels, multiple))


def load(*arguments, **changes) -> Measured:
    """The first eight measurements, of arguments as of `given`."""
    return given(*arguments, **changes).batch(0)


def saved(tmp_path, **arrays):
    path = tmp_path / "observations.npz"
    np.savez(path, **arrays)
    return str(path)
