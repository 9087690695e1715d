"""The training losses against closed forms, and what a training step does with them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.operators import families
from lavps_jax.pytrees import static
from lavps_jax.samplers import MGDM
from lavps_jax.samplers.starts import Amortized
from lavps_jax.samplers.variational import block_loss
from lavps_jax.training.amortized import AmortizedLoss
from lavps_jax.training.losses import (
    Loss,
    PriorLoss,
    SupervisedLoss,
    draw_problem,
    shown_label,
)
from lavps_jax.training.step import init_train_state, make_train_step

SHAPE = (16, 16, 1)


class Predicts(NetworkDenoiser):
    """A denoiser that returns the noise level (so that losses tell it), or its input."""

    what: str = static(default="input")

    def at_sigma(self, z, sigma_t, label=None, dropout_key=None):
        return jnp.broadcast_to(sigma_t, z.shape) if self.what == "sigma" else z


def test_prior_loss_draws_and_weighs_noise_levels():
    x_0 = jnp.zeros(SHAPE)
    keys = jax.random.split(jax.random.key(0), 4000)
    loss_fn = PriorLoss(Predicts(None, None, what="sigma"), -0.8, 1.5)
    losses = jax.vmap(lambda key: loss_fn({}, key, {}, x_0, (), train=True)[0])(keys)
    # weight sigma^2 = (sigma^2 + 1/4) / (1/4) gives sigma back.
    log_sigma = np.log((np.asarray(losses, np.float64) - 1) / 4) / 2
    log_sigma = log_sigma[np.isfinite(log_sigma)]
    assert abs(np.median(log_sigma) + 0.8) < 0.12
    assert abs(np.std(log_sigma[log_sigma > -0.8]) / (1.5 * np.sqrt(1 - 2 / np.pi)) - 1) < 0.08


def test_a_class_is_shown_as_one_hot_and_left_out_as_often_as_asked():
    labels = jnp.tile(jnp.arange(-1, 3), 1000)
    keys = jax.random.split(jax.random.key(0), len(labels))
    for rate in (0.0, 0.25, 1.0):
        show = jax.vmap(lambda key, label, rate=rate: shown_label(key, label, 3, rate))
        shown = np.asarray(show(keys, labels)).reshape(1000, 4, 3)
        assert not shown[:, 0].any()  # The null class.
        np.testing.assert_allclose(shown[:, 1:].mean(0), (1 - rate) * np.eye(3), atol=0.06)
    assert shown_label(keys[0], None, 3, 0.0) is None


@pytest.mark.parametrize("train", [True, False])
def test_losses_show_the_class_that_training_leaves_out(train):
    """A denoiser that returns 1 for class 1 and 0 without: its error tells what it was shown."""

    class Prior(NetworkDenoiser):
        def at_sigma(self, z, sigma_t, label=None, dropout_key=None):
            return jnp.full(z.shape, label[1])

    class Supervised(SupervisedDenoiser):
        def predict(self, z, problem, prepared, sigma_t, dropout_key=None):
            return jnp.full(z.shape, problem.label[1]), 1.0

    keys = jax.random.split(jax.random.key(0), 500)
    for loss_fn in (
        PriorLoss(Prior(None, None), 0.0, 0.0, 3, 0.4),
        SupervisedLoss(Supervised(None, None), families.Identity(), 0.1, 0.0, 0.0, 3, 0.4),
    ):

        @jax.vmap
        def each(key, label, loss_fn=loss_fn):
            return loss_fn({}, key, {}, jnp.ones(SHAPE), (), train=train, label=label)

        losses = np.asarray(each(keys, jnp.ones(500, jnp.int32))[0])
        assert abs(np.mean(losses == 0) - (0.6 if train else 1.0)) < 0.07
        assert np.all(np.asarray(each(keys, jnp.zeros(500, jnp.int32))[0]) > 0)


def test_prior_loss_of_no_denoising():
    """With D(z) = z the error is the noise: the loss is weight sigma^2, whatever the image."""
    x_0 = jax.random.uniform(jax.random.key(1), (64, 64, 1), minval=-1.0)
    for log_sigma in (-2.0, 1.0):
        loss_fn = PriorLoss(Predicts(None, None), log_sigma, 0.0)
        loss, _, _ = loss_fn({}, jax.random.key(2), {}, x_0, (), train=True)
        expected = (np.exp(2 * log_sigma) + 0.25) / 0.25
        np.testing.assert_allclose(loss, expected, rtol=0.08)


def test_conditional_loss_shows_a_new_measurement():
    seen = []

    class Spy(SupervisedDenoiser):
        def predict(self, z, problem, prepared, sigma_t, dropout_key=None):
            seen.append((np.asarray(z), np.asarray(prepared), float(sigma_t)))
            return z, EDM()(sigma_t).c_out

    x_0 = jax.random.uniform(jax.random.key(1), (64, 64, 1), minval=-1.0)
    loss_fn = SupervisedLoss(Spy(None, None), families.Identity(), 0.2, 0.5, 0.0)
    for k in range(2):
        loss, _, _ = loss_fn({}, jax.random.key(k), {}, x_0, (), train=True)
        np.testing.assert_allclose(loss, (np.exp(1.0) + 0.25) / 0.25, rtol=0.08)
    (z, x_pinv, sigma_t), (_, other, _) = seen
    np.testing.assert_allclose(sigma_t, np.exp(0.5), rtol=1e-5)
    noise_y = x_pinv * (1 + 4 * 0.2**2) - x_0
    assert abs(np.std(noise_y) - 0.2) < 0.01 and np.abs(x_pinv - other).max() > 0.1
    noise = (z - x_0) / sigma_t
    assert abs(np.mean(noise * noise_y) / 0.2) < 0.06  # Independent draws.


def test_a_range_of_sigma_y_is_log_uniform_and_anew_for_every_image():
    def noise(key):
        keys = jax.random.split(key)
        problem = draw_problem(*keys, jnp.zeros(SHAPE), families.Identity(), (0.01, 0.2))
        return jnp.std(problem.y), problem.sigma_y

    found, said = jax.jit(jax.vmap(noise))(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(found, said, rtol=0.2)
    place = np.log(said / 0.01) / np.log(20)
    quantiles = np.quantile(place, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(quantiles, [0, 0.25, 0.5, 0.75, 1], atol=0.04)


@pytest.mark.parametrize("tau_rule", ["previous", "midpoint"])
def test_amortized_loss_poses_the_sampler_s_blocks(tau_rule):
    seen = []

    class Spy(Amortized):
        def __call__(self, problem, prepared, block, eps, loss_fn, dropout_key=None):
            seen.append((problem, block, eps))
            return block.prior_mean + 0.1, jnp.full(SHAPE, jnp.log(block.prior_std) - 0.2)

    prior = GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.float32(0.5))
    loss_fn = AmortizedLoss(Spy(None, None), families.Identity(), 0.05, 20, 2, 7, tau_rule)
    x_0 = jax.random.uniform(jax.random.key(1), SHAPE, minval=-1.0)
    rows = {}
    for segment in MGDM(num_steps=20, tau_rule=tau_rule).plan(Schedule()):
        for k in range(len(segment.rows.count)):
            row = jax.tree.map(lambda leaf, k=k: leaf[k, 0], segment.rows.choices)
            rows[int(row.tau)] = row
    grid = np.floor(np.linspace(0, 999, 20)).astype(int)
    taus = grid[2:7] // 2 if tau_rule == "midpoint" else grid[2:7]
    for k in range(40):
        loss, metrics, _ = loss_fn({}, jax.random.key(k), prior, x_0, (), train=True)
        problem, block, eps = seen[-1]
        row = rows[int(block.tau)]
        assert block.t == row.t
        mean = row.prior.c_l * block.x_t + row.prior.c_s * block.x_0
        np.testing.assert_allclose(block.prior_mean, mean, atol=1e-5)
        np.testing.assert_allclose(block.prior_std, row.prior.std, rtol=1e-5)
        np.testing.assert_allclose(block.x_0, prior(block.x_t, block.t), atol=1e-5)
        alpha_bar = Schedule().alpha_bar[int(block.t)]
        noise = (block.x_t - np.sqrt(alpha_bar) * x_0) / np.sqrt(1 - alpha_bar)
        assert abs(np.std(noise) - 1) < 0.2
        rho = jnp.full(SHAPE, jnp.log(block.prior_std))
        at_prior = metrics["block_loss_at_prior"]
        for found, mu, width in (
            (loss, block.prior_mean + 0.1, rho - 0.2),
            (at_prior, block.prior_mean, rho),
        ):
            expected = block_loss(mu, width, eps, prior, problem, block)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert {int(block.tau) for _, block, _ in seen} == set(taus.tolist())


@dataclass(frozen=True)
class DrawsANumber(Loss):
    def __call__(self, weights, rng_key, frozen, x_0, carry, *, train, label=None):
        assert train
        return weights["w"] * jax.random.normal(rng_key), {}, carry


def test_every_image_and_step_has_its_own_key():
    optimizer = optax.sgd(1.0)
    step = make_train_step(DrawsANumber(), optimizer, ema_decay=0.5)
    key = jax.random.key(0)

    def moves(batch, num_steps):
        state = init_train_state({"w": jnp.zeros(())}, optimizer)
        values = [0.0]
        for _ in range(num_steps):
            state, _ = step(state, {}, jnp.zeros((batch, *SHAPE)), key)
            values.append(float(state.weights["w"]))
        return np.diff(values)

    one, two = moves(1, 2), moves(2, 2)
    assert abs(one[0] - one[1]) > 1e-3 and abs(one[0] - two[0]) > 1e-3
    np.testing.assert_array_equal(one, moves(1, 2))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    class MeanPixel(Loss):
        def __call__(self, weights, rng_key, frozen, x_0, carry, *, train, label=None):
            return weights["w"] * jnp.mean(x_0), {}, carry

    optimizer = optax.adam(0.1)
    step = make_train_step(MeanPixel(), optimizer, ema_decay=0.5)
    state = init_train_state({"w": jnp.ones(())}, optimizer)
    for k, value in enumerate((1.0, np.nan, np.inf, 1.0)):
        before = jax.tree.map(np.asarray, (state.weights, state.ema, state.opt_state))
        state, _ = step(state, {}, jnp.full((1, *SHAPE), value), jax.random.key(0))
        after = jax.tree.map(np.asarray, (state.weights, state.ema, state.opt_state))
        same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (before, after)),
                                                      strict=True)]  # fmt: skip
        assert all(same) if k in (1, 2) else not any(same)
        assert (state.step, state.num_skipped) == (k + 1, min(max(k, 0), 2))


def test_average_of_the_weights():
    optimizer = optax.sgd(1.0)
    step = make_train_step(DrawsANumber(), optimizer, ema_decay=0.25)
    state = init_train_state({"w": jnp.ones(())}, optimizer)
    average = 1.0
    for k in range(5):
        state, _ = step(state, {}, jnp.zeros((1, *SHAPE)), jax.random.key(0))
        decay = min(0.25, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * float(state.weights["w"])
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-5)
