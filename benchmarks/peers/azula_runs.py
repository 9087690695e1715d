"""Runs of azula's samplers with the noise, the network and the times of runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from azula import noise as noises  # type: ignore[import-not-found]
from azula.denoise import Denoiser, DiracPosterior  # type: ignore[import-not-found]
from azula.guidance import DiffPIRDenoiser, DPSSampler  # type: ignore[import-not-found]
from azula.plugins.adm import AblatedDenoiser  # type: ignore[import-not-found]
from azula.sample import DDIMSampler  # type: ignore[import-not-found]

from benchmarks.peers.runs import (
    NUM_STEPS,
    SCHEDULE,
    SHAPE,
    SIGMA_Y,
    Run,
    stored,
    to_numpy,
    to_torch,
)
from lavps_jax.problems import Problem

Map = Callable[[Any], Any]
LAST = 1 / (NUM_STEPS - 1)
"""The lowest time above 0, on azula's scale from 0 to 1."""


class Table(noises.Schedule):
    """This library's table on azula's times from 0 to 1."""

    def __call__(self, t: Any) -> tuple[Any, Any]:
        index = (t * (SCHEDULE.num_times - 1)).round().long()
        alpha_bar = torch.from_numpy(SCHEDULE.alpha_bar.copy())[index]
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()


def denoiser_of(backbone: Any, *, own_schedule: bool = False, own_index: bool = False) -> Any:
    """azula's denoiser of the network.

    Its network is told the first time of the training with at least the present noise. At a time
    of the table rounding decides whether that is this time or the next one, so that the table that
    is searched is moved down by half a step, unless `own_index`.
    """
    schedule = noises.VPSchedule(alpha_min=1e-2, sigma_min=1e-2) if own_schedule else Table()
    denoiser = AblatedDenoiser(backbone, schedule, clip_mean=True, learn_var=True).eval()
    if not own_index:
        denoiser.sigmas = (denoiser.sigmas[:-1] + denoiser.sigmas[1:]) / 2
    return denoiser


def dps(
    denoiser: Any,
    noise: np.ndarray,
    problem: Problem,
    forward: Map,
    step_size: float,
    *,
    guides_last: bool = False,
) -> Run:
    """Of its DPS; `guides_last` goes on to time 0, as azula does by itself."""
    end, steps = (0.0, NUM_STEPS - 1) if guides_last else (LAST, NUM_STEPS - 2)
    y = to_torch(problem.y)
    settings = {"zeta": step_size, "stop": end, "steps": steps, "silent": True}
    sampler = DPSSampler(denoiser, y, forward, **settings)
    x, states = to_torch(noise[0]), []
    with stored([to_torch(one) for one in noise[1:]]):
        for t, s in sampler.timesteps.unfold(0, 2, 1):
            x = sampler.step(x, t, s)
            states.append(to_numpy(x))
    if not guides_last:
        x = denoiser(x, sampler.timesteps[-1]).mean
    return Run(states, to_numpy(x))


class Flat(Denoiser):
    """A denoiser of images that are vectors, which azula's linear solvers need."""

    def __init__(self, denoiser: Any):
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t: Any, t: Any) -> Any:
        return DiracPosterior(self.denoiser(x_t.unflatten(-1, SHAPE), t).mean.flatten(1))


def diffpir(
    denoiser: Any,
    noise: np.ndarray,
    problem: Problem,
    forward: Map,
    strength: float,
    zeta: float,
    *,
    own_noise_share: bool = False,
    own_solver: bool = False,
) -> Run:
    """Of its DiffPIR under DDIM.

    Args:
      own_noise_share: takes zeta for DDIM's eta at all times.
      own_solver: one step of GMRES for every row of the image, as azula does by itself with images,
        instead of 40 of conjugate gradients for all of it.
    """
    y, draws = to_torch(problem.y), [to_torch(one) for one in noise]
    if own_solver:
        proximal = DiffPIRDenoiser(denoiser, y, forward, SIGMA_Y**2, strength)
    else:
        y, draws = y.flatten(1), [one.flatten(1) for one in draws]

        def flat(x: Any) -> Any:
            return forward(x.unflatten(-1, SHAPE)).flatten(1)

        settings = {"solver": "cg", "iterations": 40}
        proximal = DiffPIRDenoiser(Flat(denoiser), y, flat, SIGMA_Y**2, strength, **settings)
    sampler = DDIMSampler(proximal, eta=zeta, steps=NUM_STEPS - 1, silent=True)
    x, states = draws[0], []
    with stored(draws[1:]):
        for t, s in sampler.timesteps.unfold(0, 2, 1):
            if not own_noise_share:
                (alpha_t, sigma_t), (alpha_s, sigma_s) = proximal.schedule(t), proximal.schedule(s)
                sampler.eta = zeta / (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
            x = sampler.step(x, t, s)
            states.append(to_numpy(x).reshape(-1, *SHAPE))
    return Run(states, states[-1])
