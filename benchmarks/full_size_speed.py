"""Seconds of a posterior sample at 256 pixels, and the memory for it, on the device at hand.

The sampling presets with their networks at full size and random weights, which take the same time
as trained ones. Seconds are those of one batch over its samples, after a first run, without
compilation: the faster of two runs, or one run of more than five seconds. GB are of the whole
program, as the compiler counts them. float32 is what JAX makes of it by default: on GPUs products
in TF32, on TPUs in bfloat16. Rows that the file of results holds already are not measured again;
delete it to start anew. Prints a table of all rows.

Command: python -m benchmarks.full_size_speed
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.reporting.record import origin_of, provenance, record, stored_by_this_code
from lavps_jax.aot import compiled, needs_of
from lavps_jax.config import cli
from lavps_jax.config.settings import load_preset
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.distributed.environment import describe_machine
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.networks import ComputeDtype, split
from lavps_jax.networks.pure import PureModel
from lavps_jax.problems.problem import simulate
from lavps_jax.runs.loading import amortized_start
from lavps_jax.samplers import LAVPS, Sampler, sample
from lavps_jax.types import Weights

SIDE = 256
"""Of the images."""
NETWORKS = ("prior", "amortized")
"""What presets of networks are called."""
HEAD = """\
| preset | sampler | arithmetic | samples at once | seconds for one | GB | seconds to compile |
| --- | --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    data: tuple[str, ...] = ("ffhq256", "imagenet256")
    dtypes: tuple[ComputeDtype, ...] = ("float32", "bfloat16")
    num_particles: tuple[int, ...] = (1, 4)
    """Samples of one measurement that are drawn at once."""
    out: str = "docs/results/full_size_speed.json"


def networks(data: str) -> dict[str, tuple[PureModel, Weights]]:
    """The prior and the amortized network of the presets, with random weights."""
    found = {}
    for name in NETWORKS:
        config = load_preset(f"configs/{data}_{name}.py").task.network
        model, _ = split(nnx.eval_shape(lambda config=config: config.build(nnx.Rngs(0))))
        found[name] = model, jax.jit(lambda config=config: split(config.build(nnx.Rngs(0)))[1])()
    return found


def in_place(
    data: str, sampler: Sampler, networks: dict[str, tuple[PureModel, Weights]]
) -> tuple[Sampler, NetworkDenoiser]:
    """The sampler of a preset, on the operator that its network was trained for, and the prior."""
    model, weights = networks["prior"]
    prior = NetworkDenoiser(
        weights, model, schedule=load_preset(f"configs/{data}_prior.py").schedule
    )
    if isinstance(sampler, LAVPS):
        model, weights = networks["amortized"]
        training = load_preset(f"configs/{data}_amortized.py")
        start = amortized_start(model, training.task, training.schedule, weights)
        sampler = sampler.replace(amortized=start, best_of=False)
    return sampler, prior


class Row(NamedTuple):
    """What is measured: a sampler of a preset, in one arithmetic, so many samples at once."""

    data: str
    sampler: Sampler
    dtype: ComputeDtype
    num_particles: int

    def name(self) -> str:
        method = type(self.sampler).__name__
        return f"{self.data}, {method}, {self.dtype}, {self.num_particles}"


def measured(row: Row, networks: dict[str, tuple[PureModel, Weights]]) -> dict[str, Any]:
    """Of one row: "seconds" for one sample, "gigabytes", "seconds_to_compile", or "refused"."""
    rounded = {}
    for name, (model, weights) in networks.items():
        model = dataclasses.replace(model, compute_dtype=row.dtype)
        rounded[name] = model, model.rounded(weights)
    sampler, prior = in_place(row.data, row.sampler, rounded)
    preset = load_preset(f"configs/{row.data}.py")
    operator = preset.operator
    channels = load_preset(f"configs/{row.data}_prior.py").task.network.in_channels
    key, key_image, key_operator, key_noise = jax.random.split(jax.random.key(0), 4)
    x_0 = jnp.tanh(jax.random.normal(key_image, (SIDE, SIDE, channels)))
    problem = simulate(key_noise, x_0, operator.draw(key_operator, x_0.shape), preset.sigma_y)
    given = (key, sampler, prior, problem)
    sample_fn = jax.jit(partial(sample, num_particles=row.num_particles))
    begin = time.perf_counter()
    try:
        program = compiled(sample_fn.lower(*given), "use fewer particles")
    except UserError as error:
        return {"refused": str(error)}
    to_compile = time.perf_counter() - begin
    return {
        "seconds": seconds(program, given) / row.num_particles,
        "gigabytes": needs_of(program).memory / 1e9,
        "seconds_to_compile": to_compile,
    }


def seconds(program: Any, given: tuple[Any, ...]) -> float:
    """Of one call, after a first: the faster of two, or one of more than five seconds."""

    def once() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(program(*given))
        return time.perf_counter() - begin

    once()
    found = once()
    return found if found > 5 else min(found, once())


def main(config: Config) -> None:
    for number in config.num_particles:
        check_at_least("num_particles", number, 1)
    stored = _stored(config.out)
    for data in config.data:
        preset = load_preset(f"configs/{data}.py")
        samplers = (preset.sampler, *preset.compare_with)
        which = itertools.product(samplers, config.dtypes, config.num_particles)
        rows = [row for row in (Row(data, *one) for one in which) if row.name() not in stored]
        if rows:
            loaded = networks(data)
        for row in rows:
            stored[row.name()] = measured(row, loaded)
            record(config.out, stored)
            print(row.name(), stored[row.name()], flush=True)
    print(HEAD)
    for name, row in stored.items():
        if "refused" in row:
            cells = [row["refused"], "", ""]
        else:
            cells = [f"{row['seconds']:.2f}", f"{row['gigabytes']:.1f}"]
            cells += [f"{row['seconds_to_compile']:.0f}"]
        print("|", " | ".join([*name.split(", "), *cells]), "|")
    print(origin_of(provenance()))


def _stored(path: str) -> dict[str, Any]:
    """Rows measured before, by the same code on the same machine."""
    if not Path(path).exists():
        return {}
    remedy = "delete it, or give another file"
    stored = stored_by_this_code("out", Path(path), remedy)
    if stored["machine"] != describe_machine():
        found = f"{path} of machine {stored['machine']}, this is {describe_machine()}"
        raise UserError("out", found, remedy)
    return stored["results"]


if __name__ == "__main__":
    prog = "python -m benchmarks.full_size_speed"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
