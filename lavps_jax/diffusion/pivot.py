"""What a state and a measurement say together of an image whose pixels are independent.

Given a Gaussian measurement of a linear operator, p(x_0 | x_t, y) depends on (x_t, y) through one
image alone, the pivot mu* with its covariance S*: a denoiser that sees these has seen the operator,
whatever it is. Source: "EPS", arXiv:2606.17048. Here the independent pixels have the variance
sigma_data^2 that the preconditioning of denoisers assumes; theirs have none. The two pivots tell
the same, one is a linear function of the other, but this one stays of order one at every noise
level, and without a measurement it is the c_skip z of Karras et al., arXiv:2206.00364.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.errors import UserError
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.problem import Problem

_NUM_PROBES = 4


class Pivot(NamedTuple):
    """A Gaussian estimate of x_0.

    Attributes:
      mean: mu*, float (H, W, C).
      std: of the pixels, a rough estimate of sqrt(diag S*) that is exact where S* is diagonal,
        float (H, W, C).
      scale: root of their mean variance, sqrt(trace S* / HWC), float ().
    """

    mean: Array
    std: Array
    scale: Float[Array, ""]


def pivot(problem: Problem, z: Float[Array, "H W C"], sigma_t: Float[Array, ""]) -> Pivot:
    """N(mu*, S*) = p(x_0 | z, y) of x_0 ~ N(0, sigma_data^2 I) and z = x_0 + sigma_t eps.

    With c_skip z and c_out^2 = v the mean and variance of p(x_0 | z),
    S* = (I / v + A^T A / sigma_y^2)^-1 and mu* = c_skip z + S* A^T (y - A c_skip z) / sigma_y^2.
    The diagonal of S* is probed with few random signs u: the mean of u (S* u).

    Raises:
      UserError: if the operator is not linear.
    """
    operator = problem.operator
    if not isinstance(operator, LinearOperator):
        name = type(operator).__name__
        raise UserError("operator", name, "give a linear one: this denoiser needs its inverse")
    c = EDM()(sigma_t)
    guess, variance = c.c_skip * z, c.c_out**2
    weight = problem.sigma_y**2 / variance
    mean = guess + operator.ridge(operator.project(problem.y - operator.forward(guess)), weight)

    def probe(sign: Array) -> Array:
        return sign * (sign - operator.ridge(operator.forward(sign), weight))

    signs = jax.random.rademacher(jax.random.key(0), (_NUM_PROBES, *z.shape), z.dtype)
    # No diagonal entry is above 1; few probes leave some below 0.
    share = jnp.clip(jax.vmap(probe)(signs).mean(0), 1e-4, 1.0)
    return Pivot(mean, c.c_out * jnp.sqrt(share), c.c_out * jnp.sqrt(jnp.mean(share)))
