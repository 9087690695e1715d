"""Weights exported for others: arrays in Orbax's format, with a card that says what they are."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lavps_jax.errors import UserError
from lavps_jax.io.named_arrays import Tree, check_leaves, named_leaves, rebuild
from lavps_jax.io.own_folders import write_directory
from lavps_jax.io.shipped import shipped
from lavps_jax.io.storage import AnyPath, as_path, check_readable, copy_on_disk, reached

__all__ = ["export_weights", "load_weights", "read_card", "write_weights"]

CARD = "card.json"
WEIGHTS = "weights"


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
      overwrite: replace weights at `path`, if they are as they were written.

    Raises:
      UserError: if `path` exists, or holds anything else, or a weight is not finite as float16.
    """
    with write_directory(path, "weights", overwrite=overwrite) as folder:
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
    arrays = {name: _stored(name, leaf, dtype) for name, leaf in named_leaves(weights).items()}
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
      UserError: if `path` holds no exported weights, and the message lists those nearby; or they
        cannot be read.
    """
    folder = as_path(shipped(path), "weights")
    card = folder / CARD
    with reached(folder, "weights"):
        if not card.is_file() or not (folder / WEIGHTS).is_dir():
            nearby = sorted({str(one.parent) for one in _cards_near(folder)} - {str(folder)})
            remedy = f"give one of {', '.join(nearby)}" if nearby else "train and export one first"
            raise UserError("weights", f"{folder}, where no exported weights are", remedy)
        text = card.read_bytes()
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError("weights", card, "get the file again, it is damaged") from error
    return content


def _cards_near(path: AnyPath) -> Iterator[AnyPath]:
    # Below it, beside it, and the one that it is a part of.
    for place, pattern in ((path, "*"), (path, "*/*"), (path.parent, "*"), (path.parent, ".")):
        with contextlib.suppress(OSError):  # There are no folders in a bucket.
            yield from place.glob(f"{pattern}/{CARD}")


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
    place = as_path(shipped(path), "weights")
    card = read_card(path)
    wanted = named_leaves(abstract_weights)
    # Orbax takes a folder in a bucket for complete only with a note, which exports are without.
    with reached(place, "weights"), copy_on_disk(place / WEIGHTS) as folder:
        check_readable(folder, "weights")  # Orbax would find them damaged.
        arrays = _read_arrays(folder, place)
    if _sha256(arrays) != card.get("weights", {}).get("sha256"):
        raise UserError("weights", f"{place}, whose SHA-256 differs from its card", _DAMAGED)
    check_leaves(place, arrays, wanted)
    return rebuild(abstract_weights, {name: _as_float32(array) for name, array in arrays.items()})


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


def _read_arrays(folder: Path, path: AnyPath) -> dict[str, np.ndarray]:
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
            raise UserError("weights", path, _DAMAGED) from error


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
