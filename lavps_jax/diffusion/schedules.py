"""The noise schedule: alpha_bar table and time grids, in float64 on the host.

Sources: Ho et al., NeurIPS 2020, arXiv:2006.11239, and where named. Method section 2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lavps_jax.errors import UserError, check_choices, check_fraction, check_positive


@dataclass(frozen=True)
class Schedule:
    """Variance-preserving diffusion x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps.

    alpha_bar[0] = 1 is the clean image, alpha_bar[t] the product of the first t of 1 - beta.

    Attributes:
      num_times: number of noisy times, T; times are 0 (clean) to T.
      beta_min: first beta; not used by a cosine.
      beta_max: last beta; not used by a cosine.
      kind: betas rise "linear" (Ho et al. 2020, arXiv:2006.11239), or "scaled_linear" in their
        roots (latent diffusion, Rombach et al. 2022, arXiv:2112.10752), or sqrt(alpha_bar) falls
        as a "cosine" (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17, with s = .008 and betas
        of at most .999).
      least_alpha_bar: alpha_bar falls no further, as in the published runs; 0 leaves a schedule of
        training as it was.
    """

    num_times: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02
    kind: Literal["linear", "scaled_linear", "cosine"] = "linear"
    least_alpha_bar: float = 1e-6

    def __post_init__(self):
        check_choices(self)
        if self.num_times < 2:
            raise UserError("schedule.num_times", self.num_times, "use at least 2")
        if not 0 < self.beta_min <= self.beta_max < 1:
            value = (self.beta_min, self.beta_max)
            raise UserError(
                "schedule.beta_min, beta_max", value, "use 0 < beta_min <= beta_max < 1"
            )
        check_fraction("schedule.least_alpha_bar", self.least_alpha_bar)
        if self.alpha_bar[-2] <= np.float32(self.least_alpha_bar):
            # Two times without any difference have no bridge between them.
            name = "num_times" if self.kind == "cosine" else "beta_max"
            remedy = f"lower it: alpha_bar falls to {self.least_alpha_bar:g} before the last time"
            raise UserError(f"schedule.{name}", getattr(self, name), remedy)
        if np.any(np.diff(self.alpha_bar[:-1]) >= 0):
            remedy = "raise it: float32 does not tell two times apart"
            raise UserError("schedule.beta_min", self.beta_min, remedy)

    @property
    def alpha_bar(self) -> np.ndarray:
        """Table of alpha_bar, float64 (T + 1,), from 1 downwards."""
        return _alpha_bar(self)

    @property
    def sigma(self) -> np.ndarray:
        """Noise-to-signal levels sqrt((1 - alpha_bar) / alpha_bar), float64 (T + 1,)."""
        return np.sqrt((1 - self.alpha_bar) / self.alpha_bar)


@functools.cache
def _alpha_bar(schedule: Schedule) -> np.ndarray:
    product = np.cumprod(1.0 - _betas(schedule), dtype=np.float64)
    # The published table is kept in float32; its rounded values are the schedule.
    product = np.maximum(product, schedule.least_alpha_bar)
    table = np.concatenate([[1.0], product.astype(np.float32)])
    table.setflags(write=False)
    return table


def _betas(schedule: Schedule) -> np.ndarray:
    """Of the times 1 to T, (T,)."""
    first, last, num = schedule.beta_min, schedule.beta_max, schedule.num_times
    match schedule.kind:
        case "linear":
            return even_grid_float32(first, last, num)
        case "scaled_linear":
            return np.linspace(first**0.5, last**0.5, num) ** 2
        case "cosine":
            time = np.arange(num + 1) / num
            alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def even_grid_float32(start: float, stop: float, num: int) -> np.ndarray:
    """`num` points from start to stop in float32, counted from the nearer end.

    This is how the published implementation's tensor library rounds: from the left in the first
    half and from the right in the second. A float64 grid gives other betas in a third of places.
    """
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(num - 1))
    index = np.arange(num)
    left = np.float64(first) + step * index
    right = np.float64(last) - step * (num - 1 - index)
    return np.where(index < num // 2, left, right).astype(np.float32)


def time_grid(num_steps: int, schedule: Schedule = Schedule(), power: float = 1.0) -> np.ndarray:
    """The `num_steps` integer times of a run, ascending from 0 to T - 1.

    They are the floor of (T - 1) (i / (num_steps - 1))^power for i = 0, 1, ...: with 1 an even
    grid, with 2 the quadratic one of Song et al., ICLR 2021, arXiv:2010.02502, appendix D.3, and
    the denser at little noise the larger the power. Times that would be the same follow one
    another.

    Args:
      num_steps: points of the grid, 2 to T.
      schedule: gives T.
      power: positive.

    Returns:
      int64 (num_steps,), strictly ascending.

    Raises:
      UserError: if num_steps or power is out of range.
    """
    last = schedule.num_times - 1
    if not 2 <= num_steps <= schedule.num_times:
        raise UserError("num_steps", num_steps, f"use 2 to {schedule.num_times}")
    check_positive("grid_power", power)
    if power == 1:
        return even_grid_float32(0, last, num_steps).astype(np.int64)
    index = np.arange(num_steps)
    # A root that is whole but for its rounding is whole.
    times = np.floor(last * (index / (num_steps - 1)) ** power * (1 + 1e-12)).astype(np.int64)
    # The lowest strictly ascending times that are nowhere below these, and end at T - 1.
    times = np.maximum.accumulate(times - index) + index
    return np.minimum(times, last - index[::-1])
