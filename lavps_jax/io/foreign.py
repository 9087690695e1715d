"""Weights of this library from tensors with other names and axes, and back.

Dense kernels are (in, out) here and (out, in) there; those of convolutions are (row, column, in,
out) here and (out, in, row, column) there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.types import Weights

Path: TypeAlias = tuple[Any, ...]
"""Of a weight in the network: attributes and indices."""


def dotted(path: Path) -> str:
    """The path as a name, such as "conv_in.kernel"."""
    return ".".join(str(part) for part in path)


def axis_length(state: Mapping[str, Any], name: str, axis: int = 0) -> int:
    """The length of an axis of a tensor; a UserError names it if it is not there."""
    if name not in state or len(state[name].shape) <= axis:
        raise UserError(
            "checkpoint", f"missing: {name}", "give the weights of a network that has it"
        )
    return state[name].shape[axis]


def from_foreign(
    state: Mapping[str, np.ndarray],
    weights: Weights,
    name_of: Callable[[Path], str],
    *,
    unused: Callable[[str], bool] = lambda name: False,
    remedy: str,
) -> nnx.State:
    """The weights of a state dict.

    Args:
      state: arrays by foreign name. Axes of length 1 may follow those of a dense kernel: it is a
        convolution of single pixels there.
      weights: the network's own, of arrays or `jax.ShapeDtypeStruct`: what is expected.
      name_of: the foreign name of a weight.
      unused: whether a foreign name holds nothing that the network would need.
      remedy: what to do about tensors that do not fit.

    Returns:
      Weights of the structure of `weights`. Arrays are views of those of `state`, not copies.

    Raises:
      UserError: naming what is missing, not expected, or of another shape.
    """
    flat = nnx.to_flat_state(weights)
    names = {path: name_of(path) for path, _ in flat}
    known = set(names.values())
    misshapen = []
    for path, variable in flat:
        wanted, found = _shape_there(path, variable), state.get(names[path])
        if found is not None and not _fits(found.shape, wanted):
            misshapen.append(f"{names[path]} {list(found.shape)} instead of {list(wanted)}")
    wrong = {
        "missing": [name for name in names.values() if name not in state],
        "unexpected": [name for name in state if name not in known and not unused(name)],
        "misshapen": misshapen,
        "no floats": [
            name
            for name in names.values()
            if name in state and not jnp.issubdtype(state[name].dtype, jnp.floating)
        ],
    }
    told = [
        f"{kind}: {', '.join(one[:3])}" + (f" and {len(one) - 3} more" if len(one) > 3 else "")
        for kind, one in wrong.items()
        if one
    ]
    if told:
        raise UserError("checkpoint", "; ".join(told), remedy)
    return nnx.from_flat_state(
        [(path, one.replace(_here(path, one, state[names[path]]))) for path, one in flat]
    )


def to_foreign(weights: nnx.State, name_of: Callable[[Path], str]) -> dict[str, np.ndarray]:
    """The state dict of weights, float32 by foreign name; arrays are views where they can be."""
    return {
        name_of(path): _there(path, np.asarray(variable[...], np.float32))
        for path, variable in nnx.to_flat_state(weights)
    }


def _shape_there(path: Path, variable: Any) -> tuple[int, ...]:
    shape = tuple(variable.shape)
    return (shape[-1], shape[-2], *shape[:-2]) if path[-1] == "kernel" else shape


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return found[: len(wanted)] == wanted and all(n == 1 for n in found[len(wanted) :])


def _there(path: Path, array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, (-1, -2), (0, 1)) if path[-1] == "kernel" else array


def _here(path: Path, variable: Any, array: np.ndarray) -> np.ndarray:
    array = array.reshape(_shape_there(path, variable))
    return np.moveaxis(array, (0, 1), (-1, -2)) if path[-1] == "kernel" else array
