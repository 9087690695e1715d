"""Settings that must be in place before JAX is imported, and fixtures for all tests."""

from __future__ import annotations

import os

# Eight virtual devices stand in for a machine with several accelerators.
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def rng_key() -> jax.Array:
    return jax.random.key(0)
