"""What networks are told of a measurement: A^+ y, or the measurement itself."""

from __future__ import annotations

from jax.tree_util import Partial
from jaxtyping import Array, Float

from lavps_jax.diffusion.parameterisations import SIGMA_DATA
from lavps_jax.errors import UserError
from lavps_jax.networks import InverseRule, Measurement
from lavps_jax.operators import Blur, CircularBlur, LinearOperator
from lavps_jax.problems.problem import Problem


def estimate(problem: Problem) -> Float[Array, "H W C"]:
    """A rough image from y: A^+ y, regularised, float (H, W, C).

    The posterior mean of an image with independent pixels of variance 0.25,
    (A^T A + 4 sigma_y^2 I)^-1 A^T y, which tends to A^+ y as sigma_y goes to 0; A^+ y itself would
    drown a deblurred image in noise. An operator that is not linear gives a rough image instead,
    see `MeasurementOperator.estimate`.
    """
    return problem.operator.estimate(problem.y, problem.sigma_y**2 / SIGMA_DATA**2)


def pseudo_inverse(problem: Problem, rule: InverseRule) -> Float[Array, "H W C"]:
    """A^+ y as a network was trained to see it, float (H, W, C).

    Args:
      problem: any for the rule "ridge", otherwise of a linear operator.
      rule: "ridge" is `estimate`; "published" as in the published networks, A^+ itself, and for a
        blur the identity.
    """
    return (
        estimate(problem) if rule == "ridge" else as_measurement(problem, rule).inverse(problem.y)
    )


def as_measurement(problem: Problem, rule: InverseRule) -> Measurement:
    """A measurement as networks see it that act with A on their features.

    Args:
      problem: of a linear operator.
      rule: what A^+ is, see `pseudo_inverse`.

    Raises:
      UserError: if the operator is not linear.
    """
    operator = problem.operator
    if not isinstance(operator, LinearOperator):
        name = type(operator).__name__
        raise UserError("operator", name, "give a linear one: this network needs its inverse")
    match rule:
        case "ridge":
            inverse = Partial(_ridge, operator, problem.sigma_y**2 / SIGMA_DATA**2)
        case "published":
            inverse = Partial(_published_inverse, operator)
    # Pytrees, not bound methods: the network is a program of its own, and its arguments are arrays.
    return Measurement(problem.y, Partial(type(operator).forward, operator), inverse)


def _ridge(operator: LinearOperator, weight: Float[Array, ""], y: Array) -> Float[Array, "H W C"]:
    return operator.ridge(y, weight)


def _published_inverse(operator: LinearOperator, y: Array) -> Float[Array, "H W C"]:
    return y if isinstance(operator, Blur | CircularBlur) else operator.pinv(y)
