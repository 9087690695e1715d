"""The published numbers are compared with programs compiled as users run them."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _optimized():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()  # The setting is not part of their keys.
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()
