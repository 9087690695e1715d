"""Runs of deepinv's samplers with the noise, the network and the times of runs here.

deepinv's images and measurements lie in [0, 1]: those of this library are halved and moved.
"""

from __future__ import annotations

from typing import Any

import deepinv  # type: ignore[import-not-found]
import numpy as np
import torch  # type: ignore[import-not-found]
from deepinv.models.wrapper import ScoreModelWrapper  # type: ignore[import-not-found]
from deepinv.sampling.diffusion_sde import (  # type: ignore[import-not-found]
    EDMDiffusionSDE,
    PosteriorDiffusion,
    VariancePreservingDiffusion,
)
from deepinv.sampling.noisy_datafidelity import DPSDataFidelity  # type: ignore[import-not-found]
from deepinv.sampling.sde_solver import DDPMSolver  # type: ignore[import-not-found]

from benchmarks.peers.runs import (
    SCHEDULE,
    SHAPE,
    SIGMA_Y,
    TIMES,
    Run,
    Stored,
    stored,
    to_numpy,
    to_torch,
)
from lavps_jax.operators import CircularBlur, Inpainting, LinearOperator
from lavps_jax.problems import Problem

_SCALE = torch.from_numpy(SCHEDULE.alpha_bar**0.5)
_SIGMA = torch.from_numpy(SCHEDULE.sigma)


def denoiser_of(backbone: Any) -> Any:
    """deepinv's denoiser of the network of noise; it is told the nearest time of the training."""
    return ScoreModelWrapper(
        lambda x, t: backbone(x, t.expand(len(x)))[:, :3],
        sigma_t=_SIGMA[1:].float(),
        scale_t=_SCALE[1:].float(),
        takes_integer_time=True,
    )


def physics_of(operator: LinearOperator) -> Any:
    """deepinv's operator."""
    if isinstance(operator, Inpainting):
        return deepinv.physics.Inpainting(SHAPE, to_torch(operator.mask).expand(1, *SHAPE))
    assert isinstance(operator, CircularBlur)
    # It convolves, where operators here correlate.
    kernel = torch.from_numpy(np.asarray(operator.kernel)[::-1, ::-1].copy())
    return deepinv.physics.BlurFFT(SHAPE, kernel[None, None])


def _measured(problem: Problem, physics: Any) -> Any:
    return (to_torch(problem.y) + physics.A(torch.ones(1, *SHAPE))) / 2


def guidance_weights(weight: float) -> np.ndarray:
    """What its DPS multiplies the gradient of ||r|| in x_t by, one number for each step.

    The gradient is a part of the score, sqrt(alpha_bar[t] alpha_bar[t_prev]) (sigma_t^2 -
    sigma_{t_prev}^2) of which a step adds; r is half as long there.
    """
    t, t_prev = TIMES[:-1], TIMES[1:]
    scale, sigma = SCHEDULE.alpha_bar**0.5, SCHEDULE.sigma
    return weight / 2 * scale[t] * scale[t_prev] * (sigma[t] ** 2 - sigma[t_prev] ** 2)


def dps(
    denoiser: Any,
    noise: np.ndarray,
    problem: Problem,
    weight: float,
    *,
    guides_last: bool = False,
    own_schedule: bool = False,
) -> Run:
    """Of its DPS; `guides_last` goes on to time 0, as deepinv does by itself."""
    physics = physics_of(problem.operator)
    sde = EDMDiffusionSDE(lambda t: _SIGMA[(1000 * t).round().long()], variance_preserving=True)
    if own_schedule:
        sde = VariancePreservingDiffusion(alpha=1.0)
    times = torch.from_numpy((np.append(TIMES, 0) if guides_last else TIMES) / 1000)
    solver = DDPMSolver(times)
    solver.randn_like = Stored([to_torch(one) for one in noise[1:]])
    fidelity = DPSDataFidelity(weight=weight, clip=(-1.0, 1.0))
    method = PosteriorDiffusion(fidelity, denoiser, sde, solver)
    x_init = to_torch(noise[0]).double()
    sample, states = method(
        _measured(problem, physics), physics, x_init, denoise_output=False, get_trajectory=True
    )
    states, sample = 2 * states[1:] - 1, 2 * sample - 1
    if not guides_last:
        z = sample / sde.scale_t(times[-1])
        with torch.no_grad():
            sample = denoiser(z.float(), sde.sigma_t(times[-1]).float(), True)
    return Run([to_numpy(one) for one in states], to_numpy(sample))


def diffpir(
    denoiser: Any,
    noise: np.ndarray | None,
    problem: Problem,
    lambda_: float,
    zeta: float,
    *,
    num_runs: int = 1,
    starts_at_y: bool = False,
    predicts: bool = True,
) -> Run:
    """Of its DiffPIR.

    Args:
      noise: None draws it.
      starts_at_y: whether it begins at A^T y and noise, as deepinv does by itself, instead of
        at the noise.
      predicts: whether the proximal point of the last state is the sample, and not, as in deepinv,
        this noisy state itself.
    """
    physics = physics_of(problem.operator)
    settings = {"sigma": SIGMA_Y / 2, "zeta": zeta, "lambda_": lambda_}
    fidelity = deepinv.optim.L2()
    method = deepinv.sampling.DiffPIR(denoiser, fidelity, **settings)
    # Counted from the noisiest time of the training, which is 1000 here.
    method.seq = torch.from_numpy(SCHEDULE.num_times - TIMES)
    draws, start = None, None
    if noise is not None:
        draws = [to_torch(one) for one in noise]
    if draws is not None and not starts_at_y:
        # It adds noise to 2 x - 1 and divides by the scale of the last time.
        start = (draws[0] / _SCALE[-1].float() + 1) / 2
        draws[0] = torch.zeros_like(draws[0])
    y = _measured(problem, physics).expand(num_runs, *SHAPE)
    with stored(draws) as given:
        x = 2 * method(y, physics, x_init=start) - 1
    states = [to_numpy(one) for one in [*given.asked[2:], x]]
    if predicts:
        t = TIMES[-1]
        with torch.no_grad():
            x_0 = denoiser(x / (2 * _SCALE[t].float()) + 0.5, _SIGMA[t].float() / 2)
        gamma = 1 / (2 * method.rhos[t - 1])
        x = 2 * fidelity.prox(x_0, y, physics, gamma=gamma) - 1
    return Run(states, to_numpy(x))


def ddrm(
    denoiser: Any,
    noise: np.ndarray | None,
    problem: Problem,
    eta: float,
    *,
    eps: float = 0.0,
    num_runs: int = 1,
    own_variance: bool = False,
) -> Run:
    """Of its DDRM; states are the predictions x_0.

    Args:
      noise: None draws it.
      eps: what it adds to singular values, 1e-6 by default there.
      own_variance: whether the noise is divided by sqrt(2), as deepinv does by itself.
    """
    physics = physics_of(problem.operator)
    physics.noise_model = deepinv.physics.GaussianNoise(SIGMA_Y / 2)
    sigmas = list(SCHEDULE.sigma[TIMES] / 2)
    method = deepinv.sampling.DDRM(denoiser, sigmas, eta=eta, eps=eps)
    draws = None
    if noise is not None:
        images = [to_torch(one) for one in noise]
        # It begins around 0 where nothing is measured, here that is grey: 1/2 there.
        unseen = 1 - (physics.mask > SIGMA_Y / 2).float()
        factor = 1 if own_variance else 2**0.5
        draws = [factor * physics.V_adjoint(one) for one in images]
        grey = physics.V_adjoint(torch.full((1, *SHAPE), 0.5))
        draws[0] = draws[0] + factor * unseen * grey / sigmas[0]
    y = _measured(problem, physics).expand(num_runs, *SHAPE).contiguous()
    with stored(draws) as given:
        sample = method(y, physics)
    with torch.no_grad():
        states = [to_numpy(2 * physics.V(one) - 1) for one in given.asked[1:]]
    return Run(states, to_numpy(2 * sample - 1))
