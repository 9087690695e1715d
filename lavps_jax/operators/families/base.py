"""What every family of operators can do."""

from __future__ import annotations

from lavps_jax.operators.base import MeasurementOperator
from lavps_jax.types import PRNGKey

__all__ = ["Family"]


class Family:
    """Settings that say how to draw an operator; subclasses are frozen dataclasses."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> MeasurementOperator:
        """An operator on images of `x_shape`; its tree structure does not depend on the key."""
        raise NotImplementedError

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """(H, W, C) of the image behind a measurement, if the measurement alone tells it."""
        return y_shape if len(y_shape) == 3 else None
