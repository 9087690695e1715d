"""Networks as pure functions of their weights, so that samplers see ordinary pytrees."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from lavps_jax.errors import UserError, check_choices

ComputeDtype = Literal["float32", "bfloat16"]
Remat = Literal["nothing", "layers"]

_KEPT = "layer"


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
      compute_dtype: of the products and of what passes between layers. The weights it is given,
        noise levels, norms, softmax and the output keep their own dtype, and sums over tokens or
        pixels are taken in float32; the gradient of a weight is rounded to this dtype once.
      remat: what a backward pass computes again instead of keeping it: nothing, or all but what
        `keep` marks, the outputs of the layers.
    """

    graphdef: nnx.GraphDef
    compute_dtype: ComputeDtype = "float32"
    remat: Remat = "nothing"

    def __post_init__(self):
        check_choices(self)

    def __call__(self, weights: nnx.State, *inputs: Any, **kwargs: Any) -> Any:
        """Evaluates the network with `weights`, a tree of the structure `split` returned.

        Raises:
          UserError: if it is a tree of another structure.
        """

        return _evaluate(self, weights, *inputs, **kwargs)

    def rounded(self, weights: nnx.State) -> nnx.State:
        """The weights as the network computes with them: its outputs are the same for these, which
        take half the memory in bfloat16."""
        return _rounded(weights) if self.compute_dtype == "bfloat16" else weights


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(model: PureModel, weights: nnx.State, *inputs: Any, **kwargs: Any) -> Any:
    """One program per network: every place that evaluates it shares what was traced and lowered."""

    def evaluate(weights: nnx.State) -> Any:
        try:
            network = nnx.merge(model.graphdef, model.rounded(weights))
        except ValueError as error:
            found = f"{len(jax.tree.leaves(weights))} arrays"
            remedy = "give those that came with this network, from split or load_network"
            raise UserError("weights", found, remedy) from error
        return network(*inputs, **kwargs)

    if model.remat == "layers":
        policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
        evaluate = jax.checkpoint(evaluate, policy=policy)
    return evaluate(weights)


def keep(x: jax.Array) -> jax.Array:
    """Marks what a backward pass with remat="layers" has at hand."""
    return checkpoint_name(x, _KEPT)


def _rounded(weights: nnx.State) -> nnx.State:
    """The parameters in bfloat16; networks compute in the dtype of their parameters."""

    def one(variable: Any) -> Any:
        if isinstance(variable, Buffer):
            return variable
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variable)

    return jax.tree.map(one, weights, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


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
        trains = not isinstance(variable, Buffer)
        return jax.tree.map(lambda _: trains, variable)

    return jax.tree.map(mark, weights, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
