"""The inner problem: for a Gaussian prior and a linear operator its optimum is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lavps_jax.diffusion.bridges import bridge_coefficients
from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.networks import AmortizedNetworkConfig, LocalUNetConfig
from lavps_jax.operators import Identity, Inpainting, linear_operator, nonlinear_operator
from lavps_jax.problems.problem import Problem, log_likelihood
from lavps_jax.samplers.starts import (
    Amortized,
    BestOf,
    GaussNewton,
    Start,
    SupervisedStart,
    ZeroShot,
    gauss_newton_shift,
)
from lavps_jax.samplers.variational import Block, block_loss, fit

SHAPE = (4, 4, 1)


def gaussian_case():
    """A unit Gaussian prior: D(x, t) = sqrt(alpha_bar[t]) x, so everything is elementwise."""
    prior = GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.float32(1.0))
    mask = (jax.random.uniform(jax.random.key(5), (4, 4, 1)) < 0.5).astype(jnp.float32)
    operator = Inpainting(mask, x_shape=SHAPE)
    y = operator.project(jax.random.normal(jax.random.key(6), SHAPE))
    problem = Problem(y, operator, 0.3)
    mean = jax.random.normal(jax.random.key(7), SHAPE)
    zeros = jnp.zeros(SHAPE)
    block = Block(zeros, zeros, mean, jnp.float32(0.4), jnp.int32(150), jnp.int32(100))
    return prior, problem, block


def closed_form(problem, block):
    slope = np.sqrt(Schedule().alpha_bar[int(block.tau)])
    mask = np.asarray(problem.operator.mask, np.float64)
    prior, data = 1 / float(block.prior_std) ** 2, mask * slope**2 / float(problem.sigma_y) ** 2
    pull = mask * slope * np.asarray(problem.y) / float(problem.sigma_y) ** 2
    mu = (prior * np.asarray(block.prior_mean) + pull) / (prior + data)
    return mu, -0.5 * np.log(prior + data)


@pytest.mark.parametrize("far", [False, True])
def test_fit_reaches_the_closed_form_from_every_start(far):
    prior, problem, block = gaussian_case()

    def loss_fn(mu, rho, eps):
        # Draws of +-1, and both signs: everything is elementwise and quadratic here, so their mean
        # is the exact expectation and the optimum is reached without noise.
        losses = [block_loss(mu, rho, e, prior, problem, block) for e in (eps, -eps)]
        return sum(losses) / 2

    eps = jax.random.rademacher(jax.random.key(1), (4000, *SHAPE), jnp.float32)
    mu, rho = ZeroShot()(problem, (), block, eps[0], loss_fn)
    if far:
        mu, rho = mu + 1.5, rho - 1.0
    rate = optax.exponential_decay(0.05, 1000, 0.1)
    mu, rho, losses = jax.jit(lambda m, r, e: fit(m, r, e, loss_fn, optax.adam(rate)))(mu, rho, eps)
    expected_mu, expected_rho = closed_form(problem, block)
    np.testing.assert_allclose(mu, expected_mu, atol=1e-3)
    np.testing.assert_allclose(rho, expected_rho, atol=1e-3)
    assert losses.shape == (4000,) and losses[-100:].mean() < losses[0]


@pytest.mark.parametrize("unit,scale", [("image", 1.0), ("prior_std", 0.4)])
def test_amortized_start_adds_the_residual_in_its_unit(unit, scale):
    prior, problem, block = gaussian_case()
    d_mu, d_rho = (jax.random.normal(jax.random.key(k), SHAPE) for k in (20, 21))
    seen = []

    def model(weights, x_0, x_t_scaled, x_pinv, sigma_t, sigma_tau, **others):
        seen.extend([float(sigma_t), float(sigma_tau)])
        return weights, d_rho

    start = Amortized(d_mu, model, mean_unit=unit)  # type: ignore[arg-type]
    mu, rho = start(problem, start.prepare(problem), block, d_mu, lambda *_: 0.0)
    np.testing.assert_allclose(mu, block.prior_mean + scale * d_mu, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rho, np.log(0.4) + d_rho, rtol=1e-5, atol=1e-6)
    alpha_bar = Schedule().alpha_bar[[150, 100]]
    np.testing.assert_allclose(seen, np.sqrt(1 / alpha_bar - 1), rtol=1e-6)


def test_an_untrained_network_is_the_gauss_newton_step():
    """Which minimises the loss where the denoiser is the identity and A is linear."""
    prior, problem, block = gaussian_case()
    zeros = lambda *_, **__: (jnp.zeros(SHAPE), jnp.zeros(SHAPE))  # noqa: E731
    start = Amortized(None, zeros, mean_unit="prior_std", guidance=True, residual_of="gauss_newton")
    mu, rho = start(problem, start.prepare(problem), block, block.x_0, lambda *_: 0.0)
    np.testing.assert_allclose(rho, np.log(0.4), rtol=1e-5)
    shift = gauss_newton_shift(problem, block)
    np.testing.assert_allclose(mu - block.prior_mean, 0.4 * shift, rtol=1e-5, atol=1e-6)
    assert np.abs(mu - block.prior_mean).max() > 0.1
    without = GaussNewton()(problem, (), block, block.x_0, lambda *_: 0.0)
    np.testing.assert_allclose(without, (mu, rho), rtol=1e-5, atol=1e-6)
    # Around x_0 = prior_mean: the derivative of |y - A(mu)|^2 / 2 sigma_y^2 + |mu - m|^2 / 2 s^2.
    block = block._replace(prior_mean=block.x_0)
    mu, _ = start(problem, start.prepare(problem), block, block.x_0, lambda *_: 0.0)

    def loss(mu):
        return jnp.sum((mu - block.x_0) ** 2) / (2 * 0.4**2) - log_likelihood(problem, mu)

    scale = np.abs(jax.grad(loss)(block.x_0)).max()
    assert np.abs(jax.grad(loss)(mu)).max() < 1e-3 * scale
    with pytest.raises(UserError, match="^residual_of: got gauss_newton; set guidance"):
        AmortizedNetworkConfig(LocalUNetConfig(), guidance=True, residual_of="gauss_newton")


@pytest.mark.parametrize("scale, std", [("signal", 60.0), ("data", 0.5)])
def test_the_state_reaches_the_network_in_its_unit(scale, std):
    config = AmortizedNetworkConfig(LocalUNetConfig(), state_scale=scale)
    network, seen = config.build(nnx.Rngs(0)), []

    def backbone(x, noise_levels, **others):
        seen.append(x)
        return jnp.zeros((*x.shape[:2], 6))

    object.__setattr__(network, "backbone", backbone)
    zeros = jnp.zeros((32, 32, 3))
    x_t = jnp.hypot(0.5, 60.0) * jax.random.normal(jax.random.key(0), zeros.shape)
    network(zeros, x_t, zeros, jnp.float32(60.0), jnp.float32(2.0))
    np.testing.assert_allclose(jnp.std(seen[0][..., :3]), std, rtol=0.05)


@pytest.mark.parametrize("t, tau", [(150, 100), (11, 10), (2, 1), (999, 3)])
def test_conditional_start_is_the_bridge_around_the_prediction(t, tau):
    _, problem, block = gaussian_case()
    x_0, x_t, wrong = (jax.random.normal(jax.random.key(k), SHAPE) for k in (20, 21, 22))

    def model(weights, z, x_pinv, c_noise, **others):
        np.testing.assert_array_equal(x_pinv, estimate(problem))
        return weights

    alpha_bar = Schedule().alpha_bar
    # The raw output with which D = c_skip x_t / sqrt(alpha_bar) + c_out F is x_0.
    sigma = float(np.sqrt(1 / alpha_bar[t] - 1))
    c = EDM()(jnp.float32(sigma))
    weights = (x_0 - c.c_skip * x_t / np.sqrt(alpha_bar[t])) / c.c_out
    bridge = bridge_coefficients(alpha_bar, 0, tau, t, 1.0)
    mean = bridge.c_l * x_t + bridge.c_s * wrong
    times = jnp.int32(t), jnp.int32(tau)
    block = block._replace(x_0=wrong, x_t=x_t, prior_mean=mean, t=times[0], tau=times[1])
    start = SupervisedStart(SupervisedDenoiser(weights, model))  # type: ignore[arg-type]
    mu, rho = start(problem, start.prepare(problem), block, wrong, lambda *_: 0.0)
    expected = bridge.c_l * x_t + bridge.c_s * x_0
    np.testing.assert_allclose(mu, expected, atol=1e-3 * np.abs(expected - mean).max())
    np.testing.assert_allclose(rho, np.log(0.4), rtol=1e-6)


def average_of_two(data, x):
    return (x[:, 1:] + x[:, :-1]) / 2


@pytest.mark.parametrize(
    "operator", [Identity(x_shape=SHAPE), linear_operator(average_of_two, SHAPE)]
)
def test_guidance_is_the_optimum_where_the_denoiser_is_the_identity(operator):
    """At tau = 1 the denoiser of a wide Gaussian returns its input, but for 1e-4."""
    prior = GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.float32(100.0))
    mean = jax.random.normal(jax.random.key(30), SHAPE)
    y = jax.random.normal(jax.random.key(31), operator.y_shape)
    problem = Problem(y, operator, 0.3)
    for prior_std in (0.01, 1.0, 3.0):
        block = Block(mean, mean, mean, jnp.float32(prior_std), jnp.int32(2), jnp.int32(1))

        def loss_fn(mu, block=block):
            zeros = jnp.zeros(SHAPE)
            return block_loss(mu, zeros, zeros, prior, problem, block)

        mu = mean + prior_std * gauss_newton_shift(problem, block)
        flat = jnp.abs(jax.grad(loss_fn)(mu)).max() / jnp.abs(jax.grad(loss_fn)(mean)).max()
        assert flat < 2e-3


def square(data, x):
    return x**2


def test_guidance_of_a_nonlinear_operator_is_a_gauss_newton_step():
    x_0, y = jax.random.normal(jax.random.key(30), (2, *SHAPE))
    problem = Problem(y, nonlinear_operator(square, SHAPE), 0.3)
    block = Block(x_0, x_0, x_0, jnp.float32(0.5), jnp.int32(2), jnp.int32(1))
    slope = 2 * np.asarray(x_0)
    shift = slope * (np.asarray(y) - np.asarray(x_0) ** 2) / (slope**2 + (0.3 / 0.5) ** 2)
    error = gauss_newton_shift(problem, block) - shift / 0.5
    assert float(jnp.linalg.norm(error)) < 0.02 * np.linalg.norm(shift / 0.5)


def test_loss_by_hand():
    prior, problem, block = gaussian_case()
    mu, rho, eps = (jax.random.normal(jax.random.key(k), SHAPE) for k in (10, 11, 12))
    x_tau = np.asarray(mu, np.float64) + np.exp(np.asarray(rho, np.float64)) * np.asarray(eps)
    x_0 = np.sqrt(Schedule().alpha_bar[100]) * x_tau
    residual = np.asarray(problem.operator.mask) * (np.asarray(problem.y) - x_0)
    expected = (
        np.sum(residual**2) / (2 * 0.3**2)
        + np.sum((x_tau - np.asarray(block.prior_mean)) ** 2) / (2 * 0.4**2)
        - np.sum(np.asarray(rho))
    )
    loss = block_loss(mu, rho, eps, prior, problem, block)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


class At(Start):
    """Begins with a grey image of this brightness."""

    mean: float

    def __call__(self, problem, prepared, block, eps, loss_fn):
        return jnp.full(SHAPE, self.mean), jnp.zeros(SHAPE)


def test_best_of_chooses_for_each_particle():
    _, problem, block = gaussian_case()

    def chosen(eps, target):
        loss_fn = lambda mu, rho, e: jnp.sum((mu - target) ** 2)  # noqa: E731
        return BestOf(At(0.0), At(9.0))(problem, ((), ()), block, eps, loss_fn)[0][0, 0, 0]

    picks = jax.vmap(chosen)(jnp.zeros((2, *SHAPE)), jnp.array([1.0, 8.0]))
    np.testing.assert_array_equal(picks, [0.0, 9.0])


def test_best_of_never_takes_a_loss_that_is_not_a_number():
    _, problem, block = gaussian_case()

    def loss_fn(mu, rho, e):
        return jnp.where(mu[0, 0, 0] == 0, jnp.nan, 5.0)

    for start in (BestOf(At(0.0), At(1.0)), BestOf(At(1.0), At(0.0))):
        assert start(problem, ((), ()), block, jnp.zeros(SHAPE), loss_fn)[0][0, 0, 0] == 1.0
