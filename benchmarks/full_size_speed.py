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
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.record import origin_of, provenance, record, stored_by_this_code
from lavps_jax.aot import compiled, needs_of
from lavps_jax.config import cli
from lavps_jax.config.settings import DPSConfig, LAVPSConfig, MGDMConfig, load_preset
from lavps_jax.diffusion.denoisers import EDMDenoiser
from lavps_jax.distributed.environment import describe_machine
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.networks import ComputeDtype, split
from lavps_jax.problems.likelihoods import simulate
from lavps_jax.runs.build import build_mgdm, start_of
from lavps_jax.runs.build_zero_shot import build_zero_shot
from lavps_jax.samplers import Sampler, make_sample_fn
from lavps_jax.samplers.starts import ZeroShot
from lavps_jax.types import Params

SIDE = 256
"""Of the images."""
NETWORKS = {"prior": "theta", "amortized": "phi"}
"""Presets of networks, and what samplers call their weights."""
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


def networks(data: str) -> tuple[dict[str, Any], Params]:
    """The prior and the amortized network of the presets, and random weights for them."""
    models, params = {}, {}
    for name, key in NETWORKS.items():
        config = load_preset(f"configs/{data}_{name}.py").task.network
        models[name], _ = split(nnx.eval_shape(lambda config=config: config.build(nnx.Rngs(0))))
        params[key] = jax.jit(lambda config=config: split(config.build(nnx.Rngs(0)))[1])()
    return models, params


def sampler_of(
    data: str, config: LAVPSConfig | MGDMConfig | DPSConfig, models: dict[str, Any]
) -> Sampler:
    """The sampler of a preset, on the operator that its network was trained for."""
    denoiser = EDMDenoiser(models["prior"], load_preset(f"configs/{data}_prior.py").schedule)
    match config:
        case LAVPSConfig():
            training = load_preset(f"configs/{data}_amortized.py")
            return build_mgdm(
                config, denoiser, start_of(models["amortized"], training.task, training.schedule)
            )
        case MGDMConfig():
            return build_mgdm(config, denoiser, ZeroShot())
        case _:
            return build_zero_shot(config, denoiser)


class Row(NamedTuple):
    """What is measured: a sampler of a preset, in one arithmetic, so many samples at once."""

    data: str
    config: LAVPSConfig | MGDMConfig | DPSConfig
    dtype: ComputeDtype
    num_particles: int

    def name(self) -> str:
        method = type(self.config).__name__.removesuffix("Config")
        return f"{self.data}, {method}, {self.dtype}, {self.num_particles}"


def measured(row: Row, models: dict[str, Any], params: Params) -> dict[str, Any]:
    """Of one row: "seconds" for one sample, "gigabytes", "seconds_to_compile", or "refused"."""
    models = {
        name: dataclasses.replace(model, compute_dtype=row.dtype) for name, model in models.items()
    }
    params = {key: models[name].rounded(params[key]) for name, key in NETWORKS.items()}
    sampler = sampler_of(row.data, row.config, models)
    preset = load_preset(f"configs/{row.data}.py")
    operator = preset.operator
    channels = load_preset(f"configs/{row.data}_prior.py").task.network.in_channels
    key, key_image, key_operator, key_noise = jax.random.split(jax.random.key(0), 4)
    x_0 = jnp.tanh(jax.random.normal(key_image, (SIDE, SIDE, channels)))
    problem = simulate(key_noise, x_0, operator.draw(key_operator, x_0.shape), preset.sigma_y)
    problems = jax.tree.map(lambda leaf: leaf[None], problem)
    given = (key, jnp.zeros(1, jnp.uint32), params, problems, sampler.plan())
    sample_fn: Any = make_sample_fn(sampler, num_particles=row.num_particles)
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
            models, params = networks(data)
        for row in rows:
            stored[row.name()] = measured(row, models, params)
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
