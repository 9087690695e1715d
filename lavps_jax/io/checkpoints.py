"""Orbax checkpoints: the state of a training run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lavps_jax.distributed.processes import is_first, on_any, wait_for_all
from lavps_jax.errors import UserError
from lavps_jax.io.checksums import checksums
from lavps_jax.io.named_arrays import Tree, check_leaves, named_leaves
from lavps_jax.io.storage import AnyPath, absolute, as_path, check_readable, in_bucket

CHECKSUMS = "checksums"


class Damaged(UserError):
    """A checkpoint whose files are not what was written."""

    def __init__(self, what: object):
        super().__init__("checkpoint", what, "delete this folder, it is damaged")


class TrainingCheckpoints:
    """The checkpoints of one training run, in one directory, written in the background.

    A checkpoint is written under a temporary name and renamed when complete, so that a killed run
    leaves complete checkpoints only. Use it as a context manager or call `close`, which waits for
    the last write. On several processes every process makes the same calls.

    Args:
      directory: made if it does not exist.
      keep_last: how many checkpoints to keep; the older ones are deleted.
    """

    def __init__(self, directory: str | Path, *, keep_last: int = 3):
        if keep_last < 1:
            raise UserError("keep_last", keep_last, "give a whole number from 1")
        self.directory = absolute(as_path(directory, "checkpoint directory"))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep_last),
            # What was being written when a run was killed; in a bucket it has the name of a step,
            # as what others may have put there.
            cleanup_tmp_directories=not in_bucket(self.directory),
        )
        # Named here, since a new manager could not read the metadata of old checkpoints.
        handlers = {"state": ocp.StandardCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handlers
        )

    @staticmethod
    def last_step_in(directory: AnyPath) -> int:
        """The step of the newest complete checkpoint in a directory, or 0; nothing is made."""
        if not directory.exists():
            return 0
        return max(ocp.utils.checkpoint_steps(os.fspath(directory)), default=0)

    @staticmethod
    def foreign_in(directory: AnyPath) -> list[str]:
        """Names in a directory that would be taken for checkpoints, and are not ours."""
        if not directory.exists():
            return []
        if not directory.is_dir():
            return [directory.name]
        steps = [one for one in directory.iterdir() if one.name.isdigit()]
        return [f"{directory.name}/{one.name}" for one in steps if not (one / "state").is_dir()]

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts writing a pytree of arrays; its buffers may be donated as soon as this returns.

        Saving the newest step once more does nothing.

        Raises:
          UserError: if the directory has a later checkpoint already, which would be the one that
            is restored.
        """
        latest = self.latest_step()
        if latest == step:
            return
        if latest is not None and latest > step:
            found = f"{self.directory} with a checkpoint of step {latest}, saving step {step}"
            raise UserError(
                "checkpoint directory", found, "resume that run or take a new directory"
            )
        named = named_leaves(state)
        item = ocp.args.StandardSave(named | {CHECKSUMS: checksums(named)})
        self._manager.save(step, args=ocp.args.Composite(state=item))

    def restore(self, abstract_state: Tree, step: int | None = None) -> Tree:
        """Reads a checkpoint into the structure of `abstract_state`.

        Args:
          abstract_state: a state as it was saved, of arrays or of `jax.ShapeDtypeStruct`. Every
            array is placed as its counterpart here (on the first device where that says nothing),
            whatever the number of devices was when it was saved.
          step: which checkpoint; None is the newest that is not damaged. Newer ones are set aside
            then, as "damaged-STEP", with a warning.

        Raises:
          UserError: if there is no such checkpoint, it has other arrays, or it is damaged: a file
            is missing or unreadable, or an array differs from its checksum.
        """
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps())
        if not steps or (step is not None and step not in steps):
            wanted = "a checkpoint" if step is None else f"step {step}"
            remedy = f"give one of the steps {steps}" if steps else "give the directory of a run"
            raise UserError("checkpoint directory", f"{self.directory} without {wanted}", remedy)
        if step is not None:
            return self._read(abstract_state, step)
        for step in reversed(steps):
            try:
                return self._read(abstract_state, step)
            except Damaged as damage:
                aside = self._set_aside(step)
                warnings.warn(f"damaged checkpoint, now {aside}: {damage.value}", stacklevel=2)
        remedy = "start in a new directory: all its checkpoints are damaged"
        raise UserError("checkpoint directory", self.directory, remedy)

    def _set_aside(self, step: int) -> AnyPath:
        """Renames a checkpoint so that it is none any more."""
        folder = self.directory / str(step)
        aside, number = folder.with_name(f"damaged-{step}"), 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"damaged-{step}-{number}")
        wait_for_all(f"name aside {step}")
        if is_first():
            folder.rename(aside)
        wait_for_all(f"aside {step}")
        self._manager.reload()
        return aside

    def _read(self, abstract_state: Tree, step: int) -> Tree:
        folder = self.directory / str(step)
        wanted = named_leaves(abstract_state)
        if not in_bucket(folder):
            check_readable(folder, "checkpoint")  # Orbax would find it damaged.
        try:
            metadata: Any = self._manager.item_metadata(step)
            found = dict(metadata.state.tree)
            del found[CHECKSUMS]
        except Exception as error:  # Orbax and TensorStore raise whatever they stumble over.
            raise Damaged(folder) from error
        check_leaves(folder, found, wanted)
        default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        stored = wanted | {CHECKSUMS: jax.ShapeDtypeStruct((len(wanted),), jnp.uint32)}
        targets = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default
            )
            for name, leaf in stored.items()
        }
        arrays: dict[str, Any] = {}
        cause: Exception | None = None
        try:
            item = ocp.args.Composite(state=ocp.args.StandardRestore(targets))
            restored: Any = self._manager.restore(step, args=item)
            arrays = dict(restored.state)
        except Exception as error:
            cause = error
        if on_any(not arrays):  # What one cannot read is of no use to the others.
            raise Damaged(folder) from cause
        # TensorStore finds what cannot be parsed, but gives wrong numbers for many a flipped bit.
        differs = np.asarray(arrays.pop(CHECKSUMS)) != checksums(arrays)
        names = [name for name, one in zip(sorted(arrays), differs, strict=True) if one]
        if on_any(bool(names)):  # Maybe in another process only.
            raise Damaged(f"{folder} (the array {names[0]})" if names else folder)
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)

    def wait(self) -> None:
        """Waits until what was saved is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk and frees the threads."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> TrainingCheckpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
