"""Finished batches of a sampling run in files, so that no process and no restart does them again.

A run is cut into batches of images by their number alone. Every process measures, restores and
scores its share of them, and writes scores and pictures of each batch as one file for the
measurements and one for each sampler; process 0 then waits for the others and puts all together.
Nothing but a common folder connects the processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lavps_jax.errors import UNREADABLE, UserError
from lavps_jax.io.own_folders import new_mark, read_mark
from lavps_jax.io.storage import (
    AnyPath,
    absolute,
    as_path,
    files_in,
    make_folder,
    reached,
    remove_files,
    write_file,
)

PATIENCE = 3600.0
"""Seconds that process 0 waits for the next batch of another process."""
_FREE_FIELDS = ("overwrite", "process_index", "process_count")
"""What may differ between the processes of a run, and between a run and its restart."""
MEASURED = "measured"
"""In the place of a sampler: what a batch has without one."""
_RUN = "run.json"
_FILE = r"(run\.json|mistake_\d+\.json|[a-z]\w*_\d{6}\.npz)"
_KILLED = rf"\.{_FILE}\.[0-9a-f]{{8}}\.tmp"
"""What a process leaves that is killed while it writes one."""


class Processes(NamedTuple):
    """Which process this is, out of how many."""

    index: int
    count: int

    def does(self, batch: int) -> bool:
        """Whether this process has to restore the batch of this number."""
        return batch % self.count == self.index


def detect_processes(
    index: int | None, count: int | None, environ: Mapping[str, str] = os.environ
) -> Processes:
    """What flags say, otherwise a step of SLURM, Open MPI, or JAX (a TPU slice).

    Raises:
      UserError: if there is no process of this number, or Kubernetes only says which one this is.
    """
    if index is None and count is None:
        for one, all_ in (
            ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ):
            if one in environ and all_ in environ:
                return Processes(int(environ[one]), int(environ[all_]))
        if "JOB_COMPLETION_INDEX" in environ and jax.process_count() == 1:
            # Kubernetes does not say how many pods there are: each would do everything.
            remedy = "give $JOB_COMPLETION_INDEX and the number of pods, or 0 and 1 if it is alone"
            raise UserError("process_index, process_count", "a pod of an indexed job", remedy)
        return Processes(jax.process_index(), jax.process_count())
    if index is None or count is None or not 0 <= index < count:
        remedy = "give both, and an index from 0 to process_count - 1"
        raise UserError("process_index, process_count", (index, count), remedy)
    return Processes(index, count)


class Batch(NamedTuple):
    """What is kept of a finished batch of one sampler, or of its measurements: arrays by name.

    Attributes:
      facts: of the batch, or of every measurement on axis 0.
      scores: of every measurement on axis 0.
      sheet: for the contact sheet, of those pictures on axis 0 that it shows.
      files: the bytes of files, uint8, by their path below the folder of results.
      samples: of pictures on axis 0, where they become an array and not files.
    """

    facts: dict[str, Any]
    scores: dict[str, np.ndarray]
    sheet: dict[str, np.ndarray]
    files: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]


def job_folder(out_dir: str) -> AnyPath:
    """The folder OUT.job of an unfinished run, whether it is there or not.

    Raises:
      UserError: if there is something of this name that no run made.
    """
    with reached(out_dir, "out_dir"):
        out = absolute(as_path(out_dir, "out_dir"))
    folder = out.with_name(f"{out.name}.job")
    with reached(folder, "out_dir"):
        files = files_in(folder) if folder.exists() else ()
        begun = any(not re.fullmatch(_KILLED, name) for name, _ in files)
        # In this order: another process of the same run may just begin it.
        if begun and read_mark(folder / _RUN) is None:
            remedy = "choose another out_dir or move this folder, which a run would use"
            raise UserError("out_dir", f"{folder}, which holds other files", remedy)
    return folder


class SamplingJob:
    """The folder OUT.job of an unfinished run.

    Args:
      out_dir: what the run will make.
      identity: JSON data that all its processes and restarts agree on.
      processes: which one this is.
      overwrite: replace the folder of another run, if there is one process only.
      sums: checksums of the measurements of batches of this process, by number; a batch of another
        one was made from other measurements.

    Raises:
      UserError: if an unfinished run with another identity or other measurements is there, or
        something else, or it cannot be made.
    """

    def __init__(
        self,
        out_dir: str,
        identity: Mapping[str, Any],
        processes: Processes,
        *,
        overwrite: bool,
        sums: Mapping[int, np.ndarray] | None = None,
    ):
        self.folder, self.sums = job_folder(out_dir), sums or {}
        self.processes = processes
        wanted = {key: one for key, one in identity.items() if key not in _FREE_FIELDS}
        with reached(self.folder, "out_dir"):
            if overwrite and processes.count == 1 and self._differs(wanted) is not None:
                self.remove()
            make_folder(self.folder)
            file = self.folder / _RUN
            if not file.exists():
                content = new_mark("an unfinished run") | {"run": wanted}
                with write_file(file) as temporary:
                    temporary.write_text(json.dumps(content, indent=2) + "\n")
            self._mistake(processes.index).unlink(missing_ok=True)
            name = self._differs(wanted)
        if name is not None:
            remedy = "delete it, or choose another out_dir"
            if processes.count == 1:
                remedy = "delete it, choose another out_dir or set overwrite (--overwrite)"
            found = f"{self.folder}, an unfinished run with another {name}"
            raise UserError("out_dir", found, remedy)

    def _differs(self, wanted: Mapping[str, Any]) -> str | None:
        """The first field in which the run of the folder is another one."""
        mark = read_mark(self.folder / _RUN)
        if mark is None:
            return None
        found = mark.get("run", {})
        fields = [*wanted, *found]
        differing = next((key for key in fields if wanted.get(key) != found.get(key)), None)
        if differing is not None:
            return differing
        kept = ((self.read(MEASURED, number), one) for number, one in self.sums.items())
        stale = (batch and not np.array_equal(batch.facts["sums"], one) for batch, one in kept)
        return "measurements" if any(stale) else None

    def _file(self, sampler: str, batch: int) -> AnyPath:
        return self.folder / f"{sampler}_{batch:06d}.npz"

    def read(self, sampler: str, batch: int) -> Batch | None:
        """A finished batch; None if it is not there, or damaged.

        Raises:
          UserError: if it may not be read.
        """
        path = self._file(sampler, batch)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                parts = Batch(*({} for _ in Batch._fields))
                for key in stored.files:
                    part, _, name = key.partition("/")
                    getattr(parts, part)[name] = stored[key]
                return parts
        except PermissionError as error:
            raise UserError("out_dir", path, f"fix this: {error.strerror}") from error
        except (*UNREADABLE, zipfile.BadZipFile):
            return None

    def write(self, sampler: str, batch: int, done: Batch) -> None:
        """Keeps a finished batch; it appears under its name when it is complete."""
        parts = done._asdict().items()
        arrays = {f"{part}/{name}": one for part, some in parts for name, one in some.items()}
        with write_file(self._file(sampler, batch)) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def _mistake(self, process: int) -> AnyPath:
        return self.folder / f"mistake_{process}.json"

    def write_mistake(self, error: UserError) -> None:
        """Tells process 0 why this one does nothing more."""
        with write_file(self._mistake(self.processes.index)) as temporary:
            temporary.write_text(json.dumps([error.field, str(error.value), error.remedy]))

    def collect(
        self, wanted: Iterable[tuple[str, int]], waiting: Callable[[], None]
    ) -> Iterator[Batch]:
        """Finished batches, those of other processes as they come.

        Args:
          wanted: sampler and number of each.
          waiting: called once if one has to be waited for.

        Raises:
          UserError: if nothing comes for `PATIENCE` seconds, or the mistake of the process that
            has to do the next one.
        """
        told = False
        for sampler, batch in wanted:
            since = time.monotonic()
            while (one := self.read(sampler, batch)) is None:
                if not told:
                    waiting()
                told = True
                index = batch % self.processes.count
                if (mistake := self._mistake(index)).exists():
                    raise UserError(*json.loads(mistake.read_text()))
                if time.monotonic() - since > PATIENCE:
                    remedy = f"start process {index} again; what is done is kept"
                    raise UserError("process_count", f"no batch {batch} of {sampler}", remedy)
                time.sleep(0.2)
            yield one

    def is_empty(self) -> bool:
        """Whether no batch is finished."""
        try:
            return not any(one.name.endswith(".npz") for one in self.folder.iterdir())
        except FileNotFoundError:
            return True

    def remove(self) -> None:
        """Deletes the folder; files of others stay, and so does it then."""
        with contextlib.suppress(OSError):
            names = [name for name, _ in files_in(self.folder)]
            ours = [name for name in names if re.fullmatch(f"{_FILE}|{_KILLED}", name)]
            # The mark goes last.
            remove_files(self.folder, sorted(ours, key=lambda name: name == _RUN))
