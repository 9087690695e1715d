"""The folder of a training run: whose it is, and the log in it."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any

from lavps_jax.config.settings import TrainConfig, from_json, to_json
from lavps_jax.distributed.processes import is_first
from lavps_jax.errors import UserError, first_words
from lavps_jax.io.checkpoints import TrainingCheckpoints
from lavps_jax.io.own_folders import refuse_existing
from lavps_jax.io.storage import (
    AnyPath,
    in_bucket,
    is_held,
    left_beside,
    make_folder,
    reached,
    write_file,
)
from lavps_jax.io.weights import CARD, read_card

_FREE_FIELDS = (
    "run_dir", "log_every", "validate_every", "checkpoint_every", "keep_last", "max_skipped_steps",
    "num_microbatches", "fsdp", "remat", "coordinator", "process_index", "process_count",
)  # fmt: skip
"""What may change when a run goes on: it does not change the weights, but for rounding."""
_CONFIG, _LOG, _CHECKPOINTS = "config.json", "log.csv", "checkpoints"
_EXPORTS = ("weights", "best")
_LOG_SECONDS = 30.0
"""From one sending of log.csv to a bucket to the next."""


def check_run_folder(run_dir: AnyPath, config: TrainConfig) -> None:
    """Sees that the run may use the folder, before anything is computed or written.

    Without a config.json it may hold checkpoints, copied from another run, and what has none of the
    names that a run gives.

    Raises:
      UserError: if it is the folder of another run, has done more steps than it shall have, or
        holds something that no run wrote where this one would write.
    """
    with reached(run_dir, "run_dir"):
        if (run_dir / _CONFIG).exists():
            _check_same_run(run_dir, config)
        else:
            foreign = [name for name in (_LOG, *_EXPORTS) if (run_dir / name).exists()]
            foreign += TrainingCheckpoints.foreign_in(run_dir / _CHECKPOINTS)
            if foreign:
                found = f"{run_dir}, which holds {foreign[0]} and no {_CONFIG} of a run"
                raise UserError("run_dir", found, "choose another folder")
        done = TrainingCheckpoints.last_step_in(run_dir / _CHECKPOINTS)
    if done > config.num_train_steps:
        remedy = f"give at least {done}: so many steps of the run in {run_dir} are done"
        raise UserError("num_train_steps", config.num_train_steps, remedy)
    for name in _EXPORTS:
        refuse_existing(run_dir / name, "weights", overwrite=True)


def _check_same_run(run_dir: AnyPath, config: TrainConfig) -> None:
    """Raises a UserError unless config.json is of this run, but for what may change."""
    file, wanted = run_dir / _CONFIG, to_json(config)
    try:
        found = json.loads(file.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("is") != wanted["is"]:
        remedy = "choose another folder, to which checkpoints of a run may be copied"
        raise UserError("run_dir", f"{file}, which is damaged or of no training run", remedy)
    wanted, found = _completed(wanted), _completed(found)
    differs = [
        name
        for name in dict.fromkeys((*wanted, *found))
        if name not in _FREE_FIELDS and wanted.get(name) != found.get(name)
    ]
    others = [name for name in differs if name != "num_train_steps"]
    if others:
        remedy = f"choose another folder: it holds a run with another {others[0]}"
        raise UserError("run_dir", run_dir, remedy)
    # With a constant schedule no step depends on how many follow.
    if differs and config.optimizer.schedule != "constant":
        remedy = f"keep {found['num_train_steps']}, where the {config.optimizer.schedule} schedule "
        remedy += f"of the run in {run_dir} ends: only a constant one can go on"
        raise UserError("num_train_steps", config.num_train_steps, remedy)


def _completed(stored: Any) -> Any:
    """A stored configuration, with the defaults of settings that it does not know yet."""
    try:
        return to_json(from_json(stored))
    except UserError:
        return stored


def claim_run_folder(run_dir: AnyPath, config: TrainConfig) -> None:
    """Writes the resolved configuration to a folder that was checked."""
    with reached(run_dir, "run_dir"):
        make_folder(run_dir)
        checkpoints = run_dir / _CHECKPOINTS
        if not in_bucket(run_dir) and checkpoints.exists() and not os.access(checkpoints, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(checkpoints))
        with write_file(run_dir / _CONFIG) as temporary:
            temporary.write_text(json.dumps(to_json(config), indent=2) + "\n")
        for name in (_CONFIG, _LOG):
            for path in left_beside(run_dir / name, ".tmp"):
                if path.is_file() and not is_held(path):
                    path.unlink()


def exported_card(run_dir: AnyPath, name: str) -> Mapping[str, Any] | None:
    """The card of the weights that the run has exported to "weights" or "best", if there are any.

    Raises:
      UserError: if it cannot be read.
    """
    folder = run_dir / name
    with reached(folder, "run_dir"):
        if not (folder / CARD).exists():
            return None
    return read_card(folder)


class RunLog:
    """log.csv: one row per value, so that a resumed run only cuts and appends. Only process 0 has
    one. Nothing can be appended in a bucket, where all of it is sent again now and then."""

    def __init__(self, run_dir: AnyPath, first_step: int):
        self._path = path = run_dir / _LOG if is_first() else None
        self._rows = [["step", "name", "value"]]
        self._sent = -math.inf
        if path is None:
            return
        if path.exists():
            self._rows += [
                row
                for row in csv.reader(path.read_text().splitlines())
                if len(row) == 3 and row[0].isdigit() and int(row[0]) <= first_step
            ]
        self._write_all()

    def _write_all(self) -> None:
        with write_file(self._path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows(self._rows)

    def _send(self) -> None:
        try:
            self._write_all()
        except Exception as error:  # A run does not end for its log; the next time sends all.
            warnings.warn(f"{self._path}: not sent ({first_words(error)})", stacklevel=2)
        self._sent = time.monotonic()

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self._path is None:
            return
        rows = [[str(step), name, f"{value:.7g}"] for name, value in values.items()]
        if not in_bucket(self._path):
            with self._path.open("a", newline="") as file:
                csv.writer(file).writerows(rows)
            return
        self._rows += rows
        if time.monotonic() - self._sent > _LOG_SECONDS:
            self._send()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and in_bucket(self._path):
            self._send()
