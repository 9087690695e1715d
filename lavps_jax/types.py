"""Names of types that many modules share."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array

PRNGKey = Array
Weights = Any
"""A pytree of arrays."""
