"""Weights exported for others: one file of arrays, with a card that says what they are."""

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
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lavps_jax.errors import UserError
from lavps_jax.io.named_arrays import Tree, check_leaves, named_leaves
from lavps_jax.io.own_folders import write_directory
from lavps_jax.io.shipped import shipped
from lavps_jax.io.storage import AnyPath, as_path, copy_on_disk, reached

CARD = "card.json"
WEIGHTS = "weights.safetensors"
OLD_WEIGHTS = "weights"
"""Folder of the arrays in exports by Orbax, as earlier versions made them."""


_NOTHING_NEARBY = (
    "train and export one, or convert a checkpoint: python -m lavps_jax.convert CHECKPOINT FOLDER"
)


def export_weights(
    path: str | Path,
    weights: Any,
    card: Mapping[str, Any],
    *,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
) -> None:
    """Writes ``path/weights.safetensors`` and what one needs to know of it, ``path/card.json``.

    The arrays bear the dotted paths of their leaves, such as "mapping.blocks.0.norm.scale". The
    directory appears under its name only when it is complete. On several processes, call it on one
    of them.

    Args:
      path: the directory to make.
      weights: pytree of arrays, such as an `nnx.State`.
      card: free fields that JSON can hold, such as the configuration that builds the network, the
        training data and the licence. The field "weights" is added: SHA-256 of the file, dtype
        and number of parameters.
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
    leaves = named_leaves(weights, separator=".")
    arrays = {name: _stored(name, leaf, dtype) for name, leaf in leaves.items()}
    file = folder / WEIGHTS
    save_file(arrays, file)
    facts = {
        "sha256": _sha256(file),
        "dtype": dtype,
        "num_parameters": sum(array.size for array in arrays.values()),
    }
    text = json.dumps({**card, "weights": facts}, indent=2, allow_nan=False) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")
    file.chmod((folder / CARD).stat().st_mode)  # safetensors lets nobody else read it.


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of exported weights.

    Raises:
      UserError: if `path` holds no exported weights, and the message lists those nearby; or they
        cannot be read.
    """
    folder = as_path(shipped(path), "weights")
    card = folder / CARD
    with reached(folder, "weights"):
        arrays_lie_there = (folder / WEIGHTS).is_file() or (folder / OLD_WEIGHTS).is_dir()
        if not card.is_file() or not arrays_lie_there:
            nearby = sorted({str(one.parent) for one in _cards_near(folder)} - {str(folder)})
            remedy = f"give one of {', '.join(nearby)}" if nearby else _NOTHING_NEARBY
            if (folder / "config.json").is_file():
                remedy = f"convert it first: python -m lavps_jax.convert {folder} NEW_FOLDER"
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
      UserError: if there is no export at `path`, or one by Orbax, its arrays have other names
        or shapes, or the SHA-256 of the file differs from the one on the card.
    """
    place = as_path(shipped(path), "weights")
    card = read_card(path)
    with reached(place, "weights"):
        if not (place / WEIGHTS).is_file():
            remedy = f"convert it: python -m lavps_jax.convert {place} NEW_FOLDER"
            raise UserError("weights", f"{place}, an export of an older version", remedy)
        with copy_on_disk(place) as folder:
            if _sha256(folder / WEIGHTS) != card.get("weights", {}).get("sha256"):
                raise UserError("weights", f"{place}, whose SHA-256 differs from its card", DAMAGED)
            try:
                arrays = load_file(folder / WEIGHTS)
            except SafetensorError as error:
                raise UserError("weights", place, DAMAGED) from error
    wanted = named_leaves(abstract_weights, separator=".")
    check_leaves(place, arrays, wanted)
    leaves = [_as_float32(arrays[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract_weights), leaves)


DAMAGED = "get the weights again, the files are damaged"


def _stored(name: str, leaf: Any, dtype: str) -> np.ndarray:
    array = np.asarray(leaf, order="C")  # safetensors writes memory as it lies.
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


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
