"""What comparisons with other libraries share: one network on both sides, problems, and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch  # type: ignore[import-not-found]
from azula.plugins import adm  # type: ignore[import-not-found]
from flax import nnx

from benchmarks.prior_parity import drawn
from lavps_jax.diffusion import VP, Schedule
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.io.layouts.adm import config_from_adm, from_adm
from lavps_jax.networks import split
from lavps_jax.operators import LinearOperator
from lavps_jax.problems import Problem
from lavps_jax.samplers.base import Sampler, State

SIDE = 8
SHAPE = (3, SIDE, SIDE)
"""Of a tensor there; images here are (SIDE, SIDE, 3)."""
NETWORK = {
    "image_size": SIDE,
    "num_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": [SIDE // 2],
    "num_head_channels": 16,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
SCHEDULE = Schedule()
NUM_STEPS = 28
"""Every 37th time of 999: no time of the grid is rounded, in no library."""
TIMES = np.arange(999, 0, -37)
SIGMA_Y = 0.1
OUTPUT = 0.3
"""Factor of the last layer. With 1 a run of DPS is chaotic: when its start moves by a unit in the
last place, the sample moves by half of its size."""


def networks() -> tuple[Any, NetworkDenoiser]:
    """A small ADM of random weights: azula's module, and the prior that is converted from it."""
    torch.set_num_threads(1)
    backbone = adm.make_model(**NETWORK).backbone.eval()
    state = {name: drawn(name, tuple(one.shape)) for name, one in backbone.state_dict().items()}
    state |= {name: np.float32(OUTPUT) * state[name] for name in ("out.2.weight", "out.2.bias")}
    backbone.load_state_dict({name: torch.from_numpy(one) for name, one in state.items()})
    config = config_from_adm(state, head_size=NETWORK["num_head_channels"])
    model = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[0]
    weights = jax.tree.map(jnp.asarray, from_adm(state, config))
    return backbone, NetworkDenoiser(weights, model, VP(clip=True), schedule=SCHEDULE)


def measured(operator: LinearOperator, seed: int = 0) -> Problem:
    """y of a smooth image."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    image = np.stack([np.sin(6 * rows), np.cos(5 * columns), rows - columns], -1) * 0.8
    noise = np.random.default_rng(seed).standard_normal(operator.y_shape)
    y = operator.forward(jnp.asarray(image, jnp.float32)) + SIGMA_Y * noise.astype(np.float32)
    return Problem(operator.project(y), operator, SIGMA_Y)


def draws(seed: int, num_particles: int = 1) -> np.ndarray:
    """Noise of the start and of every step, and one more that nothing here uses."""
    shape = (NUM_STEPS, num_particles, SIDE, SIDE, 3)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Run(NamedTuple):
    """The states after every step and the sample, (P, C, H, W) each."""

    states: list[np.ndarray]
    sample: np.ndarray


def to_torch(x: Any) -> Any:
    """A tensor (P, C, H, W) of images (P, H, W, C) or of one (H, W, C)."""
    x = np.moveaxis(np.asarray(x), -1, -3)
    return torch.from_numpy((x if x.ndim == 4 else x[None]).copy())


def to_numpy(x: Any) -> np.ndarray:
    return x.detach().to(torch.float32).numpy()


class Stored:
    """In the place of `torch.randn_like`: gives stored draws, and keeps what it was given."""

    def __init__(self, noise: Sequence[Any]):
        self.noise, self.asked = list(noise), []

    def __call__(self, like: Any) -> Any:
        self.asked.append(like.detach().clone())
        return self.noise[len(self.asked) - 1].to(like)


@contextmanager
def stored(noise: Sequence[Any] | None) -> Iterator[Stored]:
    """`torch.randn_like` gives these draws; None leaves it as it is."""
    given = Stored(noise or [])
    with mock.patch.object(torch, "randn_like", torch.randn_like if noise is None else given):
        yield given


@jax.jit
def _step(noise, states, sampler, prior, problem, segment, row) -> State:
    def one(noise, state):
        return sampler.step(noise, state, prior, problem, segment, row)

    return jax.vmap(one)(noise, states)


@jax.jit
def _finish(states, sampler, prior, problem):
    return jax.vmap(lambda state: sampler.finish(state, prior, problem))(states)


def here(
    samplers: Sampler | Sequence[Sampler],
    problem: Problem,
    prior: NetworkDenoiser,
    noise: Any,
    part: str = "x_t",
) -> Run:
    """A run of this library with given noise; of a sequence of samplers each makes one step.

    Args:
      part: of the states, what is kept: "x_t" or "x_0".
    """
    if isinstance(samplers, Sampler):
        samplers = [samplers] * (NUM_STEPS - 2)
    (segment,) = samplers[0].plan(SCHEDULE)
    state = jax.vmap(lambda eps: samplers[0].init(eps, prior, problem))(jnp.asarray(noise[0]))
    states = []
    for k, (sampler, eps) in enumerate(zip(samplers, noise[1:], strict=False)):
        row = jax.tree.map(lambda leaf, k=k: leaf[k], segment.rows)
        state = _step(eps, state, sampler, prior, problem, segment, row)
        states.append(np.moveaxis(getattr(state, part), -1, 1))
    sample = _finish(state, samplers[-1], prior, problem)
    return Run(states, np.moveaxis(sample, -1, 1))
