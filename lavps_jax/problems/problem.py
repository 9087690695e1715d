"""The inverse problem: y = A(x_0) + noise, its likelihood and its simulation. Method section 1."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import MeasurementOperator
from lavps_jax.operators.weighted import weighted
from lavps_jax.problems.noise import Custom, Gaussian, Noise
from lavps_jax.pytrees import Node, static
from lavps_jax.types import PRNGKey


class Problem(Node):
    """One measurement of one image; stack the leaves for a batch of measurements.

    Attributes:
      y: observation of the shape operator.y_shape, real or complex.
      operator: the map A.
      noise: its law; a number stands for `Gaussian` noise of that standard deviation.
      label: class of the image for a class-conditional prior, one-hot float (K,); None is unknown.
      y_shape: shape of one measurement, static, found from y: it tells a stack from one problem.

    Raises:
      UserError: if y has another shape, such as one of a batch, or the noise is not possible.
    """

    y: Any
    operator: Any
    noise: Any
    label: Float[Array, " K"] | None = None
    y_shape: tuple[int, ...] | None = static(default=None)

    def __post_init__(self):
        noise = self.noise if isinstance(self.noise, Noise) else Gaussian(self.noise)
        if not isinstance(noise, Custom):  # Its data may be of any dtype.
            noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), noise)
        object.__setattr__(self, "noise", noise)
        if self.y_shape not in (None, jnp.shape(self.y)):  # A copy of a stack.
            return
        if jnp.shape(self.y) != self.operator.y_shape:
            remedy = f"give one measurement of shape {self.operator.y_shape}; use jax.vmap(Problem)"
            raise UserError("y", f"shape {jnp.shape(self.y)}", f"{remedy} for a batch")
        noise.check(self.y)
        object.__setattr__(self, "y_shape", jnp.shape(self.y))

    @property
    def sigma_y(self) -> Float[Array, ""]:
        """Standard deviation of the noise, typical where it is not the same everywhere.

        Raises:
          UserError: of a stack of problems, whose numbers would pass for a noise map.
        """
        if jnp.shape(self.y) != self.y_shape:
            remedy = "give one: jax.vmap(lambda problem: problem.sigma_y)(problems)"
            raise UserError("problem", f"a stack, y of shape {jnp.shape(self.y)}", remedy)
        return self.noise.typical_std(self.y, self.seen)

    def num_observed(self) -> Float[Array, ""]:
        """Number of real numbers that were measured, float (): where the noise is finite, those of
        `MeasurementOperator.num_observed`."""
        return homoscedastic(self).operator.num_observed()

    @property
    def seen(self) -> Array:
        """1 where y holds a measurement, 0 elsewhere, of the shape and dtype of y."""
        return self.operator.project(jnp.ones_like(self.y))


def log_likelihood(problem: Problem, x_0: Float[Array, "H W C"]) -> Float[Array, ""]:
    """log l(y | x_0) up to a constant, float (), in nats.

    With Gaussian noise -||y - A(x_0)||^2 / (2 sigma_y^2), over the entries of one image that carry
    a measurement.
    """
    return prediction_log_likelihood(problem, problem.operator.forward(x_0))


def prediction_log_likelihood(problem: Problem, prediction: Array) -> Float[Array, ""]:
    """`log_likelihood` of an image from its noiseless measurement A(x_0)."""
    project = problem.operator.project
    return problem.noise.log_prob(project(problem.y), project(prediction))


def residual_chi2(problem: Problem, x_0: Float[Array, "H W C"]) -> Float[Array, ""]:
    """How far A(x_0) is from y, float (): of the true image chi-square with
    `problem.num_observed()` degrees of freedom, or with its mean and variance; of `Custom` noise
    only if its log-likelihood is so scaled."""
    operator, y = problem.operator, problem.y
    prediction = operator.project(operator.forward(x_0))
    return problem.noise.residual_chi2(operator.project(y), prediction, problem.seen.real)


def simulate(
    rng_key: PRNGKey,
    x_0: Float[Array, "H W C"],
    operator: MeasurementOperator,
    noise: Noise | float | Array,
) -> Problem:
    """Measures a clean image: y = A(x_0) + noise, on the measured entries.

    Args:
      rng_key: key of the noise.
      x_0: clean image, float (H, W, C) in [-1, 1].
      operator: an operator on such images.
      noise: its law; a number stands for `Gaussian` noise of that standard deviation.
    """
    prediction = operator.forward(x_0)
    noise = noise if isinstance(noise, Noise) else Gaussian(noise)
    noise.check(prediction)
    return Problem(operator.project(noise.draw(rng_key, prediction)), operator, noise)


def homoscedastic(problem: Problem) -> Problem:
    """The same problem, y and A weighted so that the noise has one standard deviation.

    With a noise map S and its typical value s: (s / S) y = (s / S) A(x_0) + s n. Where S is
    infinite the weight is 0 and nothing is measured. Other problems are returned as they are.
    """
    noise = problem.noise
    if not isinstance(noise, Gaussian) or jnp.ndim(noise.sigma) == 0:
        return problem
    weights = problem.sigma_y / noise.sigma
    y = jnp.where(weights > 0, weights * problem.y, 0)
    return problem.replace(
        y=y, operator=weighted(problem.operator, weights), noise=Gaussian(problem.sigma_y)
    )


def check_light(operators: MeasurementOperator, count: int) -> None:
    """Raises a UserError if what is measured of a black image is complex or below -1.

    Args:
      operators: a stack, leaves with operators on axis 0.
      count: how many they are; some have no leaves.
    """
    measured = _of_black(operators, count)
    name = type(operators).__name__
    if jnp.iscomplexobj(measured):
        found = f"{name} with y {measured.dtype}"
    elif jnp.min(measured) < -1.001:
        found = f"{name} with y down to {jnp.min(measured):.3g}"
    else:
        return
    raise UserError("poisson_peak", found, "leave it out: this operator does not measure light")


@partial(jax.jit, static_argnums=1)
def _of_black(operators: MeasurementOperator, count: int) -> Array:
    """What each of a stack of operators measures of a black image."""
    black = -jnp.ones(operators.x_shape)
    return jax.vmap(lambda operator: operator.forward(black), axis_size=count)(operators)
