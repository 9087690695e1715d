"""Checkpoints: exact round trips, and errors that name what is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lavps_jax.errors import UserError
from lavps_jax.io.checkpoints import TrainingCheckpoints
from lavps_jax.io.weights import export_weights, load_weights, read_card


class Net(nnx.Module):
    """More than ten layers: as strings their numbers would sort differently."""

    def __init__(self, seed: int, width: int = 4):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(11)])
        self.steps = nnx.Param(jnp.array(7, jnp.int32))


class State(NamedTuple):
    params: dict
    optimizer: optax.OptState
    step: jax.Array


def _weights(seed: int = 0, width: int = 4) -> nnx.State:
    return nnx.split(Net(seed, width))[1]


def _state(seed: int = 0, step: int = 0) -> State:
    weights = nnx.split(Net(seed), nnx.Param)[1]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    moments = jax.tree.map(lambda leaf: leaf + seed + 1, optimizer.init(weights))
    return State({"theta": weights, "phi": {}}, moments, jnp.array(step, jnp.int32))


def _assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


# ---- Training ----


def test_training_state_round_trip(tmp_path):
    with TrainingCheckpoints(tmp_path / "run", keep_last=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 5, 9):
            checkpoints.save(step, _state(seed=step, step=step))
    with TrainingCheckpoints(tmp_path / "run", keep_last=2) as checkpoints:
        assert checkpoints.latest_step() == 9
        _assert_same(checkpoints.restore(_state()), _state(9, 9))
        abstract = jax.eval_shape(_state)
        _assert_same(checkpoints.restore(abstract, step=5), _state(5, 5))
        with pytest.raises(UserError, match=r"without step 1; give one of the steps \[5, 9\]"):
            checkpoints.restore(abstract, step=1)


def test_saving_twice_is_allowed_but_an_older_step_is_not(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(3, _state(3))
        checkpoints.save(3, _state(4))
        _assert_same(checkpoints.restore(_state()), _state(3))
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
        _assert_same(checkpoints.restore(_state()), _state(1))


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


# ---- Exported weights ----


def test_export_round_trip_is_exact_and_the_card_is_kept(tmp_path):
    card = {"config": {"width": 4}, "data": "synthetic"}
    export_weights(tmp_path / "net", _weights(3), card)
    _assert_same(load_weights(tmp_path / "net", _weights(0)), _weights(3))
    _assert_same(load_weights(tmp_path / "net", jax.eval_shape(_weights)), _weights(3))
    found = read_card(tmp_path / "net")
    assert found["config"] == {"width": 4} and found["data"] == "synthetic"
    assert found["weights"]["num_parameters"] == 11 * (16 + 4) + 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]


def test_export_in_half_precision_comes_back_as_float32(tmp_path):
    export_weights(tmp_path / "net", _weights(3), {}, dtype="float16")
    found = load_weights(tmp_path / "net", _weights(0))
    assert read_card(tmp_path / "net")["weights"]["dtype"] == "float16"
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(_weights(3)), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new, np.asarray(old).astype(np.float16).astype(old.dtype))
    big = {"a": {"kernel": jnp.array([1e5])}}
    with pytest.raises(UserError, match="a/kernel.*not finite as float16"):
        export_weights(tmp_path / "big", big, {}, dtype="float16")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]


def test_files_know_nothing_of_flax(tmp_path):
    """Plain names: an nnx.State and the dict of its arrays give the same export."""
    export_weights(tmp_path / "state", _weights(3), {})
    export_weights(tmp_path / "dict", nnx.to_pure_dict(_weights(3)), {})
    assert read_card(tmp_path / "state") == read_card(tmp_path / "dict")
    _assert_same(load_weights(tmp_path / "dict", _weights(0)), _weights(3))
    arrays = ocp.StandardCheckpointer().restore(tmp_path / "state" / "weights")
    kernel = np.asarray(_weights(3)["layers"][10]["kernel"][...])
    np.testing.assert_array_equal(arrays["layers/10/kernel"], kernel)


def test_sha256_is_what_the_documentation_says(tmp_path):
    a, b = np.array([[1.5, -2.0]], np.float32), np.array(3, np.int32)
    export_weights(tmp_path / "net", {"b": jnp.asarray(b), "a": jnp.asarray(a)}, {})
    expected = hashlib.sha256(
        b"a float32 [1, 2]\n" + a.tobytes() + b"b int32 []\n" + b.tobytes()
    ).hexdigest()
    assert read_card(tmp_path / "net")["weights"]["sha256"] == expected


def test_exchanged_weights_are_noticed(tmp_path):
    for seed in (1, 2):
        export_weights(tmp_path / str(seed), _weights(seed), {})
    (tmp_path / "1" / "card.json").write_text((tmp_path / "2" / "card.json").read_text())
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_weights(tmp_path / "1", _weights())


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_noticed(tmp_path):
    export_weights(tmp_path / "net", _weights(1, 64), {})
    largest = max((tmp_path / "net").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_weights(tmp_path / "net", _weights(0, 64))
    (tmp_path / "net" / "card.json").write_text("{")
    with pytest.raises(UserError, match="card.json.*damaged"):
        read_card(tmp_path / "net")


def test_missing_weights_name_the_path_and_those_nearby(tmp_path):
    with pytest.raises(UserError, match="nets/none.*train and export"):
        load_weights(tmp_path / "nets" / "none", _weights())
    export_weights(tmp_path / "nets" / "other", _weights(), {})
    with pytest.raises(UserError, match="nets/none.*give one of.*nets/other"):
        load_weights(tmp_path / "nets" / "none", _weights())
    with pytest.raises(UserError, match="give one of .*nets/other$"):
        load_weights(tmp_path / "nets" / "other" / "weights", _weights())
    with pytest.raises(UserError, match="give one of .*nets/other$"):
        load_weights(tmp_path, _weights())
    # A card alone is not offered as the place to look for what it lacks.
    shutil.rmtree(tmp_path / "nets" / "other" / "weights")
    with pytest.raises(UserError, match="nets/other, where no.*train and export"):
        load_weights(tmp_path / "nets" / "other", _weights())


def test_weights_of_another_network_name_the_first_bad_leaf(tmp_path):
    export_weights(tmp_path / "net", _weights(), {})
    message = r"layers/0/bias of shape \(4,\), wanted \(5,\)"
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "net", _weights(width=5))


def test_export_does_not_overwrite_unless_asked(tmp_path):
    export_weights(tmp_path / "net", _weights(1), {"a": 1})
    with pytest.raises(UserError, match="set overwrite"):
        export_weights(tmp_path / "net", _weights(2), {})
    _assert_same(load_weights(tmp_path / "net", _weights()), _weights(1))
    export_weights(tmp_path / "net", _weights(2), {}, overwrite=True)
    _assert_same(load_weights(tmp_path / "net", _weights()), _weights(2))
    assert "a" not in json.loads((tmp_path / "net" / "card.json").read_text())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]
    with pytest.raises(ValueError, match="'weights' is filled in"):
        export_weights(tmp_path / "other", _weights(), {"weights": 1})
