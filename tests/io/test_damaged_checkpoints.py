"""Whatever happens to the newest checkpoint, training goes on from one that is what was saved."""

from __future__ import annotations

import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lavps_jax.errors import UserError
from lavps_jax.io.checkpoints import TrainingCheckpoints
from lavps_jax.io.checksums import checksums


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder with checkpoints 1 and 2, the state of each)."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    values = np.random.default_rng(0).standard_normal((2, 300, 40)).astype(np.float32)
    states = [{"x": jnp.asarray(x), "k": jnp.arange(9) == 2, "step": jnp.int32(4)} for x in values]
    with TrainingCheckpoints(folder) as checkpoints:
        for step, state in enumerate(states, start=1):
            checkpoints.save(step, state)
    return folder, states


@pytest.mark.parametrize("damage", ["a flipped bit", "a file cut short"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(run, tmp_path, damage):
    """In twenty places, evenly over the bytes of the newest one."""
    whole, states = run
    files = sorted(file for file in (whole / "2").rglob("*") if file.is_file())
    ends = np.cumsum([file.stat().st_size for file in files])
    assert ends[-1] > 44_000  # The numbers do not compress.
    noticed = 0
    for place in np.random.default_rng(1).integers(0, ends[-1], 20):
        replicated = tmp_path / str(place)
        shutil.copytree(whole, replicated)
        index = int(np.searchsorted(ends, place, side="right"))
        file = replicated / files[index].relative_to(whole)
        at = int(place - ends[index]) + file.stat().st_size
        content = bytearray(file.read_bytes())
        content[at] ^= 1 << (at % 8)
        file.write_bytes(content if damage == "a flipped bit" else content[:at])
        with (
            TrainingCheckpoints(replicated) as checkpoints,
            warnings.catch_warnings(record=True) as w,
        ):
            warnings.simplefilter("always", UserWarning)
            found = checkpoints.restore(states[0])
            damaged = (replicated / "damaged-2").exists()
            noticed += damaged
            # Damage to bytes that nobody reads is none; what is read is never wrong.
            assert_same(found, states[0 if damaged else 1])
            if damaged:
                assert any("damaged checkpoint, now" in str(one.message) for one in w)
                checkpoints.save(2, states[1])
                assert checkpoints.latest_step() == 2
                assert_same(checkpoints.restore(states[0]), states[1])
    assert noticed >= 15


def test_a_bit_that_the_files_hide_is_seen(run, tmp_path, monkeypatch):
    """Orbax gives another number than was saved, without an error of its own."""
    whole, states = run
    shutil.copytree(whole, tmp_path / "run")
    with TrainingCheckpoints(tmp_path / "run") as checkpoints:
        restore = checkpoints._manager.restore

        def flipped(step, args):
            found = restore(step, args=args)
            found.state["x"] = found.state["x"].at[7, 3].multiply(1 + 2.0**-23)
            return found

        monkeypatch.setattr(checkpoints._manager, "restore", flipped)
        with pytest.raises(UserError, match=r"checkpoint: got .*2 \(the array x\); delete"):
            checkpoints.restore(states[0], step=2)
        with pytest.warns(UserWarning), pytest.raises(UserError, match="start in a new directory"):
            checkpoints.restore(states[0])


def test_another_state_is_no_damage(tmp_path):
    with TrainingCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.save(2, {"x": jnp.ones(4)})
        with pytest.raises(UserError, match=r"x of shape \(4,\), wanted \(3,\)"):
            checkpoints.restore({"x": jnp.ones(3)})
        assert checkpoints.latest_step() == 2


def test_checksums_in_their_order_from_the_definition():
    arrays = {"b": np.array([3, 5], np.uint32), "a": np.array([[7], [2**32 - 1]], np.uint32)}
    assert list(checksums(arrays)) == [(7 + 3 * (2**32 - 1)) % 2**32, 3 + 3 * 5]
    key = jax.random.key(3)
    assert checksums({"k": key}) == checksums({"k": jax.random.key_data(key)})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int32", "uint8", "bool"])
def test_checksums_see_every_bit_and_no_sharding(dtype):
    x = jax.random.normal(jax.random.key(0), (8, 3)) * 9
    x = (x + 1j * x[::-1] if dtype == "complex64" else x).astype(dtype)
    (one,) = checksums({"x": x})
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert checksums({"x": spread}) == one
    raw, bits = np.asarray(x).view(np.uint8), 1 if dtype == "bool" else 8
    for place in np.random.default_rng(0).integers(0, raw.size * bits, 20):
        other = raw.copy()
        other.reshape(-1)[place // bits] ^= 1 << (place % bits)
        assert checksums({"x": other.view(x.dtype)}) != one
