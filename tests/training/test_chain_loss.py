"""Training on the sampler's own runs: they are the sampler's, they end and begin anew."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lavps_jax.diffusion.bridges import add_noise
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.operators import families
from lavps_jax.pytrees import static
from lavps_jax.samplers import LAVPS, Inner
from lavps_jax.samplers.base import State
from lavps_jax.samplers.mgdm import GibbsNoise, MGDMNoise
from lavps_jax.samplers.starts import Amortized
from lavps_jax.samplers.variational import block_loss
from lavps_jax.training.amortized import AmortizedLoss, ChainLoss, block_weight
from lavps_jax.training.step import begin_carry, init_train_state, make_train_step

SHAPE = (4, 4, 1)
NUM_STEPS, LOW, HIGH = 20, 2, 7
MEANS = jnp.stack([jnp.full(SHAPE, 0.5), jnp.full(SHAPE, -0.5)])
PRIOR = GaussianMixture(MEANS, jnp.log(jnp.full(2, 0.5)), jnp.float32(0.3))


class Shifted(Amortized):
    """A start with one weight: how far it moves mu, in units of prior_std."""

    model: None = static(default=None)

    def __call__(self, problem, prepared, block, eps, loss_fn, dropout_key=None):
        rho = jnp.broadcast_to(jnp.log(block.prior_std), block.x_t.shape)
        return block.prior_mean + self.weights * block.prior_std, rho - 0.1


BLOCKS = AmortizedLoss(Shifted(None), families.Identity(), 0.05, NUM_STEPS, LOW, HIGH, "previous")
LOSS = ChainLoss(BLOCKS)
PHI = jnp.float32(0.4)


def image(seed):
    return jax.random.uniform(jax.random.key(seed), SHAPE, minval=-1.0)


@pytest.mark.parametrize("grid_power", [1.0, 3.0])
def test_a_run_is_the_sampler_s(grid_power, rng_key, monkeypatch):
    loss_fn = ChainLoss(dataclasses.replace(BLOCKS, grid_power=grid_power))
    chain = loss_fn.enter(rng_key, PRIOR, image(1), loss_fn.top_idx)
    sampler = LAVPS(
        Shifted(PHI),
        best_of=False,
        inner_low_noise=Inner(0),
        num_steps=NUM_STEPS,
        grid_power=grid_power,
        high_idx=NUM_STEPS - 2,
        tau_rule=loss_fn.blocks.tau_rule,
    )
    (segment,) = sampler.plan(Schedule())
    # Which draw goes where is up to each of the two: all draws get the same values.
    fixed = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.broadcast_to(fixed, shape))
    one = jnp.asarray(fixed)[None]
    noise = MGDMNoise(jnp.zeros(()), one[0], GibbsNoise(one[None], one, one[None], one))
    prepared = Shifted(PHI).prepare(chain.problem)
    for index in range(HIGH - 1, LOW - 1, -1):
        assert not loss_fn.is_over(chain) and int(chain.index) == index
        row = jax.tree.map(lambda leaf, k=NUM_STEPS - 3 - index: leaf[k], segment.rows)
        state = State(chain.x_t, chain.x_0, prepared)
        wanted = sampler.step(noise, state, PRIOR, chain.problem, segment, row)
        _, _, chain = loss_fn.advance(PHI, rng_key, PRIOR, chain)
        np.testing.assert_allclose(chain.x_t, wanted.x_t, atol=1e-6)
        np.testing.assert_allclose(chain.x_0, wanted.x_0, atol=1e-6)
    assert loss_fn.is_over(chain)


def test_a_run_enters_from_the_forward_process(rng_key):
    keys = jax.random.split(rng_key, 400)
    x_0 = image(1)
    chains = jax.vmap(lambda key: LOSS.enter(key, PRIOR, x_0, 4))(keys)
    t_next = int(np.floor(np.linspace(0, 999, NUM_STEPS))[6])
    alpha_bar = Schedule().alpha_bar[t_next]
    noise = (chains.x_t - np.sqrt(alpha_bar) * x_0[None]) / np.sqrt(1 - alpha_bar)
    assert abs(float(jnp.mean(noise))) < 0.05 and abs(float(jnp.std(noise)) - 1) < 0.05
    wanted = jax.vmap(lambda x_t: PRIOR(x_t, jnp.int32(t_next)))(chains.x_t)
    np.testing.assert_allclose(chains.x_0, wanted, atol=1e-5)
    # Each has its own measurement noise.
    assert abs(float(jnp.std(chains.problem.y - x_0[None])) / 0.05 - 1) < 0.05


def test_loss_and_gradient_are_those_of_the_one_block(rng_key):
    chain = LOSS.enter(rng_key, PRIOR, image(1), LOSS.top_idx)
    seen = []

    class Spy(Shifted):
        def __call__(self, problem, prepared, block, eps, loss_fn, dropout_key=None):
            seen.append((block, eps))
            return super().__call__(problem, prepared, block, eps, loss_fn)

    spied = ChainLoss(dataclasses.replace(LOSS.blocks, start=Spy(None)))
    loss, _, _ = spied.advance(PHI, rng_key, PRIOR, chain)
    block, eps = seen[0]

    def wanted(phi):
        mu, rho = Shifted(phi)(chain.problem, (), block, eps, None)
        return block_loss(mu, rho, eps, PRIOR, chain.problem, block)

    np.testing.assert_allclose(loss, wanted(PHI), rtol=1e-5)
    gradient = jax.grad(lambda phi: LOSS.advance(phi, rng_key, PRIOR, chain)[0])(PHI)
    np.testing.assert_allclose(gradient, jax.grad(wanted)(PHI), rtol=1e-4)
    assert abs(float(gradient)) > 1

    def after(phi):
        chain_after = LOSS.advance(phi, rng_key, PRIOR, chain)[2]
        return jnp.sum(chain_after.x_t) + jnp.sum(chain_after.x_0)

    assert after(PHI + 1.0) != after(PHI)
    assert jax.grad(after)(PHI) == 0  # No gradient flows on to later blocks.


def test_runs_end_in_turn_and_begin_anew_on_the_images_of_the_batch(rng_key):
    batch = 6
    optimizer = optax.sgd(0.0)
    step = make_train_step(LOSS, optimizer, ema_decay=0.5)
    first = jnp.stack([image(k) for k in range(batch)])
    chains = begin_carry(LOSS, PRIOR, first, rng_key)
    indices = np.asarray(chains.index)
    assert len(set(indices.tolist())) > 1 and indices.min() >= LOW and indices.max() < HIGH
    state = init_train_state(jnp.copy(PHI), optimizer, chains)  # The step donates its state.
    for k in range(1, 2 * (HIGH - LOW) + 1):
        before = np.asarray(state.carry.problem.y)
        images = first + k
        state, metrics = step(state, PRIOR, images, rng_key)
        assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
        restarts = indices == LOW
        indices = np.where(restarts, HIGH - 1, indices - 1)
        np.testing.assert_array_equal(state.carry.index, indices)
        y = np.asarray(state.carry.problem.y)
        np.testing.assert_array_equal(y[~restarts], before[~restarts])
        residual = np.abs(y - np.asarray(images))[restarts]
        assert residual.size == 0 or 0 < residual.max() < 0.3


def test_a_run_that_is_not_finite_begins_anew(rng_key):
    step = make_train_step(LOSS, optax.sgd(0.1), ema_decay=0.5)
    images = jnp.stack([image(k) for k in range(3)])
    chains = begin_carry(LOSS, PRIOR, images, rng_key)
    chains = chains._replace(x_t=chains.x_t.at[1, 0, 0, 0].set(jnp.nan))
    chains = chains._replace(index=jnp.full(3, HIGH - 1))
    state = init_train_state(jnp.copy(PHI), optax.sgd(0.1), chains)
    state, _ = step(state, PRIOR, images, rng_key)
    assert int(state.num_skipped) == 1
    np.testing.assert_array_equal(state.weights, PHI)
    np.testing.assert_array_equal(state.carry.index, [HIGH - 2, HIGH - 1, HIGH - 2])
    state, metrics = step(state, PRIOR, images, rng_key)
    assert np.isfinite(metrics["loss"]) and int(state.num_skipped) == 1


def test_expected_residual_of_independent_pixels(rng_key):
    schedule, sigma_y, n = Schedule(), 0.05, 40_000
    prior = GaussianMixture(jnp.zeros((1, n)), jnp.zeros(1), jnp.float32(0.5))
    keys = jax.random.split(rng_key, 3)
    x_0 = 0.5 * jax.random.normal(keys[0], (n,))
    y = x_0 + sigma_y * jax.random.normal(keys[1], (n,))
    for tau in (10, 200, 900):
        x_tau = add_noise(jax.random.normal(keys[2], (n,)), x_0, jnp.int32(tau), schedule)
        residual = jnp.mean((y - prior(x_tau, jnp.int32(tau))) ** 2)
        weight = block_weight(jnp.float32(schedule.sigma[tau]), sigma_y)
        assert float(weight * residual) == pytest.approx(sigma_y**2, rel=0.03)


def test_weight_multiplies_the_loss_and_leaves_the_metric(rng_key):
    chain = LOSS.enter(rng_key, PRIOR, image(1), 4)
    weighted = ChainLoss(dataclasses.replace(LOSS.blocks, weight="expected_residual"))
    plain, plain_metrics, _ = LOSS.advance(PHI, rng_key, PRIOR, chain)
    loss, metrics, _ = weighted.advance(PHI, rng_key, PRIOR, chain)
    tau = int(np.floor(np.linspace(0, 999, NUM_STEPS))[4])
    factor = block_weight(jnp.float32(Schedule().sigma[tau]), 0.05)
    assert 0 < float(factor) < 0.5
    np.testing.assert_allclose(loss, factor * plain, rtol=1e-5)
    np.testing.assert_allclose(metrics["block_loss"], plain_metrics["block_loss"], rtol=1e-6)
