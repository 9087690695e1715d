"""What every family of operators can do, and settings that are drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

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


def _inside(inner: Any, outer: Any) -> bool:
    """Whether a setting is one that a family with the other setting draws."""
    ends = inner if isinstance(inner, tuple) else (inner, inner)
    numbers = isinstance(outer, tuple) and all(isinstance(one, int | float) for one in outer + ends)
    return inner == outer or numbers and outer[0] <= ends[0] <= ends[-1] <= outer[-1]


class Family:
    """Settings that say how to draw an operator; subclasses are frozen dataclasses."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> MeasurementOperator:
        """An operator on images of `x_shape`; its tree structure does not depend on the key."""
        raise NotImplementedError

    def includes(self, other: Family) -> bool:
        """Whether all that the other one draws can be drawn from this one."""
        return type(self) is type(other) and all(
            _inside(getattr(other, one.name), getattr(self, one.name))
            for one in dataclasses.fields(self)  # type: ignore[arg-type]
        )

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """(H, W, C) of the image behind a measurement, if the measurement alone tells it."""
        return y_shape if len(y_shape) == 3 else None
