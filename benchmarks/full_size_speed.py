"""Seconds of a sample, and of training on an image, of the 256-pixel presets: measured.

Networks have their initial weights, which does not change the time. Sampling has the settings of
the presets; training is that of the prior, on a device's share of a batch. `full_size_cost` counts
their operations.

Command: python -m benchmarks.full_size_speed
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks.record import record
from lavps_jax.build import build_loss, build_mgdm, build_optimizer, build_start
from lavps_jax.build_zero_shot import build_zero_shot
from lavps_jax.config import LAVPSConfig, MGDMConfig, SampleConfig, TrainConfig, load_preset
from lavps_jax.diffusion import EDMDenoiser
from lavps_jax.likelihoods import simulate
from lavps_jax.networks import ComputeDtype, split
from lavps_jax.samplers import make_sample_fn
from lavps_jax.starts import ZeroShot
from lavps_jax.training import init_train_state, make_train_step

SHAPE = (256, 256, 3)
NUM_TRAIN_STEPS = 10
"""Steps of training that are timed."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    data: tuple[str, ...] = ("ffhq256", "imagenet256")
    batch_size: int = 4
    """Images that are sampled together, one sample each."""
    train_batch_size: int = 16
    compute_dtypes: tuple[ComputeDtype, ...] = ("float32", "bfloat16")
    """Of training; sampling is in float32."""
    out: str = "docs/results/full_size_speed.json"


def sampling(preset: SampleConfig, sampler_config: Any, data: str, batch_size: int) -> Any:
    """(compiled program, its arguments) of one batch of measurements."""
    prior: TrainConfig = load_preset(f"configs/{data}_prior.py")
    model, theta = split(prior.task.network.build(nnx.Rngs(0)))
    denoiser, params = EDMDenoiser(model, prior.schedule), {"theta": theta}
    match sampler_config:
        case LAVPSConfig():
            trained = load_preset(f"configs/{data}_amortized.py")
            model, params["phi"] = split(trained.task.network.build(nnx.Rngs(1)))
            start = build_start(model, trained.task, trained.schedule)
            sampler = build_mgdm(sampler_config, denoiser, start)
        case MGDMConfig():
            sampler = build_mgdm(sampler_config, denoiser, ZeroShot())
        case _:
            sampler = build_zero_shot(sampler_config, denoiser)

    def problem(key):
        image_key, operator_key, noise_key = jax.random.split(key, 3)
        x_0 = jax.random.uniform(image_key, SHAPE, minval=-1.0)
        return simulate(noise_key, x_0, preset.operator.draw(operator_key, SHAPE), 0.05)

    problems = jax.jit(jax.vmap(problem))(jax.random.split(jax.random.key(0), batch_size))
    args = (jax.random.key(1), jnp.arange(batch_size), params, problems, sampler.plan())
    sample_fn: Any = make_sample_fn(sampler, num_particles=1)
    return sample_fn.lower(*args).compile(), args


def training(config: TrainConfig) -> Any:
    """(compiled step, its arguments) of training the prior."""
    model, weights = split(config.task.network.build(nnx.Rngs(0)))
    optimizer = build_optimizer(config.optimizer, config.num_train_steps, weights)
    step: Any = make_train_step(
        build_loss(config, model, None), optimizer, ema_decay=config.optimizer.ema_decay
    )
    state = jax.jit(lambda weights: init_train_state(weights, optimizer, ()))(weights)
    images = jax.random.uniform(jax.random.key(0), (config.batch_size, *SHAPE), minval=-1.0)
    labels = None
    if config.task.trained_classes:
        labels = jnp.zeros(config.batch_size, jnp.int32)
    args = (state, {}, images, jax.random.key(1), labels)
    return step.lower(*args).compile(), args


def seconds_of_batch(compiled: Any, args: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(compiled(*args))
    return time.perf_counter() - began


def seconds_of_step(compiled: Any, args: Any) -> float:
    state, *others = args
    state, _ = jax.block_until_ready(compiled(state, *others))  # The first one is slower.
    began = time.perf_counter()
    for _ in range(NUM_TRAIN_STEPS):
        state, _ = compiled(state, *others)
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / NUM_TRAIN_STEPS


def main(config: Config) -> None:
    jobs: list[tuple[str, str, int, Callable[[], Any], Callable[[Any, Any], float]]] = []
    for data in config.data:
        preset: SampleConfig = load_preset(f"configs/{data}.py")
        for one in (preset.sampler, *preset.compare_with):
            build = partial(sampling, preset, one, data, config.batch_size)
            name = f"sample of {type(one).__name__.removesuffix('Config')}"
            jobs.append((data, name, config.batch_size, build, seconds_of_batch))
        for dtype in config.compute_dtypes:
            trained = dataclasses.replace(
                load_preset(f"configs/{data}_prior.py"),
                batch_size=config.train_batch_size,
                compute_dtype=dtype,
                remat="layers",
            )
            name, build = f"training image, {dtype}", partial(training, trained)
            jobs.append((data, name, config.train_batch_size, build, seconds_of_step))
    found: dict[str, dict[str, dict[str, float]]] = {}
    # Compilation takes a minute each, on one core each; nothing is timed meanwhile.
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda job: job[3](), jobs))
    for (data, name, number, _, seconds_of), (compiled, args) in zip(jobs, programs, strict=True):
        memory = compiled.memory_analysis()
        seconds = seconds_of(compiled, args) / number
        found.setdefault(data, {})[name] = {
            "seconds": seconds,
            "temporary_gigabytes": memory.temp_size_in_bytes / 1e9,
        }
        print(
            f"{data} {name}: {seconds:.4f} s, {memory.temp_size_in_bytes / 1e9:.2f} GB", flush=True
        )
        settings = dataclasses.asdict(config) | {"compute_dtypes": list(config.compute_dtypes)}
        record(config.out, {"config": settings, "presets": found})


if __name__ == "__main__":
    main(tyro.cli(Config))
