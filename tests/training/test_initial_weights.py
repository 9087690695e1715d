"""Training that begins with given weights."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from lavps_jax.config.settings import PriorTask, PublishedPrior, TrainConfig, to_json
from lavps_jax.config.tasks import OneStepTask
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.errors import UserError
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import LocalUNetConfig, SupervisedNetworkConfig, split
from lavps_jax.operators import families
from lavps_jax.runs.build_training import build_trainee

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
    with pytest.raises(UserError, match="initial_weights.*same task and network"):
        build_trainee(config(tmp_path / "weights"), (8, 8, 1))


def test_those_of_another_parameterisation_are_refused(tmp_path):
    export(tmp_path / "weights", PriorTask(NETWORK, parameterisation=VP()))
    with pytest.raises(UserError, match="initial_weights.*EDM"):
        build_trainee(config(tmp_path / "weights"), (8, 8, 1))


def test_a_one_step_task_names_its_own(tmp_path):
    task = OneStepTask(SupervisedNetworkConfig(NETWORK), "x", "y", families.Identity())
    with pytest.raises(UserError, match="initial_weights.*task.denoiser"):
        build_trainee(config(tmp_path, task=task), (8, 8, 1))
