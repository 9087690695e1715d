"""One-step sampling: the divergence it trains on, and that a trained generator samples."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lavps_jax.config import (
    ConditionalTask,
    OneStepConfig,
    OneStepTask,
    OptimizerConfig,
    PriorTask,
    SampleConfig,
    TrainConfig,
)
from lavps_jax.data import SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.networks import (
    ConditionalDenoiserConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
)
from lavps_jax.one_step import OneStepLoss, relative_entropy_draw
from lavps_jax.operators import Denoise
from lavps_jax.sampling_run import run_sampling
from lavps_jax.training_run import run_training

MEAN, STD, SIGMA_Y, START = 0.4, 0.7, 0.5, 2.5
train = partial(run_training, devices=jax.devices()[:1])
sample = partial(run_sampling, devices=jax.devices()[:1])


def gaussian(z, mean, std, sigma):
    """E[x | z = x + sigma eps] of x ~ N(mean, std^2)."""
    return mean + std**2 / (std**2 + sigma**2) * (z - mean)


def test_the_mean_of_the_draws_is_the_relative_entropy():
    mean, std = -0.3, 0.2
    expected = np.log(STD / std) + (std**2 + (mean - MEAN) ** 2) / (2 * STD**2) - 0.5
    levels = np.linspace(np.log(1e-3), np.log(1e3), 400)
    rng = np.random.default_rng(0)
    integral = 0.0
    for sigma in np.exp(levels):
        x = mean + std * rng.standard_normal(4_000)
        z = x + sigma * rng.standard_normal(4_000)
        found = relative_entropy_draw(
            jnp.asarray(x, jnp.float32),
            jnp.asarray(gaussian(z, MEAN, STD, sigma), jnp.float32),
            jnp.asarray(gaussian(z, mean, std, sigma), jnp.float32),
            jnp.float32(sigma),
        )
        integral += float(found) / len(x) * (levels[1] - levels[0])
    assert integral == pytest.approx(expected, rel=0.03) and expected > 1


class Prior:
    """Independent pixels N(MEAN, STD^2)."""

    def at_sigma(self, theta, z, sigma_t, label=None, dropout_key=None):
        return gaussian(z, MEAN, STD, sigma_t)


class Affine:
    """A denoiser of N(a + b y, exp(2 s)), with which generators and critics are affine in y."""

    def predict(self, phi, z, problem, sigma_t, dropout_key=None):
        mean = phi["a"] + phi["b"] * problem.y
        return gaussian(z, mean, jnp.exp(phi["s"]), sigma_t), jnp.float32(1.0)


def test_the_best_generator_has_the_law_of_the_posterior():
    """Everything is Gaussian: the mean (MEAN / STD^2 + y / SIGMA_Y^2) v, the variance v."""
    loss_fn = OneStepLoss(Prior(), Affine(), Denoise(), SIGMA_Y, START, 1e-2, 1e2)  # type: ignore[arg-type]
    begin = {name: jnp.float32(value) for name, value in (("a", 0.0), ("b", 0.0), ("s", 0.0))}
    weights = {"generator": begin, "critic": dict(begin)}
    optimizer = optax.adam(optax.exponential_decay(3e-2, 500, 0.3))
    state = optimizer.init(weights)

    def batch_loss(weights, key):
        def one(key):
            key_x, key_loss = jax.random.split(key)
            x_0 = MEAN + STD * jax.random.normal(key_x, (2, 2, 1))
            return loss_fn(weights, key_loss, {}, x_0, train=True)[0]

        return jnp.mean(jax.vmap(one)(jax.random.split(key, 256)))

    @jax.jit
    def step(carry, key):
        weights, state = carry
        update, state = optimizer.update(jax.grad(batch_loss)(weights, key), state)
        return (optax.apply_updates(weights, update), state), None

    keys = jax.random.split(jax.random.key(0), 1500)
    (weights, _), _ = jax.lax.scan(step, (weights, state), keys)
    found = {name: float(value) for name, value in weights["generator"].items()}
    variance = 1 / (1 / STD**2 + 1 / SIGMA_Y**2)
    # Samples are (1 - gain) (a + b y) + gain START eps, with the gain of the denoiser at START.
    inner = np.exp(2 * found["s"])
    gain = inner / (inner + START**2)
    assert (1 - gain) * found["b"] == pytest.approx(variance / SIGMA_Y**2, abs=0.04)
    assert (1 - gain) * found["a"] == pytest.approx(MEAN * variance / STD**2, abs=0.04)
    std = gain * START
    assert std == pytest.approx(np.sqrt(variance), rel=0.06)
    # The critic has the generator's law.
    critic = {name: float(value) for name, value in weights["critic"].items()}
    assert np.exp(critic["s"]) == pytest.approx(std, rel=0.1)


NETWORK = ConditionalDenoiserConfig(
    HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)
)


def config(task, run_dir, steps=4) -> TrainConfig:
    return TrainConfig(
        task, SyntheticData(64, (8, 8, 1)), SyntheticData(16, (8, 8, 1), seed=1), str(run_dir),
        batch_size=8, num_train_steps=steps, optimizer=OptimizerConfig(1e-3, warmup_steps=1),
        log_every=2, validate_every=steps, checkpoint_every=steps,
    )  # fmt: skip


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders of a prior and a supervised denoiser."""
    folder = tmp_path_factory.mktemp("networks")
    prior = train(config(PriorTask(NETWORK.backbone), folder / "prior"))
    denoiser = train(config(ConditionalTask(NETWORK, Denoise()), folder / "denoiser"))
    return str(prior), str(denoiser)


def test_a_generator_is_trained_exported_and_sampled(networks, tmp_path, capsys):
    prior, denoiser = networks
    task = OneStepTask(NETWORK, denoiser, prior, Denoise())
    run = config(task, tmp_path / "run")
    generator = str(train(run))
    log = (tmp_path / "run" / "log.csv").read_text()
    assert "misfit" in log and "relative_entropy" in log and "validation_loss" in log
    settings = SampleConfig(
        prior, SyntheticData(8, (8, 8, 1), seed=2), Denoise(), OneStepConfig(generator),
        str(tmp_path / "out"), num_images=2, num_particles=2,
    )  # fmt: skip
    sample(settings)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["sampler"] == "onestep" and metrics["mean"]["network_calls"] == 2
    assert metrics["mean"]["pixel_std"] > 0
    # Goes on where it was: nothing is left to do.
    train(run)
    assert "resumed at step 4 of 4" in capsys.readouterr().out
    for wrong, words in {
        OneStepConfig(): "sampler.generator: got nothing",
        OneStepConfig(denoiser): "give a generator",
    }.items():
        with pytest.raises(UserError, match=words):
            sample(dataclasses.replace(settings, sampler=wrong, out_dir=str(tmp_path / "no")))
    other = dataclasses.replace(NETWORK, pivot=True)
    with pytest.raises(UserError, match="task.denoiser: .*the same network"):
        train(config(dataclasses.replace(task, network=other), tmp_path / "other"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("sigma_y", 0.0), ("start_sigma", -1.0), ("sigma_min", 0.0), ("sigma_max", 0.01)],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=field):
        OneStepTask(NETWORK, "denoiser", "prior", Denoise(), **{field: value})
