"""Trees of arrays as flat mappings from names ("theta/layers/0/kernel") to arrays; in exported
weights the names are dotted.

So that files depend neither on classes of Flax nor on those of Optax, and a mismatch can be
reported by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from lavps_jax.errors import UserError
from lavps_jax.io.storage import AnyPath

Tree = TypeVar("Tree")


def named_leaves(tree: Any, separator: str = "/") -> dict[str, Any]:
    """The leaves by name, in the order of `jax.tree.leaves`; "value" of an nnx.Variable is left
    out, so that an `nnx.State` and the pure dict of it have the same names."""
    names, leaves = [], []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=separator)
        names.append(name.removesuffix(f"{separator}value"))
        leaves.append(leaf if hasattr(leaf, "dtype") else np.asarray(leaf))
    named = dict(zip(names, leaves, strict=True))
    if len(named) < len(names):
        raise ValueError("two leaves of the tree have the same name")
    return named


def check_leaves(path: AnyPath, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
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
