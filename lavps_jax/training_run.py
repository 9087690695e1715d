"""One training run from start, or its last checkpoint, to exported weights."""

from __future__ import annotations

import csv
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lavps_jax.amortized_training import ChainLoss
from lavps_jax.build import Trainee, build_optimizer, build_trainee, check_image_shape
from lavps_jax.checkpoints import TrainingCheckpoints, export_weights
from lavps_jax.config import ConditionalTask, PriorTask, TrainConfig, to_json
from lavps_jax.data import (
    DataConfig,
    ImageSource,
    batch_indices,
    in_memory,
    load_batch,
    load_labels,
)
from lavps_jax.errors import UserError
from lavps_jax.machine import describe_machine
from lavps_jax.memory import check_memory
from lavps_jax.stop_request import StopRequest
from lavps_jax.training import (
    PriorLoss,
    TrainState,
    begin_chains,
    init_train_state,
    make_train_step,
)

__all__ = ["run_training"]

VALIDATION_SIGMAS = (0.2, 1.0, 5.0)
"""Noise levels at which the denoising error of a prior is reported."""
_VALIDATION_SEED = 1
_CHAINS_SEED = 2
_FREE_FIELDS = (
    "run_dir", "log_every", "validate_every", "checkpoint_every", "keep_last", "max_skipped_steps",
)  # fmt: skip
"""What may change when a run goes on: it does not change the weights."""


def run_training(config: TrainConfig) -> Path:
    """Trains, or goes on from the newest checkpoint of the same run; returns the exported weights.

    SIGTERM ends it after a checkpoint.

    Raises:
      UserError: if the data do not fit the network, the run directory belongs to another
        configuration, or the loss is no longer finite.
      KeyboardInterrupt: after SIGTERM.
    """
    run_dir = Path(config.run_dir)
    num_classes = _trained_classes(config)
    train_data = in_memory(_opened(config.train_data, "train_data"), classes=num_classes > 0)
    validation_data = _opened(config.validation_data, "validation_data")
    for source in (train_data, validation_data):
        check_image_shape(config.task.network, source.image_shape)
    if num_classes and train_data.label(0) is None:
        remedy = f"say the classes of the images: the network has {num_classes} (or num_classes 0)"
        raise UserError("train_data", "images without classes", remedy)
    trainee = build_trainee(config, train_data.image_shape)
    optimizer = build_optimizer(config.optimizer, config.num_train_steps, trainee.weights)
    train_step: Any = make_train_step(
        trainee.loss_fn, optimizer, ema_decay=config.optimizer.ema_decay
    )
    rng_key = jax.random.key(config.seed)
    state = init_train_state(trainee.weights, optimizer, _begin_chains(config, trainee, train_data))
    batch = config.batch_size
    images_like = jax.ShapeDtypeStruct((batch, *train_data.image_shape), jnp.float32)
    labels_like = jax.ShapeDtypeStruct((batch,), jnp.int32) if num_classes else None
    train_step = train_step.lower(state, trainee.frozen, images_like, rng_key, labels_like)
    train_step = train_step.compile()
    check_memory(train_step, "batch_size", config.batch_size)
    _claim_directory(run_dir, config)
    validate = _make_validation(config, trainee, validation_data)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4g}  {task.fields[speed]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with TrainingCheckpoints(run_dir / "checkpoints", keep_last=config.keep_last) as checkpoints:
        if checkpoints.latest_step() is not None:
            with warnings.catch_warnings(record=True) as damaged:
                warnings.simplefilter("always", UserWarning)
                state = checkpoints.restore(state)
            for one in damaged:
                print(f"warning: {one.message}", flush=True)
            print(f"resumed at step {int(state.step)} of {config.num_train_steps}", flush=True)
        first, skipped = int(state.step), int(state.num_skipped)
        with (
            StopRequest() as stop,
            Progress(*columns) as progress,
            _Log(run_dir / "log.csv", first) as log,
        ):
            bar = progress.add_task(
                "training", total=config.num_train_steps, completed=first, loss=np.nan, speed=0.0
            )
            began, since = time.perf_counter(), first
            for step in range(first, config.num_train_steps):
                indices = batch_indices(config.seed, step, config.batch_size, len(train_data))
                images = jnp.asarray(load_batch(train_data, indices))
                labels = _labels(train_data, indices, num_classes)
                state, metrics = train_step(state, trainee.frozen, images, rng_key, labels)
                done = step + 1
                last = done == config.num_train_steps
                due_log, due_validation, due_checkpoint = (
                    last or done % every == 0
                    for every in (config.log_every, config.validate_every, config.checkpoint_every)
                )
                if due_log or due_validation or due_checkpoint:
                    if int(state.num_skipped) > skipped:
                        skipped = int(state.num_skipped)
                        note = f"steps skipped so far, not finite: {skipped}"
                        progress.console.print(note)
                    if skipped > config.max_skipped_steps or (last and not _is_finite(metrics)):
                        raise _diverged(checkpoints, done, skipped)
                if due_log:
                    row = {name: float(value) for name, value in metrics.items()}
                    speed = (done - since) * config.batch_size / (time.perf_counter() - began)
                    began, since = time.perf_counter(), done
                    log.write(done, row | {"images_per_second": speed})
                    progress.update(bar, completed=done, loss=row["loss"], speed=speed)
                # Before the checkpoint, so that a run that has its last one is complete.
                if due_validation:
                    scores = validate(state.ema)
                    if not np.isfinite(scores["validation_loss"]):
                        raise _diverged(checkpoints, done, skipped)
                    line = _validation_line(done, scores)
                    progress.console.print(line, markup=False, soft_wrap=True)
                    log.write(done, scores)
                    _export(config, state, scores)
                    began, since = time.perf_counter(), done
                # After a step that was skipped the weights may have diverged already.
                if (due_checkpoint or stop.requested) and _is_finite(metrics):
                    checkpoints.save(done, state)
                if stop.requested and not last:
                    progress.console.print(f"stopped at step {done}: the same command goes on")
                    raise KeyboardInterrupt("SIGTERM")
    if not (run_dir / "weights" / "card.json").exists():  # Somebody took them away.
        _export(config, state, validate(state.ema))
    return run_dir / "weights"


def _trained_classes(config: TrainConfig) -> int:
    """How many classes the network learns; starts are learned without."""
    match config.task:
        case PriorTask(network=network):
            return network.num_classes
        case ConditionalTask(network=network):
            return network.backbone.num_classes
        case _:
            return 0


def _labels(source: ImageSource, indices, num_classes: int) -> Array | None:
    """Classes as a `LossFn` takes them, int32 (B,), or None for a network without."""
    return jnp.asarray(load_labels(source, indices, num_classes)) if num_classes else None


def _opened(data: DataConfig, field: str) -> ImageSource:
    """The source, whose mistakes are named after this field of the configuration."""
    try:
        return data.open()
    except UserError as error:
        found = error.field.replace("data.", f"{field}.", 1)
        remedy = error.remedy.replace("data.data_dir", f"{field}.data_dir")
        raise UserError(found, error.value, remedy) from error


def _begin_chains(config: TrainConfig, trainee: Trainee, source: ImageSource):
    """What `TrainState.chains` is at first: runs on images drawn like the batch of step 0."""
    if not isinstance(trainee.loss_fn, ChainLoss):
        return ()
    indices = batch_indices(config.seed, 0, config.batch_size, len(source))
    images = jnp.asarray(load_batch(source, indices))
    begin = jax.jit(begin_chains, static_argnums=0)
    inputs = trainee.frozen, images, jax.random.key(_CHAINS_SEED)
    compiled = begin.lower(trainee.loss_fn, *inputs).compile()
    check_memory(compiled, "batch_size", config.batch_size)
    return compiled(*inputs)


def _is_finite(metrics: Mapping[str, Any]) -> bool:
    return all(np.isfinite(metrics[name]) for name in ("loss", "gradient_norm"))


def _diverged(checkpoints: TrainingCheckpoints, step: int, skipped: int) -> UserError:
    checkpoints.wait()
    good = checkpoints.latest_step()
    where = "none is saved yet" if good is None else f"{checkpoints.directory}/{good}"
    remedy = f"lower optimizer.peak_lr; the last good checkpoint: {where}"
    return UserError(f"loss at step {step}", f"no finite value ({skipped} steps skipped)", remedy)


def _claim_directory(run_dir: Path, config: TrainConfig) -> None:
    """Writes the resolved configuration, or checks that the run there has the same one."""
    file = run_dir / "config.json"
    stored = to_json(config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        found = json.loads(file.read_text()) if file.exists() else stored
    except OSError as error:
        raise UserError("run_dir", run_dir, f"choose another: {error.strerror}") from error
    except ValueError as error:
        raise UserError("run_dir", file, "delete this file, it is damaged") from error
    for name in stored.keys() | found.keys():
        if name not in _FREE_FIELDS and stored.get(name) != found.get(name):
            remedy = f"choose another folder: it holds a run with another {name}"
            raise UserError("run_dir", run_dir, remedy)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(stored, indent=2) + "\n")
    temporary.rename(file)


def _make_validation(config: TrainConfig, trainee: Trainee, source: ImageSource):
    """A function of the averaged weights: mean losses over fixed images, noise and operators."""
    count = min(config.num_validation_images, len(source))
    images = jnp.asarray(load_batch(source, range(count)))
    num_classes = _trained_classes(config)
    labels = _labels(source, range(count), num_classes)
    keys = jax.random.split(jax.random.key(_VALIDATION_SEED), count)

    @jax.jit
    def scores(weights, frozen, keys, images, labels):
        def one(row):
            key, x_0, label = row
            key_loss, key_noise = jax.random.split(key)
            loss, metrics = trainee.loss_fn(
                weights, key_loss, frozen, x_0, train=False, label=label
            )
            if isinstance(trainee.loss_fn, PriorLoss):
                noise = jax.random.normal(key_noise, x_0.shape)
                shown = None if label is None else jax.nn.one_hot(label, num_classes)
                for sigma_t in VALIDATION_SIGMAS:
                    denoise = trainee.loss_fn.denoiser.at_sigma
                    z = x_0 + sigma_t * noise
                    x_0_hat = denoise(weights, z, jnp.float32(sigma_t), shown)
                    metrics[f"mse_at_sigma_{sigma_t:g}"] = jnp.mean((x_0_hat - x_0) ** 2)
            return {"loss": loss, **metrics}

        rows = jax.lax.map(one, (keys, images, labels), batch_size=config.batch_size)
        return jax.tree.map(jnp.mean, rows)

    def validate(weights) -> dict[str, float]:
        found = scores(weights, trainee.frozen, keys, images, labels)
        values = {f"validation_{k}": float(v) for k, v in found.items()}
        at_prior = values.get("validation_block_loss_at_prior")
        if at_prior is not None:
            values["validation_ratio"] = values["validation_block_loss"] / at_prior
        return values

    return validate


def _validation_line(step: int, scores: dict[str, float]) -> str:
    parts = (f"{k.removeprefix('validation_')} {v:.5g}" for k, v in scores.items())
    return f"validation at step {step}: " + ", ".join(parts)


def _export(config: TrainConfig, state: TrainState, scores: dict[str, float]) -> None:
    card = {
        "config": to_json(config),
        "step": int(state.step),
        "validation": scores,
        "machine": describe_machine(),
    }
    path = Path(config.run_dir) / "weights"
    export_weights(path, state.ema, card, dtype=config.export_dtype, overwrite=True)


class _Log:
    """log.csv: one row per value, so that a resumed run only cuts and appends."""

    def __init__(self, path: Path, first_step: int):
        kept = [["step", "name", "value"]]
        if path.exists():
            with path.open(newline="") as file:
                kept += [
                    row
                    for row in csv.reader(file)
                    if len(row) == 3 and row[0].isdigit() and int(row[0]) <= first_step
                ]
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows(kept)

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._writer.writerows([step, name, f"{value:.7g}"] for name, value in values.items())
        self._file.flush()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
