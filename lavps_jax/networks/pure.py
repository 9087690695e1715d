"""Networks as pure functions of their weights, so that samplers see ordinary pytrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

__all__ = ["Buffer", "PureModel", "split", "trainable_mask"]


class Buffer(nnx.Variable):
    """An array that is saved with the weights but never trained (random Fourier frequencies)."""


@dataclass(frozen=True)
class PureModel:
    """The static part of a network: ``pure_model(weights, *inputs)`` evaluates it.

    Hashable and equal by value: two networks built separately from equal configurations give
    equal `PureModel`s, so a jitted function that takes one as a static argument (or inside the
    static part of a pytree) is traced once.

    Attributes:
      graphdef: the `flax.nnx.GraphDef` of the network.
    """

    graphdef: nnx.GraphDef

    def __call__(self, weights: nnx.State, *inputs: Any, **kwargs: Any) -> Any:
        """Evaluates the network with `weights`, a tree of the structure `split` returned."""
        return nnx.merge(self.graphdef, weights)(*inputs, **kwargs)


def split(model: nnx.Module) -> tuple[PureModel, nnx.State]:
    """Separates a network into its static part and its weights.

    Args:
      model: a network of this package.

    Returns:
      The pure function and the weights, an `nnx.State` whose leaves are arrays: parameters and
      buffers.
    """
    graphdef, weights = nnx.split(model)
    return PureModel(graphdef), weights


def trainable_mask(weights: nnx.State) -> nnx.State:
    """A tree of booleans with the structure of `weights`: False at buffers, True elsewhere.

    For `optax.masked` or the `mask` of weight decay. Buffers have zero gradient in any case, but
    weight decay would still shrink them.
    """

    def mark(variable: Any) -> Any:
        keep = not isinstance(variable, Buffer)
        return jax.tree.map(lambda _: keep, variable)

    return jax.tree.map(mark, weights, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
