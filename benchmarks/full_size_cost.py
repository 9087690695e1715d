"""Floating point operations of the 256-pixel presets, counted by XLA without running anything.

One evaluation of every network, with and without the derivative in the image, and from them one
sample of every sampler, and the training of every network. `--tflops` turns them into seconds at a
sustained rate; an estimate, since it leaves out memory traffic.

Command: python -m benchmarks.full_size_cost
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.config.settings import load_preset
from lavps_jax.networks import split
from lavps_jax.runs.loading import amortized_start
from lavps_jax.samplers import LAVPS

IMAGE = jax.ShapeDtypeStruct((256, 256, 3), jnp.float32)


@dataclass(frozen=True)
class Config:
    """What to count."""

    data: tuple[str, ...] = ("ffhq256", "imagenet256")
    tflops: float = 20.0
    """Sustained rate of a device, 10^12 operations a second."""
    out: str = "docs/results/full_size_cost.json"


def gflop(fn: Callable[..., Any], *args: Any) -> float:
    """Of one call, 10^9 operations."""
    found: Any = jax.jit(fn).lower(*args).cost_analysis()
    return found["flops"] / 1e9


def network_cost(data: str) -> dict[str, float]:
    """GFLOP of an evaluation of the prior, of one with its derivative, and of the amortized net."""
    task = load_preset(f"configs/{data}_prior.py").task
    model, weights = split(nnx.eval_shape(lambda: task.network.build(nnx.Rngs(0))))

    def prior(weights, x):
        return model(weights, x, jnp.zeros(1))

    def pull_back(weights, x, cotangent):
        return jax.vjp(lambda x: prior(weights, x), x)[1](cotangent)

    network = load_preset(f"configs/{data}_amortized.py").task.network
    palette, phi = split(nnx.eval_shape(lambda: network.build(nnx.Rngs(0))))

    def amortized(phi, x):
        return palette(phi, x, x, x, jnp.float32(1.0), jnp.float32(1.0))

    return {
        "prior": gflop(prior, weights, IMAGE),
        "prior_with_derivative": gflop(pull_back, weights, IMAGE, IMAGE),
        "amortized": gflop(amortized, phi, IMAGE),
    }


def training_cost(data: str, networks: dict[str, float]) -> dict[str, float]:
    """EFLOP (10^18) of the training that the presets describe.

    An image takes three evaluations of what is trained (forward, and twice as much backward) and,
    for a start, two of the prior and one with its derivative.
    """
    per_image = {
        "prior": 3 * networks["prior"],
        "amortized": 3 * networks["amortized"]
        + 2 * networks["prior"]
        + networks["prior_with_derivative"],
    }
    found = {}
    for task, gigaflop in per_image.items():
        config = load_preset(f"configs/{data}_{task}.py")
        found[task] = config.num_train_steps * config.batch_size * gigaflop / 1e9
    return found


def main(config: Config) -> None:
    earlier("out", config.out)
    found = {}
    for data in config.data:
        networks = network_cost(data)
        preset = load_preset(f"configs/{data}.py")
        amortized = load_preset(f"configs/{data}_amortized.py")
        no_network: Any = None  # Evaluations are counted, none is made.
        start = amortized_start(no_network, amortized.task, amortized.schedule)
        samples = {}
        for one in (preset.sampler, *preset.compare_with):
            # Starts are not compared on the operators that the network was trained on.
            sampler = one.replace(amortized=start, best_of=False) if isinstance(one, LAVPS) else one
            cost = sampler.cost(amortized.schedule)
            total = (
                (cost.network_calls - cost.vjps) * networks["prior"]
                + cost.vjps * networks["prior_with_derivative"]
                + cost.amortized_calls * networks["amortized"]
            ) / 1e3
            name = type(one).__name__
            samples[name] = {**cost._asdict(), "tflop": total, "seconds": total / config.tflops}
            print(f"{data} {name}: {total:.1f} TFLOP, {total / config.tflops:.1f} s", flush=True)
        training = training_cost(data, networks)
        for task, eflop in training.items():
            days = eflop * 1e6 / config.tflops / 86400
            print(f"{data} training of {task}: {eflop:.2f} EFLOP, {days:.1f} days", flush=True)
        found[data] = {"gflop": networks, "samples": samples, "training_eflop": training}
    record(config.out, {"tflops": config.tflops, "presets": found})


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.full_size_cost")
        )
    )
