"""Where the arrays of a training run lie: one mesh over all devices of all processes.

Images are spread over every device. Weights, their average and the moments of the optimizer are
copied to all devices or, to save memory, cut along one axis over groups of `fsdp` devices; the
compiler then gathers each weight where it is used (fully sharded data parallelism, as in
Rajbhandari et al., "ZeRO", SC 2020, arXiv:1910.02054). The result of a step does not depend on any
of it, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from lavps_jax.errors import UserError
from lavps_jax.training.step import TrainState

Tree = TypeVar("Tree")

_AXES = ("data", "fsdp")
_MIN_SIZE = 2**12
"""Arrays with fewer entries are not worth gathering."""


def make_mesh(fsdp: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices as a (data, fsdp) mesh.

    Args:
      fsdp: devices that share one copy of the weights; it divides their number.
      devices: others than all.

    Raises:
      UserError: if `fsdp` does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if fsdp < 1 or count % fsdp:
        remedy = f"use a divisor of the number of devices, {count}"
        raise UserError("fsdp", fsdp, remedy)
    return jax.make_mesh((count // fsdp, fsdp), _AXES, (AxisType.Auto,) * 2, devices=devices)


def check_batch(mesh: Mesh, batch_size: int, num_microbatches: int) -> None:
    """Raises a UserError if batches of that many parts cannot be spread over the devices."""
    parts = mesh.size * num_microbatches
    if batch_size % parts:
        found = f"{mesh.size} devices x {num_microbatches} microbatches"
        raise UserError("batch_size", batch_size, f"use a multiple of {parts}, {found}")


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0, of images, over all devices."""
    return NamedSharding(mesh, PartitionSpec(_AXES))


def weight_sharding(mesh: Mesh, tree: Tree) -> Tree:
    """A sharding for every leaf: its longest axis that `fsdp` divides is cut, if there is one."""

    def one(leaf: Any) -> NamedSharding:
        parts = mesh.shape["fsdp"]
        if parts == 1 or leaf.size < _MIN_SIZE:
            return replicated(mesh)
        lengths = [length if length % parts == 0 else 0 for length in leaf.shape]
        if not max(lengths):
            return replicated(mesh)
        axis = int(np.argmax(lengths))
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))

    return jax.tree.map(one, tree)


def state_sharding(mesh: Mesh, state: TrainState) -> TrainState:
    """A sharding for every leaf: what the loss remembers as images, everything else as weights."""
    carry = jax.tree.map(lambda _: batch_sharding(mesh), state.carry)
    return weight_sharding(mesh, state)._replace(carry=carry)


def on_all_devices(tree: Tree, shardings: Any) -> Tree:
    """Arrays that every process holds alike, as arrays over the mesh.

    Args:
      shardings: one for all leaves, or a tree of them.
    """
    if isinstance(shardings, NamedSharding):
        same = shardings
        shardings = jax.tree.map(lambda _: same, tree)

    def place(leaf: Any, sharding: NamedSharding) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, tree, shardings)


def global_batch(shape: tuple[int, ...], load: Callable[[slice], np.ndarray], mesh: Mesh) -> Array:
    """A batch over all devices, of which each process loads its own rows only.

    Args:
      shape: of the whole batch, (B, ...); B is a multiple of the number of devices.
      load: gives some of the B rows.
    """

    def part(index: Any) -> np.ndarray:
        return load(index[0])

    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)
