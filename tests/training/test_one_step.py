"""One-step sampling: the divergence it trains on, and that a trained generator samples."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lavps_jax.config.settings import (
    OneStepTask,
    OptimizerConfig,
    PriorTask,
    SampleConfig,
    SupervisedTask,
    TrainConfig,
    to_json,
)
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    SupervisedNetworkConfig,
    split,
)
from lavps_jax.operators import families
from lavps_jax.runs.build_training import build_optimizer
from lavps_jax.runs.loading import load_network
from lavps_jax.runs.sampling import run_sampling
from lavps_jax.runs.training import run_training
from lavps_jax.samplers import OneStep
from lavps_jax.training.one_step import OneStepLoss, relative_entropy_draw

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


NETWORK = SupervisedNetworkConfig(
    HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)
)


def config(task, run_dir, steps=4) -> TrainConfig:
    return TrainConfig(
        task, SyntheticData(64, (8, 8, 1)), SyntheticData(16, (8, 8, 1), seed=1), str(run_dir),
        batch_size=8, num_train_steps=steps, optimizer=OptimizerConfig(1e-3, warmup_steps=1),
        log_every=2, validate_every=steps, checkpoint_every=steps,
    )  # fmt: skip


def untrained(folder, task, perturb) -> str:
    """Folder of an exported network with random weights; compiles nothing."""
    weights = perturb(split(task.network.build(nnx.Rngs(0)))[1])
    export_weights(folder, weights, {"config": to_json(config(task, "none"))})
    return str(folder)


class Prior(NetworkDenoiser):
    """Independent pixels N(MEAN, STD^2)."""

    def at_sigma(self, z, sigma_t, label=None, dropout_key=None):
        return gaussian(z, MEAN, STD, sigma_t)


class Affine(SupervisedDenoiser):
    """A denoiser of N(a + b y, exp(2 s)), with which generators and critics are affine in y."""

    def predict(self, z, problem, prepared, sigma_t, dropout_key=None):
        mean = self.weights["a"] + self.weights["b"] * problem.y
        return gaussian(z, mean, jnp.exp(self.weights["s"]), sigma_t), jnp.float32(1.0)


PRIOR, AFFINE = Prior(None, None), Affine(None, None)


@pytest.mark.parametrize("sigma_y", [0.5, 0.05])
def test_the_best_generator_has_the_law_of_the_posterior(sigma_y):
    """Everything is Gaussian: mean (MEAN / STD^2 + y / sigma_y^2) v and variance v, found with the
    optimizer of real runs."""
    task = OneStepTask(NETWORK, "", "", families.Identity(), sigma_y)
    settings = OptimizerConfig(1e-2, "cosine", warmup_steps=50, clip_norm=10.0)
    settings = dataclasses.replace(config(task, "", 8_000), optimizer=settings)
    loss_fn = OneStepLoss(AFFINE, families.Identity(), sigma_y, START, task.sigma_min, 20.0)
    begin = {name: jnp.float32(value) for name, value in (("a", 0.2), ("b", 0.5), ("s", 0.0))}
    weights = {"generator": begin, "critic": dict(begin)}
    optimizer = build_optimizer(settings, weights)

    def batch_loss(weights, key):
        def one(key):
            key_x, key_loss = jax.random.split(key)
            x_0 = MEAN + STD * jax.random.normal(key_x, (4, 4, 1))
            return loss_fn(weights, key_loss, PRIOR, x_0, (), train=True)[0]

        return jnp.mean(jax.vmap(one)(jax.random.split(key, 32)))

    def step(carry, key):
        weights, state = carry
        update, state = optimizer.update(jax.grad(batch_loss)(weights, key), state, weights)
        return (optax.apply_updates(weights, update), state), weights["generator"]

    keys = jax.random.split(jax.random.key(0), settings.num_train_steps)
    carry = (weights, optimizer.init(weights))
    (weights, _), path = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(carry)
    # The generator waits for the critic.
    assert float(path["s"][50]) == 0 and float(path["s"][60]) != 0
    found = {name: float(value) for name, value in weights["generator"].items()}
    variance = 1 / (1 / STD**2 + 1 / sigma_y**2)
    # Samples are (1 - gain) (a + b y) + gain START eps, with the gain of the denoiser at START.
    inner = np.exp(2 * found["s"])
    gain = inner / (inner + START**2)
    assert (1 - gain) * found["b"] == pytest.approx(variance / sigma_y**2, abs=0.04)
    assert (1 - gain) * found["a"] == pytest.approx(MEAN * variance / STD**2, abs=0.04)
    std = gain * START
    assert std == pytest.approx(np.sqrt(variance), rel=0.08)
    # The critic has the generator's law.
    assert np.exp(float(weights["critic"]["s"])) == pytest.approx(std, rel=0.1)


def test_generator_and_critic_do_not_learn_from_each_others_loss():
    loss_fn = OneStepLoss(AFFINE, families.Identity(), 0.5, START, 1e-2, 20.0)
    begin = {name: jnp.float32(value) for name, value in (("a", 0.2), ("b", 0.5), ("s", 0.1))}
    weights = {"generator": begin, "critic": dict(begin)}

    def part(weights, name):
        x_0 = jnp.full((4, 4, 1), 0.3)
        return loss_fn(weights, jax.random.key(0), PRIOR, x_0, (), train=True)[1][name]

    for name, learns in (
        ("critic_loss", "critic"),
        ("relative_entropy", "generator"),
        ("neg_log_likelihood", "generator"),
    ):
        gradient = jax.grad(part)(weights, name)
        for network, leaves in gradient.items():
            size = sum(abs(float(leaf)) for leaf in leaves.values())
            assert (size > 0) == (network == learns)


@pytest.fixture(scope="module")
def networks(tmp_path_factory, perturb):
    """Folders of a prior and a supervised denoiser."""
    folder = tmp_path_factory.mktemp("networks")
    prior = untrained(folder / "prior", PriorTask(NETWORK.backbone), perturb)
    return prior, untrained(
        folder / "denoiser", SupervisedTask(NETWORK, families.Identity()), perturb
    )


def test_a_generator_is_trained_exported_and_sampled(networks, tmp_path, capsys):
    prior, denoiser = networks
    task = OneStepTask(NETWORK, denoiser, prior, families.Identity())
    run = config(task, tmp_path / "run")
    generator = str(train(run))
    log = (tmp_path / "run" / "log.csv").read_text()
    assert "neg_log_likelihood" in log and "relative_entropy" in log and "validation_loss" in log
    settings = SampleConfig(
        prior, SyntheticData(8, (8, 8, 1), seed=2), families.Identity(), OneStep(generator),
        str(tmp_path / "out"), num_images=2, num_particles=2,
    )  # fmt: skip
    sample(settings)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["sampler"] == "onestep" and metrics["mean"]["network_calls"] == 2
    assert metrics["mean"]["pixel_std"] > 0
    assert "trained on another" not in capsys.readouterr().out
    sample(dataclasses.replace(settings, sigma_y=0.1, out_dir=str(tmp_path / "noisy")))
    assert "onestep: its network was trained on another operator or sigma_y" in (
        capsys.readouterr().out
    )
    for wrong, words in {
        OneStep(): "sampler.generator: got nothing",
        OneStep(denoiser): "give a generator",
    }.items():
        with pytest.raises(UserError, match=words):
            sample(dataclasses.replace(settings, sampler=wrong, out_dir=str(tmp_path / "no")))
    tiled = dataclasses.replace(settings, tile=8, tile_overlap=4, out_dir=str(tmp_path / "no"))
    with pytest.raises(UserError, match="tile: .*leave it out"):
        sample(tiled)
    other = dataclasses.replace(NETWORK, pivot=True)
    with pytest.raises(UserError, match="task.denoiser: .*the same network"):
        train(config(dataclasses.replace(task, network=other), tmp_path / "other"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("sigma_y", 0.0), ("start_sigma", -1.0), ("sigma_min", 0.02), ("sigma_max", 0.001)],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=field):
        OneStepTask(NETWORK, "denoiser", "prior", families.Identity(), **{field: value})


def test_an_interrupted_run_and_one_on_more_devices_end_alike(networks, tmp_path, monkeypatch):
    prior, denoiser = networks
    task = OneStepTask(NETWORK, denoiser, prior, families.Identity())
    run = config(task, tmp_path / "whole")
    run = dataclasses.replace(run, optimizer=OptimizerConfig(1e-3, "constant", warmup_steps=1))
    train(run)
    half = dataclasses.replace(run, run_dir=str(tmp_path / "half"), checkpoint_every=2)
    train(half)
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "half" / "weights")
    train(half)
    spread = dataclasses.replace(run, run_dir=str(tmp_path / "spread"), fsdp=2)
    run_training(spread, devices=jax.devices()[:2])
    wanted = jax.tree.leaves(load_network(str(tmp_path / "whole" / "weights"))[1])
    for name, tolerance in (("half", 0.0), ("spread", 2e-3)):
        found = jax.tree.leaves(load_network(str(tmp_path / name / "weights"))[1])
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance / 100)
    first = jax.tree.leaves(load_network(denoiser)[1])
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(wanted, first, strict=True))


def test_the_generator_is_exported_and_waits_for_the_critic(networks, tmp_path):
    prior, denoiser = networks
    run = config(OneStepTask(NETWORK, denoiser, prior, families.Identity()), tmp_path / "run", 2)
    generator = train(dataclasses.replace(run, optimizer=OptimizerConfig(1e-2, warmup_steps=5)))
    for one, other in zip(
        jax.tree.leaves(load_network(str(generator))[1]),
        jax.tree.leaves(load_network(denoiser)[1]),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)  # The average rounds.


def test_a_network_with_a_pivot_has_gradients(networks, tmp_path, perturb):
    """They go through the inverse of the operator, twice."""
    pivot = dataclasses.replace(NETWORK, pivot=True)
    blur = families.MotionBlur(size=3, intensity=0.5)
    denoiser = untrained(tmp_path / "denoiser", SupervisedTask(pivot, blur), perturb)
    train(config(OneStepTask(pivot, denoiser, networks[0], blur), tmp_path / "run", 3))
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    norms = [float(row.split(",")[2]) for row in rows if "gradient_norm" in row]
    assert norms and all(0 < norm < np.inf for norm in norms)


def test_classes_are_refused():
    backbone = dataclasses.replace(NETWORK.backbone, num_classes=3)
    with pytest.raises(UserError, match="num_classes: got 3; use 0"):
        OneStepTask(SupervisedNetworkConfig(backbone), "denoiser", "prior", families.Identity())
