"""How much of a sampler's step the operator takes, at 32 x 32 and at 256 x 256.

Per family: seconds of the log-likelihood and its gradient in x_0 (A, its transpose), for one image,
over the seconds of the whole step of MGDM with one gradient step, which contains them once or
twice. At 32 x 32 with the shipped prior, at 256 x 256 with the HDiT of FFHQ and random weights.

Command: python -m benchmarks.operator_cost
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.operators import all_families
from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.networks import split
from lavps_jax.networks.sizes import FFHQ256
from lavps_jax.operators import families
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.problems.problem import log_likelihood, simulate
from lavps_jax.runs.loading import load_prior
from lavps_jax.samplers import MGDM, Inner
from lavps_jax.samplers.base import State


@dataclass(frozen=True)
class Config:
    """What to measure."""

    sides: tuple[int, ...] = (32, 256)
    out: str = "docs/results/operator_cost.json"
    pictures: str = "outputs/operators"


def seconds(fn: Callable[..., Any], *args: Any) -> float:
    """The best of several runs, after compilation."""
    compiled = jax.jit(fn).lower(*args).compile()
    best, spent = float("inf"), 0.0
    while spent < 0.5 or best == float("inf"):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        taken = time.perf_counter() - begin
        best, spent = min(best, taken), spent + taken
    return best


def prior_of(side: int) -> tuple[NetworkDenoiser, tuple[int, int, int]]:
    """A prior for images of this side, and their shape."""
    if side == 32:
        return load_prior("fashion_mnist"), (32, 32, 1)
    model, weights = split(nnx.eval_shape(lambda: FFHQ256.build(nnx.Rngs(0))))
    draw = np.random.default_rng(0).standard_normal

    def fill(leaf):
        values = draw(leaf.shape, np.float32) * 0.5 / leaf.shape[0] ** 0.5
        # Temperatures of attention are vectors, and have a square root.
        return jnp.asarray(np.abs(values) if values.ndim == 1 else values)

    return NetworkDenoiser(jax.tree.map(fill, weights), model), (side, side, 3)


def step_seconds(side: int) -> tuple[float, tuple[int, int, int]]:
    """Of one step of MGDM with one gradient step, denoising, and the shape of the images."""
    prior, x_shape = prior_of(side)
    sampler = MGDM(inner_low_noise=Inner(1))
    operator = families.Identity().draw(jax.random.key(0), x_shape)
    problem = simulate(jax.random.key(0), jnp.zeros(x_shape), operator, 0.05)
    segment = sampler.plan(prior.schedule)[-1]
    row = jax.tree.map(lambda leaf: leaf[0], segment.rows)
    noise = sampler.noise(jax.random.key(1), x_shape, segment)
    state = State(jnp.zeros(x_shape), jnp.zeros(x_shape))

    def step(noise, state, prior, problem, row):
        return sampler.step(noise, state, prior, problem, segment, row)

    return seconds(step, noise, state, prior, problem, row), x_shape


def operator_seconds(family: OperatorFamily, x_shape: tuple[int, int, int]) -> float:
    """Of the log-likelihood of one image and its gradient."""
    operator = family.draw(jax.random.key(0), x_shape)
    x_0 = jax.random.uniform(jax.random.key(1), x_shape, minval=-1)
    problem = simulate(jax.random.key(2), x_0, operator, 0.05)
    return seconds(jax.value_and_grad(lambda x, p: log_likelihood(p, x)), x_0, problem)


def main(config: Config) -> None:
    earlier("out", config.out)
    known = all_families(Path(config.pictures)) | {"colorization": families.Colorization()}
    found: dict[str, Any] = {}
    for side in config.sides:
        step, x_shape = step_seconds(side)
        shares = {}
        for name, family in known.items():
            if name == "painted mask" and side != 32 or name == "colorization" and side == 32:
                continue
            shares[name] = operator_seconds(family, x_shape) / step
            print(f"{side} {name}: {100 * shares[name]:.2f} %", flush=True)
        found[str(side)] = {"step_seconds": step, "operator_over_step": shares}
    record(config.out, found)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.operator_cost")
        )
    )
