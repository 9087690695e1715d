"""What every family of operators can do, and settings that are drawn."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import MeasurementOperator
from lavps_jax.types import PRNGKey

Setting = float | tuple[float, float]
"""A number, or (least, greatest): then it is uniform between them, anew for every draw."""


def check_bounds(name: str, setting: Setting, least: float, greatest: float) -> None:
    """Raises a UserError unless least <= setting <= greatest, at both ends if it is a range."""
    low, high = setting if isinstance(setting, tuple) else (setting, setting)
    if not least <= low <= high <= greatest:
        remedy = f"give a number from {least:g} to {greatest:g}, or two in this order"
        raise UserError(name, setting, remedy)


def drawn(rng_key: PRNGKey, setting: Setting) -> float | Float[Array, ""]:
    """The number itself, or one out of the range."""
    if not isinstance(setting, tuple):
        return setting
    low, high = setting
    return jax.random.uniform(rng_key, (), minval=low, maxval=high)


class Family:
    """Settings that say how to draw an operator; subclasses are frozen dataclasses."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> MeasurementOperator:
        """An operator on images of `x_shape`; its tree structure does not depend on the key."""
        raise NotImplementedError

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """(H, W, C) of the image behind a measurement, if the measurement alone tells it."""
        return y_shape if len(y_shape) == 3 else None
