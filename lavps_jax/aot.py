"""Compiles a preset for a TPU slice on a machine without TPUs, and says what it would take.

    pip install -e . 'jax[tpu]'
    python -m lavps_jax.aot configs/ffhq256_prior.py --topology v5e:4x4
    python -m lavps_jax.aot configs/ffhq256_amortized.py --prior configs/ffhq256_prior.py
    python -m lavps_jax.aot configs/ffhq256.py --prior configs/ffhq256_prior.py \\
        --amortized configs/ffhq256_amortized.py

It is the program that train.py or sample.py would run there, of the weights' shapes alone, but that
the compiler does not search for good tilings, which takes it far longer. Training is compiled over
the whole slice; sampling runs one program for each chip, so one chip is enough.

Every loop is counted once: of microbatches one, and of a sampler the first prediction and one step
of each of its segments, each with one gradient step where it takes any.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.sharding import SingleDeviceSharding

from lavps_jax.config import cli
from lavps_jax.config.settings import (
    AmortizedTask,
    OneStepTask,
    PriorTask,
    PublishedPrior,
    SampleConfig,
    SupervisedTask,
    TrainConfig,
    load_preset,
)
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.distributed.collectives import bytes_sent
from lavps_jax.distributed.slices import CHIPS, Chip, compile_only, devices_of
from lavps_jax.errors import UserError
from lavps_jax.networks import ComputeDtype, Remat, split
from lavps_jax.problems.problem import simulate
from lavps_jax.runs.build_training import build_loss, build_optimizer, one_step_weights
from lavps_jax.runs.loading import amortized_start, supervised_denoiser
from lavps_jax.samplers import LAVPS, OneStep, Sampler, Supervised, sample
from lavps_jax.samplers.starts import SupervisedStart
from lavps_jax.training.sharding import (
    batch_sharding,
    check_batch,
    make_mesh,
    replicated,
    state_sharding,
    weight_sharding,
)
from lavps_jax.training.step import begin_carry, init_train_state, make_train_step
from lavps_jax.types import Weights


@dataclass(frozen=True)
class Config:
    """What to compile, and for what."""

    preset: tyro.conf.Positional[str]
    """A file of configs/: a training run, or a sampling run."""
    topology: str = "v5e:2x2"
    """Kind of chip and how they are arranged, such as v5e:4x4, v6e:4x4 or v5p:2x2x2."""
    prior: str | None = None
    """Preset of the prior, for sampling and for training an amortized network or a generator."""
    amortized: str | None = None
    """Preset of the amortized network, for sampling with LAVPS."""
    batch_size: int | None = None
    """Instead of the preset's."""
    num_microbatches: int | None = None
    """Instead of the preset's."""
    fsdp: int | None = None
    """Instead of the preset's."""
    compute_dtype: ComputeDtype | None = None
    """Instead of the preset's."""
    remat: Remat | None = None
    """Instead of the preset's."""
    image_size: int = 256
    """Side of the images."""


_OF_BOTH = ("batch_size", "compute_dtype")
_OF_TRAINING = ("num_microbatches", "fsdp", "remat")


class Needs(NamedTuple):
    """What one chip needs for one call of a compiled program.

    Attributes:
      memory: bytes: arguments, results that reuse none of them, and intermediates.
      flops: operations, with every loop counted once.
      accessed: bytes moved to and from memory, with every loop counted once.
      collectives: bytes sent to other chips by operations between them, by name, where chips
        form a ring; with every loop counted once.
    """

    memory: float
    flops: float
    accessed: float
    collectives: dict[str, float]


def needs_of(compiled: Any, num_chips: int = 1) -> Needs:
    """Of a compiled program (`jax.stages.Compiled`) for `num_chips`, as the compiler tells."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    total += memory.output_size_in_bytes - memory.alias_size_in_bytes
    collectives = bytes_sent(compiled.as_text(), num_chips)
    return Needs(total, cost["flops"], cost["bytes accessed"], collectives)


def training_needs(
    config: TrainConfig, prior: TrainConfig | PublishedPrior | None, side: int, devices: Any
) -> Needs:
    """Of the training step.

    Args:
      config: of the run; its folders need not exist.
      prior: of the prior that an amortized network or a generator refers to.
      side: of the images, in pixels.
      devices: of a slice, here or not.

    Raises:
      UserError: if the prior is missing, the run cannot be spread over the devices, or it needs
        more memory than they have.
    """
    mesh = make_mesh(config.fsdp, devices=devices)
    check_batch(mesh, config.batch_size, config.num_microbatches)
    model, weights = _abstract(config)
    frozen: Any = {}
    if isinstance(config.task, OneStepTask):
        weights = jax.eval_shape(one_step_weights, weights)
    if isinstance(config.task, AmortizedTask | OneStepTask):
        frozen, _ = _abstract_prior(prior)
    loss_fn = build_loss(config, model)
    optimizer = build_optimizer(config, weights)
    images = _like((config.batch_size, side, side, _channels(config)), batch_sharding(mesh))
    labels = None
    if config.task.trained_classes:
        labels = _like((config.batch_size,), batch_sharding(mesh), jnp.int32)
    rng_key = _placed(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh))
    frozen = jax.tree.map(_placed, frozen, weight_sharding(mesh, frozen))
    carry = jax.eval_shape(partial(begin_carry, loss_fn), frozen, images, rng_key)
    state = jax.eval_shape(lambda w, c: init_train_state(w, optimizer, c), weights, carry)
    shardings = state_sharding(mesh, state)
    train_step: Any = make_train_step(
        loss_fn,
        optimizer,
        ema_decay=config.optimizer.ema_decay,
        num_microbatches=config.num_microbatches,
        out_shardings=(shardings, replicated(mesh)),
    )
    state = jax.tree.map(_placed, state, shardings)
    remedy = "lower batch_size, raise num_microbatches or fsdp, use remat, or take more chips"
    program = compiled(train_step.lower(state, frozen, images, rng_key, labels), remedy)
    return needs_of(program, mesh.size)


def sampling_needs(
    config: SampleConfig,
    prior: TrainConfig | PublishedPrior | None,
    amortized: TrainConfig | None,
    side: int,
    device: Any,
) -> Needs:
    """Of one batch of the preset's sampler on one device; arguments as `training_needs`.

    Raises:
      UserError: if the configuration of a network that the sampler needs is missing, or it needs
        more memory than there is.
    """
    denoiser, channels = _abstract_prior(prior, config.compute_dtype)
    sampler = _sampler(config, amortized)
    x_0 = jax.ShapeDtypeStruct((side, side, channels), jnp.float32)

    def problem(key, x_0):
        return simulate(key, x_0, config.operator.draw(key, x_0.shape), 0.05)

    rng_key, sharding = jax.eval_shape(lambda: jax.random.key(0)), SingleDeviceSharding(device)
    stack = jax.vmap(problem, axis_size=config.batch_size, in_axes=None)
    problems = jax.eval_shape(stack, rng_key, x_0)
    given = jax.tree.map(
        lambda leaf: _placed(jnp.float32(leaf) if isinstance(leaf, float) else leaf, sharding),
        (rng_key, sampler, denoiser, problems),
    )
    program = jax.jit(partial(sample, num_particles=config.num_particles))
    return needs_of(compiled(program.lower(*given), "lower batch_size or num_particles"))


def compiled(lowered: jax.stages.Lowered, remedy: str) -> jax.stages.Compiled:
    """Raises a UserError if the compiler finds that it needs more memory than there is."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        told = str(error).partition(":")[2].strip().partition("\n")[0]
        raise UserError("memory of a chip", told, remedy) from error


def _sampler(config: SampleConfig, amortized: TrainConfig | None) -> Sampler:
    match config.sampler:
        case LAVPS():
            task = None if amortized is None else amortized.task
            if amortized is None or not isinstance(task, AmortizedTask | SupervisedTask):
                raise UserError("amortized", "no preset of an amortized network", "give one")
            model, weights = _abstract(amortized, config.compute_dtype)
            if isinstance(task, AmortizedTask):
                start: Any = amortized_start(model, task, amortized.schedule, weights)
            else:
                denoiser = supervised_denoiser(model, task, amortized.schedule, weights)
                start = SupervisedStart(denoiser)
            # The larger program: starts are compared on all operators but one.
            return config.sampler.replace(amortized=start, best_of=True)
        case Supervised() | OneStep():
            raise UserError("preset", "a sampler without the prior", "give one that uses it")
        case _:
            return config.sampler


def _abstract(
    config: TrainConfig | PublishedPrior, dtype: ComputeDtype = "float32"
) -> tuple[Any, Weights]:
    model, weights = split(nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0))))
    model = dataclasses.replace(model, compute_dtype=dtype)
    return model, jax.eval_shape(model.rounded, weights)


def _channels(config: TrainConfig | PublishedPrior) -> int:
    network: Any = config.task.network
    return getattr(network, "backbone", network).in_channels


def _abstract_prior(
    config: TrainConfig | PublishedPrior | None, dtype: ComputeDtype = "float32"
) -> tuple[NetworkDenoiser, int]:
    """The prior with shapes in the place of weights, and the channels of an image."""
    if config is None or not isinstance(config.task, PriorTask):
        raise UserError("prior", "no preset of a prior", "give --prior configs/NAME_prior.py")
    model, weights = _abstract(config, dtype)
    parameterisation = config.task.parameterisation
    prior = NetworkDenoiser(weights, model, parameterisation, schedule=config.schedule)
    return prior, _channels(config)


def _like(shape: tuple[int, ...], sharding: Any, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return _like(leaf.shape, sharding, leaf.dtype)


def run(arguments: list[str]) -> None:
    given = cli.from_flags(Config, arguments, prog="python -m lavps_jax.aot")
    preset: Any = load_preset(given.preset)
    if not isinstance(preset, SampleConfig | TrainConfig):
        raise UserError("preset", given.preset, "its get_config() must give a run")
    trains = isinstance(preset, TrainConfig)
    for field in ("amortized",) if trains else _OF_TRAINING:
        if (value := getattr(given, field)) is not None:
            raise UserError(field, value, f"leave it out: {given.preset} has no use for it")
    devices = devices_of(given.topology)
    fields = (*_OF_BOTH, *_OF_TRAINING) if trains else _OF_BOTH
    changes = {name: getattr(given, name) for name in fields}
    changes = {name: value for name, value in changes.items() if value is not None}
    preset = dataclasses.replace(preset, **changes)
    others = (given.prior, given.amortized)
    prior, amortized = (None if path is None else load_preset(path) for path in others)
    if trains:
        needs = training_needs(preset, prior, given.image_size, devices)
        parts = preset.num_microbatches
        what = f"a training step of {preset.batch_size} images on {len(devices)} chips"
        what += f", of which one part of {parts} is counted" if parts > 1 else ""
    else:
        needs = sampling_needs(preset, prior, amortized, given.image_size, devices[0])
        what = f"{preset.batch_size} images x {preset.num_particles} particles on one chip"
        what += ", every loop counted once"
    print(f"{given.preset} on {given.topology}: {what}")
    for line in describe(needs, CHIPS[given.topology.partition(":")[0]]):
        print(line)


def least_times(needs: Needs, chip: Chip) -> dict[str, float]:
    """Seconds that each limit of a chip would take for it if the others did not count."""
    return {
        "arithmetic": needs.flops / chip.flops,
        "memory": needs.accessed / chip.bandwidth,
        "links": sum(needs.collectives.values()) / chip.links,
    }


def describe(needs: Needs, chip: Chip) -> list[str]:
    """The needs of a chip, and the least time that each of its limits allows."""
    work, traffic = f"{needs.flops / 1e12:.3f} TFLOP", f"{needs.accessed / 1e9:.1f} GB"
    times = least_times(needs, chip)
    fits = "fits" if needs.memory <= chip.memory else "DOES NOT FIT"
    names = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in needs.collectives.items())
    longest = max(times, key=lambda name: times[name])
    return [
        f"memory of a chip: {needs.memory / 1e9:.2f} of {chip.memory / 1e9:.0f} GB, {fits}",
        f"operations: {work}, memory traffic: {traffic}",
        f"between chips: {names or 'nothing'}",
        "at least "
        + ", ".join(f"{1e3 * t:.2f} ms for {name}" for name, t in times.items())
        + f": {longest} decides",
    ]


if __name__ == "__main__":
    compile_only()
    cli.main(run)
