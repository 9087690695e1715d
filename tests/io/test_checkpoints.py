"""Checkpoints: exact round trips, and errors that name what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from saved_network import Net, assert_same

from lavps_jax.errors import UserError
from lavps_jax.io.checkpoints import TrainingCheckpoints


class State(NamedTuple):
    weights: dict
    optimizer: optax.OptState
    step: jax.Array


def _state(seed: int = 0, step: int = 0) -> State:
    weights = nnx.split(Net(seed), nnx.Param)[1]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    moments = jax.tree.map(lambda leaf: leaf + seed + 1, optimizer.init(weights))
    return State({"net": weights, "empty": {}}, moments, jnp.array(step, jnp.int32))


def test_training_state_round_trip(tmp_path):
    with TrainingCheckpoints(tmp_path / "run", keep_last=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 5, 9):
            checkpoints.save(step, _state(seed=step, step=step))
    with TrainingCheckpoints(tmp_path / "run", keep_last=2) as checkpoints:
        assert checkpoints.latest_step() == 9
        assert_same(checkpoints.restore(_state()), _state(9, 9))
        abstract = jax.eval_shape(_state)
        assert_same(checkpoints.restore(abstract, step=5), _state(5, 5))
        with pytest.raises(UserError, match=r"without step 1; give one of the steps \[5, 9\]"):
            checkpoints.restore(abstract, step=1)


def test_saving_twice_is_allowed_but_an_older_step_is_not(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, _state(3))
        checkpoints.save(3, _state(4))
        assert_same(checkpoints.restore(_state()), _state(3))
        with pytest.raises(UserError, match="checkpoint of step 3, saving step 2"):
            checkpoints.save(2, _state(2))
        assert checkpoints.latest_step() == 3


def test_buffers_may_be_donated_after_save(tmp_path):
    change = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    value = jnp.arange(2**20, dtype=jnp.float32)
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": value})
        jax.block_until_ready(change(value))
        found = checkpoints.restore({"x": jax.ShapeDtypeStruct((2**20,), jnp.float32)})
    np.testing.assert_array_equal(found["x"], np.arange(2**20))


def test_saved_on_several_devices_restored_on_one_and_back(tmp_path):
    devices = jax.devices()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:2])
    spread = NamedSharding(mesh, PartitionSpec("data"))
    value = jnp.arange(8.0)
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jax.device_put(value, spread)})
        single = checkpoints.restore({"x": jnp.zeros(8)})["x"]
        shape = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=spread)
        double = checkpoints.restore({"x": shape})["x"]
    assert single.devices() == {devices[0]} and double.sharding == spread
    np.testing.assert_array_equal(single, value)
    np.testing.assert_array_equal(double, value)


def test_a_killed_run_leaves_a_complete_checkpoint(tmp_path):
    """The process dies while the second checkpoint, 160 MB, is being written."""
    code = """
import os, sys
import jax.numpy as jnp
from lavps_jax.io.checkpoints import TrainingCheckpoints
checkpoints = TrainingCheckpoints(sys.argv[1])
for step in (1, 2):
    state = {"step": jnp.array(step), "x": jnp.full((step * 4000, step * 2500), step * 1.0)}
    checkpoints.save(step, state)
    if step == 1:
        checkpoints._manager.wait_until_finished()
os._exit(0)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)
    with TrainingCheckpoints(tmp_path) as checkpoints:
        step = checkpoints.latest_step()
        assert step in (1, 2)
        shape = (step * 4000, step * 2500)
        found = checkpoints.restore({"step": jnp.array(0), "x": jax.ShapeDtypeStruct(shape, float)})
    assert found["step"] == step and (found["x"] == step).all()


def test_an_incomplete_checkpoint_is_not_seen(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(1))
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with TrainingCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert_same(checkpoints.restore(_state()), _state(1))


def test_restoring_another_state_names_the_first_bad_leaf(tmp_path):
    with TrainingCheckpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(UserError, match="run without a checkpoint; give the directory"):
            checkpoints.restore({})
        checkpoints.save(1, {"a": jnp.ones(3), "b": {"c": jnp.ones(2)}})
        with pytest.raises(UserError, match=r"b/c of shape \(2,\), wanted \(4,\)"):
            checkpoints.restore({"a": jnp.ones(3), "b": {"c": jnp.ones(4)}})
        with pytest.raises(UserError, match="without the array d"):
            checkpoints.restore({"a": jnp.ones(3), "b": {"c": jnp.ones(2)}, "d": jnp.ones(1)})
        with pytest.raises(UserError, match="unexpected array b/c"):
            checkpoints.restore({"a": jnp.ones(3)})
    with pytest.raises(UserError, match="keep_last"):
        TrainingCheckpoints(tmp_path, keep_last=0)
