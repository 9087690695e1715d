"""Orbax checkpoints: the state of a training run, and weights exported for others.

Both store a flat mapping from names ("theta/layers/0/kernel") to arrays, so that the files depend
neither on classes of Flax nor on those of Optax, and a mismatch can be reported by name.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lavps_jax.checksums import checksums
from lavps_jax.errors import UserError
from lavps_jax.processes import is_first, on_any, wait_for_all
from lavps_jax.storage import AnyPath, absolute, as_path, copy_on_disk, remove_tree, write_directory

__all__ = ["TrainingCheckpoints", "export_weights", "load_weights", "read_card", "write_weights"]

Tree = TypeVar("Tree")

CARD = "card.json"
CHECKSUMS = "checksums"
WEIGHTS = "weights"


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the order of `jax.tree.leaves`; "value" of an nnx.Variable is left
    out, so that an `nnx.State` and the pure dict of it have the same names."""
    names, leaves = [], []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names.append(jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value"))
        leaves.append(leaf if hasattr(leaf, "dtype") else np.asarray(leaf))
    named = dict(zip(names, leaves, strict=True))
    if len(named) < len(names):
        raise ValueError("two leaves of the tree have the same name")
    return named


def _rebuild(tree: Tree, named: Mapping[str, Any]) -> Tree:
    return jax.tree.unflatten(
        jax.tree.structure(tree), [named[name] for name in _named_leaves(tree)]
    )


def _check_leaves(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares names and shapes; the error names the first leaf that does not fit."""
    remedy = "use the configuration it was saved with, or another checkpoint"
    for name, leaf in wanted.items():
        if name not in found:
            raise UserError("checkpoint", f"{path} without the array {name}", remedy)
        if tuple(found[name].shape) != tuple(leaf.shape):
            sizes = f"{path} with {name} of shape {tuple(found[name].shape)}"
            raise UserError("checkpoint", f"{sizes}, wanted {tuple(leaf.shape)}", remedy)
    for name in found:
        if name not in wanted:
            raise UserError("checkpoint", f"{path} with the unexpected array {name}", remedy)


# ---- Training ----


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
        # Registered by hand, since a new manager could not read the metadata of old checkpoints.
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        handler = ocp.StandardCheckpointHandler()
        registry.add("state", ocp.args.StandardSave, handler)
        registry.add("state", ocp.args.StandardRestore, handler)
        keep = ocp.checkpoint_managers.LatestN(keep_last)
        options = ocp.CheckpointManagerOptions(preservation_policy=keep)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, handler_registry=registry
        )

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
        named = _named_leaves(state)
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
        aside = folder.with_name(f"damaged-{step}")
        if is_first():
            remove_tree(aside)
            folder.rename(aside)
        wait_for_all(f"aside {step}")
        self._manager.reload()
        return aside

    def _read(self, abstract_state: Tree, step: int) -> Tree:
        folder = self.directory / str(step)
        wanted = _named_leaves(abstract_state)
        try:
            metadata: Any = self._manager.item_metadata(step)
            found = dict(metadata.state.tree)
        except Exception as error:  # Orbax and TensorStore raise whatever they stumble over.
            raise Damaged(folder) from error
        stored_sums = found.pop(CHECKSUMS, None)  # None in a checkpoint of an older version.
        _check_leaves(folder, found, wanted)
        default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        targets = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default
            )
            for name, leaf in wanted.items()
        }
        if stored_sums is not None:
            like = jax.ShapeDtypeStruct(stored_sums.shape, jnp.uint32, sharding=default)
            targets[CHECKSUMS] = like
        item = ocp.args.StandardRestore(targets)
        restored: Any = None
        cause: Exception | None = None
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=item))
        except Exception as error:
            cause = error
        if on_any(restored is None):  # What one cannot read is of no use to the others.
            raise Damaged(folder) from cause
        arrays = {name: restored.state[name] for name in wanted}
        if stored_sums is not None:
            differs = checksums(arrays) != np.asarray(restored.state[CHECKSUMS])
            names = [name for name, one in zip(sorted(arrays), differs, strict=True) if one]
            if on_any(bool(names)):  # Maybe in another process only.
                raise Damaged(f"{folder} (the array {names[0]})" if names else folder)
        return _rebuild(abstract_state, arrays)

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


# ---- Exported weights ----


def export_weights(
    path: str | Path,
    weights: Any,
    card: Mapping[str, Any],
    *,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Writes weights, ``path/weights``, and what one needs to know about them, ``path/card.json``.

    The directory appears under its name only when it is complete. On several processes, call it
    on one of them.

    Args:
      path: the directory to make.
      weights: pytree of arrays, such as an `nnx.State`.
      card: free fields that JSON can hold, such as the configuration that builds the network, the
        training data and the licence. The field "weights" is added: SHA-256, dtype and number of
        parameters.
      dtype: how floating-point arrays are stored; float16 halves the size.
      overwrite: replace what lies at `path`.

    Raises:
      UserError: if `path` exists, or a weight is not finite as float16.
    """
    with write_directory(path, overwrite=overwrite) as folder:
        write_weights(folder, weights, card, dtype=dtype)


def write_weights(
    folder: Path,
    weights: Any,
    card: Mapping[str, Any],
    *,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """What `export_weights` does inside of its directory."""
    if "weights" in card:
        raise ValueError("write_weights: the card's field 'weights' is filled in here")
    arrays = {name: _stored(name, leaf, dtype) for name, leaf in _named_leaves(weights).items()}
    facts = {
        "sha256": _sha256(arrays),
        "dtype": dtype,
        "num_parameters": sum(array.size for array in arrays.values()),
    }
    text = json.dumps({**card, "weights": facts}, indent=2, allow_nan=False) + "\n"
    with _local_checkpointer() as checkpointer:
        checkpointer.save((folder / WEIGHTS).absolute(), args=ocp.args.PyTreeSave(arrays))
    # Orbax's note of success holds the temporary path; the directory's new name says the same.
    (folder / WEIGHTS / "commit_success.txt").unlink(missing_ok=True)
    (folder / CARD).write_text(text, encoding="utf-8")


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of exported weights.

    Raises:
      UserError: if `path` holds no exported weights; the message lists those nearby.
    """
    path = as_path(path, "weights")
    card = path / CARD
    if not card.is_file() or not (path / WEIGHTS).is_dir():
        places = (path.glob(f"*/{CARD}"), path.parent.glob(f"*/{CARD}"))
        nearby = sorted({str(found.parent) for place in places for found in place})
        remedy = f"give one of {', '.join(nearby)}" if nearby else "train and export one first"
        raise UserError("weights", f"{path}, where no exported weights are", remedy)
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError("weights", card, "get the file again, it is damaged") from error
    return content


def load_weights(path: str | Path, abstract_weights: Tree) -> Tree:
    """Reads exported weights into the structure of `abstract_weights` and verifies them.

    Args:
      path: directory that `export_weights` made.
      abstract_weights: weights of the same network, of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The weights; all floating-point arrays are float32, whatever they were stored in.

    Raises:
      UserError: if there is no export at `path`, its arrays have other names or shapes, or their
        SHA-256 differs from the one on the card.
    """
    path = as_path(path, "weights")
    card = read_card(path)
    wanted = _named_leaves(abstract_weights)
    # Orbax takes a folder in a bucket for complete only with a note, which exports are without.
    with copy_on_disk(path / WEIGHTS) as folder:
        arrays = _read_arrays(folder)
    if _sha256(arrays) != card.get("weights", {}).get("sha256"):
        raise UserError("weights", f"{path}, whose SHA-256 differs from its card", _DAMAGED)
    _check_leaves(path, arrays, wanted)
    return _rebuild(abstract_weights, {name: _as_float32(array) for name, array in arrays.items()})


_DAMAGED = "get the weights again, the files are damaged"


def _local_checkpointer() -> ocp.Checkpointer:
    """A checkpointer of this process alone, which does not wait for the others."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process_{this}"
    )
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _OneByOne()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=alone, type_handler_registry=registry
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Writes array after array: what is in flight of a large checkpoint stays small."""

    async def serialize(self, values, infos, args=None):
        for i, (value, info) in enumerate(zip(values, infos, strict=True)):
            written = await super().serialize([value], [info], args and [args[i]])
            for future in written:
                future.result()
        return []


def _read_arrays(folder: Path) -> dict[str, np.ndarray]:
    with _local_checkpointer() as checkpointer:
        try:
            metadata: Any = checkpointer.metadata(folder)
            if metadata.item_metadata is None:
                raise OSError("no metadata of the arrays")
            as_numpy = {
                name: ocp.RestoreArgs(restore_type=np.ndarray)
                for name in metadata.item_metadata.tree
            }
            return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        except (OSError, ValueError, KeyError) as error:
            raise UserError("weights", folder, _DAMAGED) from error


def _stored(name: str, leaf: Any, dtype: str) -> np.ndarray:
    array = np.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    # Over float32: NumPy does not know how to convert bfloat16 safely.
    with np.errstate(over="ignore"):
        stored = array.astype(np.float32, copy=False).astype(dtype, copy=False)
    if not np.isfinite(stored).all():
        raise UserError(
            f"weights {name}", f"values that are not finite as {dtype}", "do not export"
        )
    return stored


def _as_float32(array: np.ndarray) -> jax.Array:
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    return jnp.asarray(array.astype(np.float32, copy=False) if is_float else array)


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Over the names, dtypes, shapes and little-endian bytes of the arrays, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.dtype.name} {list(arrays[name].shape)}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)  # Not a copy.
    return digest.hexdigest()
