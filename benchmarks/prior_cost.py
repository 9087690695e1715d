"""Seconds and memory of published priors at full size: an evaluation, its derivative, a short run.

Random weights take the same time as trained ones. Programs are compiled beforehand. Seconds are the
least of three calls, or the first of more than 20 seconds; GB are of the whole program, as the
compiler counts them. The run is MGDM with three steps, of one gradient step each, for one
sample, super-resolution by 4. Rows that the file of results holds already are not measured again.

Command: python -m benchmarks.prior_cost
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.reporting.record import earlier, record
from lavps_jax.aot import needs_of
from lavps_jax.config import cli
from lavps_jax.config.settings import load_preset
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.networks import ComputeDtype, split
from lavps_jax.operators import families
from lavps_jax.problems.problem import simulate
from lavps_jax.samplers import MGDM, Inner, sample


@dataclass(frozen=True)
class Config:
    """What to measure."""

    presets: tuple[str, ...] = ("ddpm256", "adm_ffhq256", "adm_imagenet256")
    dtypes: tuple[ComputeDtype, ...] = ("float32", "bfloat16")
    side: int = 256
    """Of the images."""
    out: str = "docs/results/prior_cost.json"


def build(preset: str, dtype: ComputeDtype) -> NetworkDenoiser:
    """The denoiser of a preset, with random weights."""
    config = load_preset(f"configs/{preset}_prior.py")
    model, weights = split(nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0))))
    model = dataclasses.replace(model, compute_dtype=dtype)

    def draw(leaf: Any) -> Any:
        return jax.random.normal(jax.random.key(leaf.size), leaf.shape) / leaf.size**0.5

    weights = model.rounded(jax.jit(lambda: jax.tree.map(draw, weights))())
    parameterisation = config.task.parameterisation
    return NetworkDenoiser(weights, model, parameterisation, schedule=config.schedule)


def measured(fn: Callable[..., Any], *given: Any) -> dict[str, float]:
    """Of a call: "seconds", "gigabytes" and "seconds_to_compile"."""
    begin = time.perf_counter()
    program = jax.jit(fn).lower(*given).compile()
    to_compile = time.perf_counter() - begin
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(program(*given))
        times.append(time.perf_counter() - begin)
        if times[-1] > 20:
            break
    return {
        "seconds": min(times),
        "gigabytes": needs_of(program).memory / 1e9,
        "seconds_to_compile": to_compile,
    }


def rows(preset: str, dtype: ComputeDtype, side: int) -> dict[str, dict[str, float]]:
    """What is measured of a prior."""
    prior, shape = build(preset, dtype), (side, side, 3)
    x, t = jax.random.normal(jax.random.key(0), shape), jnp.int32(500)

    def derivative(prior, x, t):
        return jax.vjp(lambda x: prior(x, t), x)[1](x)

    operator = families.SuperResolution(4).draw(jax.random.key(1), shape)
    problem = simulate(jax.random.key(2), jnp.tanh(x), operator, 0.05)
    sampler = MGDM(num_steps=6, inner=Inner(1), inner_low_noise=Inner(1))
    return {
        "evaluation": measured(lambda prior, x, t: prior(x, t), prior, x, t),
        "with its derivative": measured(derivative, prior, x, t),
        "run": measured(sample, jax.random.key(3), sampler, prior, problem),
    }


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m benchmarks.prior_cost")
    found = (earlier("out", config.out) or {"results": {}})["results"]
    for preset in config.presets:
        for dtype in config.dtypes:
            if (name := f"{preset}, {dtype}") not in found:
                found[name] = rows(preset, dtype, config.side)
                print(name, found[name], flush=True)
                record(config.out, found)


if __name__ == "__main__":
    cli.main(main)
