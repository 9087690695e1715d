"""One-step posterior sampling: a network that maps a measurement and noise to a sample.

After Lee et al., "Diffusion Prior-Based Amortized Variational Inference for Noisy Inverse Problems"
(DAVI), arXiv:2407.16125: a generator x = G(y, eps) is trained on the negative ELBO
E[-log l(y | x)] + KL(q(x | y) || p(x)), with a diffusion model as p and a second denoiser, the
critic, that learns to denoise the generator's samples and so knows q. Differences to the paper: the
generator begins as a supervised denoiser of pure noise, which is the noise of its samples; and the
divergence is that of the samples themselves, but for noise below `sigma_min`, where the paper
weighs those of noised samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.problems.problem import log_likelihood
from lavps_jax.samplers.one_step import generate
from lavps_jax.training.losses import Loss, draw_problem


def relative_entropy_draw(
    x: Float[Array, "*shape"],
    by_prior: Float[Array, "*shape"],
    by_critic: Float[Array, "*shape"],
    sigma_t: Float[Array, ""],
) -> Float[Array, ""]:
    """(||x - D_p(z)||^2 - ||x - D_q(z)||^2) / sigma_t^2 of z = x + sigma_t eps, float ().

    With x ~ q, and the exact denoisers of p and q, KL(q || p) is the integral of its expectation
    over log sigma_t: mismatched estimation costs relative entropy (Verdu, IEEE Transactions on
    Information Theory 56(8), 2010, theorem 1). D_q minimises its own error, so that the gradient in
    q may leave out how D_q depends on it.
    """
    return (jnp.sum((x - by_prior) ** 2) - jnp.sum((x - by_critic) ** 2)) / sigma_t**2


@dataclass(frozen=True)
class OneStepLoss(Loss):
    """The negative ELBO of a generator, and the denoising error of its critic, for one image.

    `weights` are {"generator", "critic"}, both of `denoiser`'s network; `frozen` is the
    prior. The image only serves to simulate a measurement. The generator sees the critic's weights
    fixed, the critic the generator's samples: the estimate of the divergence is a lower bound,
    below it by what the critic does not know yet. The critic has to be the faster one: with a
    critic at rest, the divergence has no minimum in the generator.

    As a validation score: the energy score of two samples,
    (||x - x_0|| + ||x' - x_0|| - ||x - x'||) / 2, over the root of the number of pixels (Gneiting
    and Raftery 2007), whose mean is least for the posterior.

    Attributes:
      denoiser: what generator and critic compute, without weights.
      operator, sigma_y: of the measurements.
      start_sigma: noise level at which the generator begins.
      sigma_min, sigma_max: noise levels over which the divergence is taken. The best generator's
        variance is too small by about sigma_min^2, where y says more than the prior.
    """

    denoiser: SupervisedDenoiser
    operator: OperatorFamily
    sigma_y: float
    start_sigma: float
    sigma_min: float
    sigma_max: float

    def __call__(self, weights, rng_key, frozen, x_0, carry, *, train, label=None):
        keys = jax.random.split(rng_key, 7)
        problem = draw_problem(keys[0], keys[1], x_0, self.operator, self.sigma_y)
        generator = self.denoiser.replace(weights=weights["generator"])
        critic = self.denoiser.replace(weights=weights["critic"])
        prepared, start_sigma = generator.prepare(problem), jnp.float32(self.start_sigma)

        def sample(key):
            eps = jax.random.normal(key, x_0.shape)
            return generate(generator, eps, problem, prepared, start_sigma)

        x = sample(keys[2])
        if not train:
            other = sample(keys[3])
            errors = jnp.linalg.norm(jnp.ravel(x - x_0)) + jnp.linalg.norm(jnp.ravel(other - x_0))
            spread = jnp.linalg.norm(jnp.ravel(x - other))
            return (errors - spread) / 2 / jnp.sqrt(x.size), {}, carry
        width = log(self.sigma_max / self.sigma_min)
        sigma_t = self.sigma_min * jnp.exp(width * jax.random.uniform(keys[4]))
        noise = sigma_t * jax.random.normal(keys[5], x.shape)

        fixed = jax.lax.stop_gradient(critic)
        by_prior = frozen.at_sigma(x + noise, sigma_t)
        by_critic, _ = fixed.predict(x + noise, problem, prepared, sigma_t)
        divergence = width * relative_entropy_draw(x, by_prior, by_critic, sigma_t)
        unlikely = -log_likelihood(problem, x)

        shown = jax.lax.stop_gradient(x)
        guess, scale = critic.predict(shown + noise, problem, prepared, sigma_t, keys[6])
        critic_loss = jnp.mean(((guess - shown) / scale) ** 2)
        loss = (unlikely + divergence) / x.size + critic_loss
        metrics = {"neg_log_likelihood": unlikely, "relative_entropy": divergence}
        return loss, metrics | {"critic_loss": critic_loss}, carry
