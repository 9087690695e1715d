"""Denoisers made from a user's own network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.parameterisations import EDM, VP, Flow, Parameterisation
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.types import Weights


def denoiser_from(
    network: Callable[..., Array] | nnx.Module,
    parameterisation: str | Parameterisation = "eps",
    *,
    weights: Weights = None,
    schedule: Schedule | None = None,
    batched: bool = False,
) -> NetworkDenoiser:
    """A prior from a user's own network.

    Args:
      network: any JAX function network(x, time), or network(weights, x, time) where weights are
        given, of a noisy image x, float (H, W, C), and the time or noise level that it was trained
        with, float (); a third argument, label, follows where the problem has a class. It gives
        float (H, W, C'), C' >= C, of which the first C channels are used. Also a Flax NNX module,
        whose weights are its own, and which is put in evaluation mode; of a Linen module its
        `apply`, with the variables as weights. It is compared by identity, see `linear_operator`.
      parameterisation: what it predicts: "eps", "v", "x_0" or "score" at the times 0 to T - 1 of a
        schedule, "flow", "edm", or an object of `lavps_jax.diffusion`: VP, Flow, EDM, VE, whose
        docstrings have the equations.
      weights: pytree of arrays. Arrays that a function holds itself become constants of programs.
      schedule: of the network's training, and of runs with it; None is Schedule(), or that of a VP
        object.
      batched: whether the network wants a batch, x (1, H, W, C), time (1,) and label (1, K).

    Raises:
      UserError: if the parameterisation is unknown, or the network cannot be a static argument.
        When it is evaluated: if its output is of another shape.
    """
    if isinstance(network, nnx.Module):
        graphdef, own = nnx.split(network)
        network, weights = _Merged(graphdef), own if weights is None else weights
    if not callable(network) or isinstance(network, type):
        found = f"a {type(network).__name__}"
        raise UserError("network", found, "give a function or a Flax module, and arrays as weights")
    try:
        hash(network)
    except TypeError as error:
        remedy = "give a function, and the arrays of this object as weights"
        raise UserError("network", f"a {type(network).__name__}", remedy) from error
    if schedule is None:
        schedule = parameterisation.schedule if isinstance(parameterisation, VP) else Schedule()
    found = _parameterisation(parameterisation, schedule)
    return NetworkDenoiser(weights, _Given(network, batched), found, schedule=schedule)


def _parameterisation(word: str | Parameterisation, schedule: Schedule) -> Parameterisation:
    match word:
        case Parameterisation():
            return word
        case "eps" | "v" | "x_0" | "score":
            return VP(word, schedule)
        case "flow":
            return Flow()
        case "edm":
            return EDM()
    remedy = "use 'eps', 'v', 'x_0', 'score', 'flow', 'edm' or an object such as VP()"
    raise UserError("parameterisation", repr(word), remedy)


@dataclass(frozen=True)
class _Merged:
    """A Flax NNX module as a function of its weights."""

    graphdef: nnx.GraphDef

    def __call__(self, weights: nnx.State, *inputs: Any) -> Array:
        module = nnx.merge(self.graphdef, weights)
        module.eval()
        return module(*inputs)


@dataclass(frozen=True)
class _Given:
    """A user's network, called as those of this package are."""

    network: Callable[..., Array]
    batched: bool

    def __call__(
        self,
        weights: Weights,
        x: Float[Array, "H W C"],
        noise_levels: Float[Array, " 1"],
        *,
        label: Float[Array, " K"] | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W D"]:
        # A function without weights may hold arrays that change: it is traced anew.
        evaluate = _evaluate if weights is None else _evaluate_once
        output = evaluate(self, weights, x, noise_levels[0], label)
        if output.shape[:-1] != x.shape[:-1] or output.shape[-1] < x.shape[-1]:
            remedy = f"give float (H, W, C'), C' >= C, for an image of shape {x.shape}"
            raise UserError("output of the network", f"shape {output.shape}", remedy)
        return output


def _evaluate(given: _Given, weights: Weights, x: Array, time: Array, label: Array | None) -> Array:
    """One image, or a batch of one."""
    inputs = (x, time) if label is None else (x, time, label)
    if given.batched:
        inputs = tuple(one[None] for one in inputs)
    output = given.network(*(() if weights is None else (weights,)), *inputs)
    if not jnp.issubdtype(getattr(output, "dtype", object), jnp.floating):
        found = f"a {type(output).__name__}"
        raise UserError("output of the network", found, "give one array of floats")
    return output[0] if given.batched else output


_evaluate_once = jax.jit(_evaluate, static_argnums=0)
"""One program per network, as of `lavps_jax.networks.pure`."""
