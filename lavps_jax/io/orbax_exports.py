"""Reads weights that were exported by Orbax, as earlier versions did, to convert them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from lavps_jax.errors import UserError
from lavps_jax.io.shipped import shipped
from lavps_jax.io.storage import as_path, check_readable, copy_on_disk, reached
from lavps_jax.io.weights import DAMAGED, OLD_WEIGHTS, read_card


def read_orbax_export(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays, as they were stored, by the dotted paths of their leaves; and the card.

    Raises:
      UserError: if there is no such export at `path`, or it differs from its card.
    """
    place = as_path(shipped(path), "source")
    card = read_card(path)
    with reached(place, "source"):
        if not (place / OLD_WEIGHTS).is_dir():
            found = f"{place}, which holds weights of this library already"
            raise UserError("source", found, "use it as it is")
        with copy_on_disk(place / OLD_WEIGHTS) as folder:
            check_readable(folder, "source")  # Orbax would find it damaged.
            checkpointer = ocp.PyTreeCheckpointer()
            try:
                metadata: Any = checkpointer.metadata(folder)
                as_numpy = {
                    name: ocp.RestoreArgs(restore_type=np.ndarray)
                    for name in metadata.item_metadata.tree
                }
                arrays = checkpointer.restore(folder, restore_args=as_numpy)
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise UserError("source", place, DAMAGED) from error
    if _sha256(arrays) != card.get("weights", {}).get("sha256"):
        raise UserError("source", f"{place}, whose SHA-256 differs from its card", DAMAGED)
    return {name.replace("/", "."): array for name, array in arrays.items()}, card


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Over the names, dtypes, shapes and little-endian bytes of the arrays, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(array.reshape(-1).view(np.uint8).data)  # Not a copy.
    return digest.hexdigest()
