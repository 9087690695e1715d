"""Log-likelihood of a measurement, and simulated measurements."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import SIGMA_DATA
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.metrics.images import residual_chi2
from lavps_jax.networks import InverseRule, Measurement
from lavps_jax.operators import Blur, CircularBlur, LinearOperator
from lavps_jax.problems.noise import Noise, PoissonNoise, check_real
from lavps_jax.types import PRNGKey, Problem

__all__ = [
    "as_measurement",
    "check_light",
    "log_likelihood",
    "make_problem",
    "misfit",
    "network_inputs",
    "photon_problem",
    "prediction_log_likelihood",
    "simulate",
    "simulate_photons",
]


def log_likelihood(problem: Problem, x_0: Float[Array, "H W C"]) -> Float[Array, ""]:
    """log l(y | x_0) = -||y - A(x_0)||^2 / (2 sigma_y^2) up to a constant, float (), in nats.

    The sum runs over the entries of one image that carry a measurement. Method section 1. A problem
    with another noise has the log-likelihood of that.
    """
    return prediction_log_likelihood(problem, problem.operator.forward(x_0))


def prediction_log_likelihood(problem: Problem, prediction: Array) -> Float[Array, ""]:
    """`log_likelihood` of an image from its noiseless measurement A(x_0)."""
    if problem.noise is not None:
        return problem.noise.log_likelihood(problem.y, prediction)
    residual = problem.operator.project(problem.y - prediction)
    # An inner product adds up with many accumulators; one running float32 sum would lose digits.
    square = jnp.vdot(residual, residual, precision=jax.lax.Precision.HIGHEST).real
    return -square / (2 * problem.sigma_y**2)


def misfit(problem: Problem, x_0: Float[Array, "H W C"]) -> Float[Array, ""]:
    """`residual_chi2` of a problem, or its counterpart for Poisson noise, float ()."""
    if isinstance(problem.noise, PoissonNoise):
        operator, y = problem.operator, problem.y
        return problem.noise.chi2(y, operator.forward(x_0), operator.project(jnp.ones_like(y)))
    return residual_chi2(problem.operator, x_0, problem.y, problem.sigma_y)


def make_problem(
    y: Array, operator, sigma_y: float | Float[Array, ""], noise: Noise | None = None
) -> Problem:
    """Bundles one observation with what samplers need of it.

    Args:
      y: observation of shape operator.y_shape.
      operator: an operator on images (H, W, C).
      sigma_y: noise standard deviation, at least 0; only some samplers take 0.
      noise: None for Gaussian noise; otherwise sigma_y is a typical standard deviation.

    Returns:
      The problem; its x_pinv is A^+ y, regularised as the posterior mean of an image with
      independent pixels of variance 0.25: (A^T A + 4 sigma_y^2 I)^-1 A^T y. It tends to A^+ y as
      sigma_y goes to 0; A^+ y itself would drown a deblurred image in noise. An operator that is
      not linear gives a rough image instead, see `MeasurementOperator.estimate`.

    Raises:
      UserError: if y has another shape, such as one of a batch, or sigma_y is negative or not
        finite.
    """
    if jnp.shape(y) != operator.y_shape:
        remedy = f"give one measurement of shape {operator.y_shape}; use jax.vmap for a batch"
        raise UserError("y", f"shape {jnp.shape(y)}", remedy)
    if not isinstance(sigma_y, Tracer):
        check_at_least("sigma_y", float(sigma_y), 0)
    sigma_y = jnp.asarray(sigma_y, jnp.float32)
    x_pinv = operator.estimate(y, sigma_y**2 / SIGMA_DATA**2)
    return Problem(y=y, operator=operator, sigma_y=sigma_y, x_pinv=x_pinv, noise=noise)


def as_measurement(problem: Problem, rule: InverseRule) -> Measurement:
    """A measurement as networks see it that act with A on their features.

    Args:
      problem: of a linear operator.
      rule: what A^+ is. "ridge": the regularised inverse of `make_problem`. "published": as in the
        published networks, A^+ itself, and for a blur the identity.

    Raises:
      UserError: if the operator is not linear.
    """
    operator = problem.operator
    if not isinstance(operator, LinearOperator):
        name = type(operator).__name__
        raise UserError("operator", name, "give a linear one: this network needs its inverse")

    def inverse(y: Array) -> Array:
        match rule:
            case "ridge":
                return _ridge(operator, y, problem.sigma_y)
            case "published":
                return y if isinstance(operator, Blur | CircularBlur) else operator.pinv(y)

    return Measurement(problem.y, operator.forward, inverse)


def network_inputs(
    problem: Problem, rule: InverseRule, sees_measurement: bool
) -> tuple[Float[Array, "H W C"], Measurement | None]:
    """(x_pinv, measurement): what a network is given of a problem.

    Args:
      problem: any for the rule "ridge" without a measurement, otherwise of a linear operator.
      rule: see `as_measurement`.
      sees_measurement: whether the network takes the measurement itself; it is None otherwise.
    """
    if rule == "ridge" and not sees_measurement:
        return problem.x_pinv, None
    measurement = as_measurement(problem, rule)
    x_pinv = problem.x_pinv if rule == "ridge" else measurement.inverse(problem.y)
    return x_pinv, measurement if sees_measurement else None


def _ridge(operator: LinearOperator, y: Array, sigma_y: Float[Array, ""]) -> Array:
    return operator.ridge(y, sigma_y**2 / SIGMA_DATA**2)


def simulate(
    rng_key: PRNGKey, x_0: Float[Array, "H W C"], operator, sigma_y: float | Float[Array, ""]
) -> Problem:
    """Measures a clean image: y = A(x_0) + sigma_y n with n ~ N(0, I), on the measured entries.

    Args:
      rng_key: key of the noise.
      x_0: clean image, float (H, W, C) in [-1, 1].
      operator: an operator on such images.
      sigma_y: noise standard deviation, positive.
    """
    clean = operator.forward(x_0)
    noise = jax.random.normal(rng_key, clean.shape, clean.dtype)
    if jnp.iscomplexobj(clean):
        # JAX draws complex numbers of variance 1; here each part has the variance of the noise.
        noise = noise * jnp.sqrt(2.0)
    return make_problem(operator.project(clean + sigma_y * noise), operator, sigma_y)


def simulate_photons(
    rng_key: PRNGKey, x_0: Float[Array, "H W C"], operator, peak: float | Float[Array, ""]
) -> Problem:
    """Measures a clean image by counting photons; arguments as `simulate`.

    Args:
      peak: expected photons of a white pixel, positive; see `PoissonNoise`.
    """
    noise = PoissonNoise(jnp.asarray(peak, jnp.float32))
    return photon_problem(noise.draw(rng_key, operator.forward(x_0)), operator, noise)


def photon_problem(y: Array, operator, noise: PoissonNoise) -> Problem:
    """The problem of counted photons; y as in `PoissonNoise`.

    Raises:
      UserError: if y is complex.
    """
    check_real(y)
    y = operator.project(y)
    seen = operator.project(jnp.ones_like(y))
    return make_problem(y, operator, noise.typical_std(y, seen), noise)


def check_light(operators, count: int) -> None:
    """Raises a UserError if what is measured of a black image is complex or below -1.

    Args:
      operators: a stack, leaves with operators on axis 0.
      count: how many they are; some have no leaves.
    """
    black = -jnp.ones(operators.x_shape)
    forward = jax.vmap(lambda operator: operator.forward(black), axis_size=count)
    measured = jax.jit(forward)(operators)
    name = type(operators).__name__
    if jnp.iscomplexobj(measured):
        found = f"{name} with y {measured.dtype}"
    elif jnp.min(measured) < -1.001:
        found = f"{name} with y down to {jnp.min(measured):.3g}"
    else:
        return
    raise UserError("poisson_peak", found, "leave it out: this operator does not measure light")
