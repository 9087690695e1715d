"""Frozen dataclasses that are pytrees."""

from __future__ import annotations

import dataclasses
from typing import Any, Self, dataclass_transform

import jax


def static(*, default: Any = dataclasses.MISSING, kw_only: Any = dataclasses.MISSING) -> Any:
    """A field of a `Node` that is no leaf: a hashable value that decides the program.

    Counts, choices, shapes and functions are static, numbers that only enter the arithmetic are
    leaves: another one runs the same compiled program.
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"pytree_node": False})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
class Node:
    """Makes subclasses frozen dataclasses and nodes of pytrees, each a kind of its own.

    `jax.tree_util.register_dataclass`, and so `flax.struct.PyTreeNode`, does not do the latter:
    JAX 0.10 takes two classes with equal static fields for the same one, and `jax.jit` may run
    the program of the other.
    """

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        dataclasses.dataclass(frozen=True)(cls)
        fields: dict[bool, list[str]] = {True: [], False: []}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            fields[field.metadata.get("pytree_node", True)].append(field.name)
        data, static = fields[True], fields[False]

        def flatten(node):
            return [getattr(node, n) for n in data], tuple(getattr(node, n) for n in static)

        def flatten_with_keys(node):
            children, aux = flatten(node)
            return list(zip(map(jax.tree_util.GetAttrKey, data), children, strict=True)), aux

        def unflatten(aux, children):
            node = object.__new__(cls)
            for name, value in zip((*data, *static), (*children, *aux), strict=True):
                object.__setattr__(node, name, value)
            return node

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values of some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]
