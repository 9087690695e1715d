"""One training run from start, or its last checkpoint, to exported weights."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lavps_jax.config.settings import TrainConfig, to_json
from lavps_jax.data import (
    DataConfig,
    ImageSource,
    batch_indices,
    cached,
    load_ahead,
    load_batch,
    load_labels,
    view_numbers,
)
from lavps_jax.distributed.environment import describe_machine
from lavps_jax.distributed.memory import check_memory
from lavps_jax.distributed.preemption import StopRequest
from lavps_jax.distributed.processes import check_agreement, connect, is_first, wait_for_all
from lavps_jax.errors import UserError
from lavps_jax.io.checkpoints import TrainingCheckpoints
from lavps_jax.io.storage import AnyPath, as_path
from lavps_jax.io.weights import export_weights
from lavps_jax.runs.build_training import Trainee, build_optimizer, build_trainee, exported
from lavps_jax.runs.loading import check_image_shape
from lavps_jax.runs.training_folder import RunLog, check_run_folder, claim_run_folder, exported_card
from lavps_jax.runs.validation import make_validation, validation_line
from lavps_jax.training.sharding import (
    batch_sharding,
    check_batch,
    global_batch,
    make_mesh,
    on_all_devices,
    replicated,
    state_sharding,
    weight_sharding,
)
from lavps_jax.training.step import TrainState, begin_carry, init_train_state, make_train_step
from lavps_jax.types import PRNGKey

_CARRY_SEED = 2


def run_training(config: TrainConfig, *, devices: Sequence[Any] | None = None) -> AnyPath:
    """Trains, or goes on from the newest checkpoint of the same run; returns the last weights.

    On all devices of all processes that share the run; process 0 writes the log and the weights.
    SIGTERM ends it after a checkpoint.

    Args:
      config: of the run.
      devices: others than all.

    Raises:
      UserError: if the data do not fit the network, the run directory belongs to another
        configuration, the processes differ, or the loss is no longer finite.
      KeyboardInterrupt: after SIGTERM.
    """
    connect(config.coordinator, config.process_index, config.process_count)
    mesh = _checked_mesh(config, devices)
    run_dir = as_path(config.run_dir, "run_dir")
    check_run_folder(run_dir, config)
    num_classes = config.task.trained_classes
    train_data = cached(_opened(config.train_data, "train_data"))
    validation_data = _opened(config.validation_data, "validation_data")
    for field, source in (("train_data", train_data), ("validation_data", validation_data)):
        check_image_shape(
            config.task.network, source.image_shape, **{field: getattr(config, field)}
        )
        if num_classes and source.label(0) is None:
            remedy = f"say the classes of the images: the network has {num_classes}"
            raise UserError(field, "images without classes", f"{remedy} (or num_classes 0)")
    trainee = build_trainee(_as_it_begins(config, run_dir), train_data.image_shape)
    frozen = on_all_devices(trainee.frozen, weight_sharding(mesh, trainee.frozen))
    load = batches_of(config, train_data, mesh)
    optimizer = build_optimizer(config, trainee.weights)
    state, train_step, rng_key = _first_state(config, trainee, frozen, optimizer, load, mesh)
    if is_first():
        claim_run_folder(run_dir, config)
    wait_for_all("run directory")
    validate = make_validation(config, trainee, frozen, validation_data, mesh)

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with TrainingCheckpoints(run_dir / "checkpoints", keep_last=config.keep_last) as checkpoints:
        if checkpoints.latest_step() is not None:
            with warnings.catch_warnings(record=True) as damaged:
                warnings.simplefilter("always", UserWarning)
                state = checkpoints.restore(state)
            for one in damaged:
                _tell(console, f"warning: {one.message}")
            _tell(console, f"resumed at step {int(state.step)} of {config.num_train_steps}")
        first, skipped = int(state.step), int(state.num_skipped)
        best = exported_card(run_dir, "best")
        least = math.inf if best is None else best["validation"]["validation_loss"]
        with (
            StopRequest() as stop,
            Progress(*columns, console=console, disable=not is_first()) as progress,
            RunLog(run_dir, first) as log,
            closing(load_ahead(load, range(first, config.num_train_steps))) as batches,
        ):
            tell = partial(_tell, console)
            bar = progress.add_task(
                "training", total=config.num_train_steps, completed=first, told=""
            )
            began, since = time.perf_counter(), first
            for done, (images, labels) in enumerate(batches, first + 1):
                state, metrics = train_step(state, frozen, images, rng_key, labels)
                last = done == config.num_train_steps
                stopping = stop.came(done) and not last
                due_log, due_validation, due_checkpoint = (
                    last or done % every == 0
                    for every in (config.log_every, config.validate_every, config.checkpoint_every)
                )
                if due_log or due_validation or due_checkpoint:
                    if int(state.num_skipped) > skipped:
                        skipped = int(state.num_skipped)
                        tell(f"steps skipped so far, not finite: {skipped}")
                    if skipped > config.max_skipped_steps:
                        raise _diverged(checkpoints, done, skipped)
                if due_log:
                    row = {name: float(value) for name, value in metrics.items()}
                    speed = (done - since) * config.batch_size / (time.perf_counter() - began)
                    began, since = time.perf_counter(), done
                    log.write(done, row | {"images_per_second": speed})
                    told = f"loss {row['loss']:.4g}  {speed:.0f} images/s"
                    progress.update(bar, completed=done, told=told)
                # Before the checkpoint, so that a run that has its last one is complete.
                if due_validation:
                    scores = validate(state.ema)
                    if not np.isfinite(scores["validation_loss"]):
                        raise _diverged(checkpoints, done, skipped)
                    tell(validation_line(done, scores))
                    log.write(done, scores)
                    _export(config, state, scores, least, mesh)
                    least = min(least, scores["validation_loss"])
                    began, since = time.perf_counter(), done
                # After a step that was skipped the weights may have diverged already; the last
                # ones were validated.
                if (due_checkpoint or stopping) and (last or _is_finite(metrics)):
                    checkpoints.save(done, state)
                if stopping:
                    saved = checkpoints.latest_step() or 0
                    tell(f"stopped at step {done}: the same command goes on from step {saved}")
                    raise KeyboardInterrupt("SIGTERM")
    wait_for_all("last checkpoint")
    card = exported_card(run_dir, "weights")
    if card is None or card["step"] != config.num_train_steps:  # Taken away, or of a longer run.
        _export(config, state, validate(state.ema), least, mesh)
    return run_dir / "weights"


def _as_it_begins(config: TrainConfig, run_dir: AnyPath) -> TrainConfig:
    """Without its initial weights, which may be gone, if the run goes on from a checkpoint."""
    goes_on = TrainingCheckpoints.last_step_in(run_dir / "checkpoints") > 0
    return dataclasses.replace(config, initial_weights=None) if goes_on else config


def _checked_mesh(config: TrainConfig, devices: Sequence[Any] | None) -> Mesh:
    """The mesh of the run, once all processes agree on what they do.

    Raises:
      UserError: if they do not, or a batch cannot be spread over the devices.
    """
    facts = {name: one for name, one in to_json(config).items() if name != "process_index"}
    check_agreement(facts)
    mesh = make_mesh(config.fsdp, devices=devices)
    check_batch(mesh, config.batch_size, config.num_microbatches)
    return mesh


def batches_of(
    config: TrainConfig, source: ImageSource, mesh: Mesh
) -> Callable[[int], tuple[Array, Array | None]]:
    """The function from a step to its images and, for a network with classes, their labels."""
    num_classes, size = config.task.trained_classes, config.batch_size

    def load(step: int) -> tuple[Array, Array | None]:
        indices = batch_indices(config.seed, step, size, len(source))
        numbers = view_numbers(config.seed, step, size)

        def images(rows: slice) -> np.ndarray:
            return load_batch(source, indices[rows], numbers[rows])

        def labels(rows: slice) -> np.ndarray:
            return load_labels(source, indices[rows], num_classes)

        batch = global_batch((size, *source.image_shape), images, mesh)
        return batch, global_batch((size,), labels, mesh) if num_classes else None

    return load


def _first_state(
    config: TrainConfig,
    trainee: Trainee,
    frozen: Any,
    optimizer: optax.GradientTransformation,
    load: Callable[[int], tuple[Array, Array | None]],
    mesh: Mesh,
) -> tuple[TrainState, Any, PRNGKey]:
    """The state before the first step, the compiled step, and the key of all steps."""
    rng_key, carry_key = on_all_devices(
        (jax.random.key(config.seed), jax.random.key(_CARRY_SEED)), replicated(mesh)
    )
    images, labels = load(0)
    # On images drawn like the batch of step 0.
    begin = jax.jit(begin_carry, static_argnums=0, out_shardings=batch_sharding(mesh))
    compiled = begin.lower(trainee.loss_fn, frozen, images, carry_key).compile()
    check_memory(compiled, "batch_size", config.batch_size, _less_memory(config))
    carry = compiled(frozen, images, carry_key)

    def init(weights, carry):
        return init_train_state(weights, optimizer, carry)

    weights = on_all_devices(trainee.weights, weight_sharding(mesh, trainee.weights))
    shardings = state_sharding(mesh, jax.eval_shape(init, weights, carry))
    state = jax.jit(init, out_shardings=shardings)(weights, carry)
    train_step: Any = make_train_step(
        trainee.loss_fn,
        optimizer,
        ema_decay=config.optimizer.ema_decay,
        num_microbatches=config.num_microbatches,
        out_shardings=(shardings, replicated(mesh)),
    )
    compiled = train_step.lower(state, frozen, images, rng_key, labels).compile()
    check_memory(compiled, "batch_size", config.batch_size, _less_memory(config))
    return state, compiled, rng_key


def _less_memory(config: TrainConfig) -> str:
    """What a user can change so that a training step needs less memory."""
    ways = [way for way, left in (
        ("lower it", config.batch_size > 1),
        ("raise num_microbatches", config.num_microbatches < config.batch_size),
        ("give --remat layers", config.remat == "nothing"),
        ("compute with --compute-dtype bfloat16", config.compute_dtype == "float32"),
        ("raise fsdp", config.fsdp < jax.device_count()),
    ) if left]  # fmt: skip
    return ", or ".join(ways) or "take a device with more memory"


def _tell(console: Console, line: str) -> None:
    """What is said once, whatever the number of processes."""
    if is_first():
        console.print(line, markup=False, soft_wrap=True)


def _opened(data: DataConfig, field: str) -> ImageSource:
    """The source, whose mistakes are named after this field of the configuration."""
    try:
        return data.open()
    except UserError as error:
        found = error.field.replace("data.", f"{field}.", 1)
        remedy = error.remedy.replace("data.data_dir", f"{field}.data_dir")
        raise UserError(found, error.value, remedy) from error


def _is_finite(metrics: Mapping[str, Any]) -> bool:
    return all(np.isfinite(metrics[name]) for name in ("loss", "gradient_norm"))


def _diverged(checkpoints: TrainingCheckpoints, step: int, skipped: int) -> UserError:
    checkpoints.wait()
    good = checkpoints.latest_step()
    remedy = "lower optimizer.peak_lr, in a new run_dir"
    if good is not None:
        remedy += f"; to go on from the last good checkpoint, copy {checkpoints.directory}/{good}"
        remedy += " to its checkpoints"
    return UserError(f"loss at step {step}", f"no finite value ({skipped} steps skipped)", remedy)


def _export(
    config: TrainConfig, state: TrainState, scores: dict[str, float], least: float, mesh: Mesh
) -> None:
    """To "weights", and to "best" if the loss is below the `least` one before."""
    ema = jax.jit(lambda weights: weights, out_shardings=replicated(mesh))(
        exported(config.task, state.ema)
    )
    if not is_first():
        return
    card = {
        "config": to_json(config),
        "step": int(state.step),
        "validation": scores,
        "machine": describe_machine(),
    }
    run_dir = as_path(config.run_dir, "run_dir")
    export_weights(run_dir / "weights", ema, card, dtype=config.export_dtype, overwrite=True)
    if scores["validation_loss"] < least:
        export_weights(run_dir / "best", ema, card, dtype=config.export_dtype, overwrite=True)
