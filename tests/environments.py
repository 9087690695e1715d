"""Environments of programs that tests start."""

from __future__ import annotations

import os


def with_the_compilers_own_flags() -> dict[str, str]:
    """The environment of a user's program."""
    ours = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_NUMPY_RANK_PROMOTION")
    return {name: value for name, value in os.environ.items() if name not in ours}
