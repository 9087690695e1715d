"""LAVPS: MGDM whose inner fits begin where an amortized network says (Zheng et al. 2026)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.errors import UserError
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Plan
from lavps_jax.samplers.inner import Inner
from lavps_jax.samplers.mgdm import MGDM
from lavps_jax.samplers.starts import (
    Amortized,
    BestOf,
    Start,
    TrainedBlocks,
)


class LAVPS(MGDM):
    """Likelihood-guided sampling with amortized variational inference (arXiv:2602.07102).

    MGDM, whose fits at the low-noise end begin at what a network predicts of their solution. The
    likelihood stays in the fit, and in the comparison with the zero-shot start: both protect
    samples of operators that the network was not trained on. Method section 5.

    Attributes:
      amortized: the start that `load_amortized` returns, of an amortized network or of a supervised
        denoiser; on the command line the folder of the export.
      best_of: compare the network's start with the zero-shot one, for each image and particle.
        None does so unless the run knows that the network was trained on its operator, its sigma_y
        and its grid.
      zero_shot: that start, which blocks outside of the low-noise end have, too, see `MGDM`.
      inner: how blocks outside of the low-noise end are solved.
      inner_low_noise: how those inside are solved.
      low_idx: first grid index of t_prev at the low-noise end, at least 1.
      high_idx: one past its last grid index; None is as far as the network was trained, or half of
        the grid for a supervised denoiser.
    """

    amortized: Any = ""
    best_of: bool | None = static(default=None, kw_only=True)
    inner_low_noise: Inner = dataclasses.field(default=Inner(), kw_only=True)

    def start(self, low_noise: bool) -> Start:
        without = super().start(low_noise)
        if not low_noise:
            return without
        network = self._network
        return network if self.best_of is False else BestOf(network, without)

    @property
    def _network(self) -> Start:
        if isinstance(self.amortized, str):
            raise UserError("amortized", repr(self.amortized), "load it: load_amortized(path)")
        return self.amortized

    @property
    def _trained(self) -> TrainedBlocks | None:
        return self._network.trained if isinstance(self._network, Amortized) else None

    def plan(self, schedule: Schedule) -> Plan:
        """As of `MGDM`, on blocks that the network was trained on.

        Raises:
          UserError: if the network has another schedule than the prior, or was trained on other
            blocks.
        """
        own = getattr(self._network, "schedule", schedule)
        if own != schedule:
            raise UserError("amortized", own, f"give one for the schedule of the prior, {schedule}")
        if (trained := self._trained) is not None:
            self._check_blocks(trained, self.low_noise(schedule))
        return super().plan(schedule)

    def low_noise(self, schedule: Schedule) -> range:
        """Grid indices of t_prev: of another grid those whose times lie in the trained range."""
        trained = self._trained
        if trained is None or self.high_idx is not None:
            return super().low_noise(schedule)
        if trained.has_grid(self.num_steps, self.grid_power):
            return range(self.low_idx, max(self.low_idx, trained.high_idx))
        known = time_grid(trained.num_steps, schedule, trained.grid_power)
        known = known[trained.low_idx : trained.high_idx]
        times = time_grid(self.num_steps, schedule, self.grid_power)
        first, end = np.searchsorted(times, known[0]), np.searchsorted(times, known[-1], "right")
        return range(max(self.low_idx, int(first)), max(self.low_idx, int(end)))

    def _check_blocks(self, trained: TrainedBlocks, low_noise: range) -> None:
        if trained.has_grid(self.num_steps, self.grid_power):
            if low_noise.start < trained.low_idx or low_noise.stop > trained.high_idx:
                blocks = (trained.low_idx, trained.high_idx)
                remedy = f"stay in {blocks}, where the network was trained"
                value = (low_noise.start, low_noise.stop)
                raise UserError("low_idx, high_idx", value, remedy)
        elif self.best_of is False:
            for field in ("num_steps", "grid_power"):
                if (given := getattr(self, field)) != (own := getattr(trained, field)):
                    remedy = f"use {own}, with which the network was trained, or compare starts"
                    raise UserError(field, given, f"{remedy}: best_of=True")
        # "mix" draws no tau in its last steps.
        settled, mixed = self.num_steps - 2 - self.num_mixed_steps, self.tau_rule == "mix"
        rule = "previous" if mixed and low_noise.stop <= settled else self.tau_rule
        if rule != trained.tau_rule:
            remedy = f'use "{trained.tau_rule}", with which the amortized network was trained'
            if mixed and trained.tau_rule == "previous":
                remedy += f", or high_idx = {settled}"
            raise UserError("tau_rule", self.tau_rule, remedy)
