"""Training that begins with given weights."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from lavps_jax.config.settings import (
    PriorTask,
    PublishedPrior,
    TrainConfig,
    load_preset,
    to_json,
)
from lavps_jax.config.tasks import OneStepTask
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.errors import UserError
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import LocalUNetConfig, SupervisedNetworkConfig, split
from lavps_jax.operators import families
from lavps_jax.runs import training
from lavps_jax.runs.build_training import build_trainee
from lavps_jax.runs.loading import load_network
from lavps_jax.runs.training import run_training

NETWORK = LocalUNetConfig(1, 1, block_channels=(4,), noise_features=4)
IMAGES = SyntheticData(4, (8, 8, 1))


def config(folder, **changes) -> TrainConfig:
    base = TrainConfig(PriorTask(NETWORK), IMAGES, IMAGES, "runs/x", initial_weights=str(folder))
    return dataclasses.replace(base, **changes)


def export(folder, task: PriorTask) -> nnx.State:
    _, weights = split(task.network.build(nnx.Rngs(5)))
    export_weights(folder, weights, {"config": to_json(PublishedPrior(task))})
    return weights


def test_they_are_those_of_the_export(tmp_path):
    weights = export(tmp_path / "weights", PriorTask(NETWORK))
    found = build_trainee(config(tmp_path / "weights"), (8, 8, 1)).weights
    assert jax.tree.structure(found) == jax.tree.structure(weights)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(weights), strict=True):
        np.testing.assert_array_equal(new, old)
    fresh = build_trainee(config(tmp_path, initial_weights=None), (8, 8, 1)).weights
    assert not np.array_equal(*(w["conv_in"]["kernel"][...] for w in (found, fresh)))


def test_those_of_another_network_are_refused(tmp_path):
    wider = dataclasses.replace(NETWORK, block_channels=(6,))
    export(tmp_path / "weights", PriorTask(wider))
    with pytest.raises(
        UserError, match="weights, of block_channels=.6,.; give .*same task and net"
    ):
        build_trainee(config(tmp_path / "weights"), (8, 8, 1))
    other = config("fashion_mnist/inpainting")
    with pytest.raises(
        UserError, match="inpainting, of AmortizedTask; give .*same task and network"
    ):
        build_trainee(other, (8, 8, 1))


def test_those_of_another_parameterisation_are_refused(tmp_path):
    export(tmp_path / "weights", PriorTask(NETWORK, parameterisation=VP()))
    with pytest.raises(UserError, match="initial_weights.*EDM"):
        build_trainee(config(tmp_path / "weights"), (8, 8, 1))


def test_a_one_step_task_names_its_own(tmp_path):
    task = OneStepTask(SupervisedNetworkConfig(NETWORK), "x", "y", families.Identity())
    with pytest.raises(UserError, match="initial_weights.*task.denoiser"):
        build_trainee(config(tmp_path, task=task), (8, 8, 1))


def test_shipped_ones_are_given_by_name():
    task = load_preset("configs/fashion_mnist_prior.py").task
    named = config("fashion_mnist/prior", task=task)
    with pytest.raises(UserError, match="initial_weights.*same task and network"):
        build_trainee(dataclasses.replace(named, task=PriorTask(NETWORK)), (32, 32, 1))
    found = build_trainee(named, (32, 32, 1)).weights
    given = load_network("pretrained/fashion_mnist/prior")[1]
    np.testing.assert_array_equal(jax.tree.leaves(found)[0], jax.tree.leaves(given)[0])


def test_a_run_that_goes_on_does_not_read_them_again(tmp_path, monkeypatch):
    run = config("gone", run_dir=str(tmp_path / "run"), batch_size=1)
    with pytest.raises(
        UserError, match="^initial_weights: got gone, where no exported weights are"
    ):
        run_training(run, devices=jax.devices()[:1])
    (tmp_path / "run" / "checkpoints" / "3" / "state").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "3" / "_CHECKPOINT_METADATA").write_text("{}")

    def build(config, image_shape):
        raise InterruptedError(f"begins with {config.initial_weights}")

    monkeypatch.setattr(training, "build_trainee", build)
    with pytest.raises(InterruptedError, match="begins with None"):
        run_training(run, devices=jax.devices()[:1])
