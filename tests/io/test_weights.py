"""Exported weights: exact round trips, and errors that name what is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from saved_network import assert_same, net_weights

from lavps_jax.errors import UserError
from lavps_jax.io.weights import WEIGHTS, export_weights, load_weights, read_card


def test_export_round_trip_is_exact_and_the_card_is_kept(tmp_path):
    card = {"config": {"width": 4}, "data": "synthetic"}
    export_weights(tmp_path / "net", net_weights(3), card)
    assert_same(load_weights(tmp_path / "net", net_weights(0)), net_weights(3))
    assert_same(load_weights(tmp_path / "net", jax.eval_shape(net_weights)), net_weights(3))
    found = read_card(tmp_path / "net")
    assert found["config"] == {"width": 4} and found["data"] == "synthetic"
    assert found["weights"]["num_parameters"] == 11 * (16 + 4) + 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]


def test_export_in_half_precision_comes_back_as_float32(tmp_path):
    export_weights(tmp_path / "net", net_weights(3), {}, dtype="float16")
    found = load_weights(tmp_path / "net", net_weights(0))
    assert read_card(tmp_path / "net")["weights"]["dtype"] == "float16"
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(net_weights(3)), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(new, np.asarray(old).astype(np.float16).astype(old.dtype))
    big = {"a": {"kernel": jnp.array([1e5])}}
    with pytest.raises(UserError, match="a.kernel: .*not finite as float16"):
        export_weights(tmp_path / "big", big, {}, dtype="float16")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]


def test_files_know_nothing_of_flax(tmp_path):
    """Plain names: an nnx.State and the dict of its arrays give the same export."""
    export_weights(tmp_path / "state", net_weights(3), {})
    export_weights(tmp_path / "dict", nnx.to_pure_dict(net_weights(3)), {})
    assert read_card(tmp_path / "state") == read_card(tmp_path / "dict")
    assert_same(load_weights(tmp_path / "dict", net_weights(0)), net_weights(3))
    arrays = load_file(tmp_path / "state" / WEIGHTS)
    kernel = np.asarray(net_weights(3)["layers"][10]["kernel"][...])
    np.testing.assert_array_equal(arrays["layers.10.kernel"], kernel)


def test_arrays_of_every_kind_and_layout(tmp_path):
    """safetensors writes memory as it lies: one that is transposed has to be copied before."""
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    tree = {
        "transposed": x.T,
        "strided": x[::2, ::-1],
        "bfloat16": jnp.asarray(x, jnp.bfloat16),
        "count": jnp.int32(-3),
        "mask": x > 0,
        "none": x[:0],
        "swapped": x.astype(">f4"),
    }
    export_weights(tmp_path / "net", tree, {})
    found = load_weights(tmp_path / "net", tree)
    for name, array in tree.items():
        wanted = np.asarray(array)
        kind = np.float32 if jnp.issubdtype(wanted.dtype, jnp.floating) else wanted.dtype
        assert found[name].dtype == kind
        np.testing.assert_array_equal(found[name], wanted.astype(kind))


def test_the_card_has_the_sha256_of_the_file_which_others_may_read_as_well(tmp_path):
    export_weights(tmp_path / "net", net_weights(3), {})
    file, card = tmp_path / "net" / WEIGHTS, tmp_path / "net" / "card.json"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_card(tmp_path / "net")["weights"]["sha256"] == expected
    assert file.stat().st_mode == card.stat().st_mode


def test_loading_does_not_need_orbax():
    program = (
        "import sys; from lavps_jax.runs.loading import load_network; "
        "load_network('pretrained/fashion_mnist/prior'); "
        "sys.exit(any(name.startswith('orbax') for name in sys.modules))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root).returncode == 0


def test_exchanged_weights_are_noticed(tmp_path):
    for seed in (1, 2):
        export_weights(tmp_path / str(seed), net_weights(seed), {})
    (tmp_path / "1" / "card.json").write_text((tmp_path / "2" / "card.json").read_text())
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_weights(tmp_path / "1", net_weights())


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "longer", "empty"])
def test_damaged_files_are_noticed(tmp_path, damage):
    export_weights(tmp_path / "net", net_weights(1), {})
    file = tmp_path / "net" / WEIGHTS
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle] ^= damage == "a flipped bit"
    ends = {"cut short": content[:middle], "longer": content + b"0", "empty": b""}
    file.write_bytes(ends.get(damage, content))
    with pytest.raises(UserError, match="net, whose SHA-256 differs from its card; get the"):
        load_weights(tmp_path / "net", net_weights())


def test_files_of_another_kind_are_noticed_though_their_sums_are_right(tmp_path):
    export_weights(tmp_path / "net", net_weights(1), {})
    (tmp_path / "net" / WEIGHTS).write_bytes(b"PK no safetensors at all")
    card = json.loads((tmp_path / "net" / "card.json").read_text())
    digest = hashlib.sha256((tmp_path / "net" / WEIGHTS).read_bytes()).hexdigest()
    card["weights"]["sha256"] = digest
    (tmp_path / "net" / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="weights: got .*net; get the weights again"):
        load_weights(tmp_path / "net", net_weights())
    (tmp_path / "net" / "card.json").write_text("{")
    with pytest.raises(UserError, match="card.json.*damaged"):
        read_card(tmp_path / "net")


def test_missing_weights_name_the_path_and_those_nearby(tmp_path):
    with pytest.raises(UserError, match="nets/none.*train and export"):
        load_weights(tmp_path / "nets" / "none", net_weights())
    export_weights(tmp_path / "nets" / "other", net_weights(), {})
    with pytest.raises(UserError, match="nets/none.*give one of.*nets/other"):
        load_weights(tmp_path / "nets" / "none", net_weights())
    with pytest.raises(UserError, match="give one of .*nets/other$"):
        load_weights(tmp_path / "nets" / "other" / WEIGHTS, net_weights())
    with pytest.raises(UserError, match="give one of .*nets/other$"):
        load_weights(tmp_path, net_weights())
    # A card alone is not offered as the place to look for what it lacks.
    (tmp_path / "nets" / "other" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="nets/other, where no.*train and export"):
        load_weights(tmp_path / "nets" / "other", net_weights())


def test_weights_of_another_network_name_the_first_bad_leaf(tmp_path):
    export_weights(tmp_path / "net", net_weights(), {})
    message = r"layers\.0\.bias of shape \(4,\), wanted \(5,\)"
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "net", net_weights(width=5))
    with pytest.raises(UserError, match="without the array a.b;"):
        load_weights(tmp_path / "net", {"a": {"b": jnp.ones(3)}})
    with pytest.raises(UserError, match="unexpected array steps;"):
        load_weights(tmp_path / "net", {"layers": net_weights()["layers"]})


def test_export_does_not_overwrite_unless_asked(tmp_path):
    export_weights(tmp_path / "net", net_weights(1), {"a": 1})
    with pytest.raises(UserError, match="set overwrite"):
        export_weights(tmp_path / "net", net_weights(2), {})
    assert_same(load_weights(tmp_path / "net", net_weights()), net_weights(1))
    export_weights(tmp_path / "net", net_weights(2), {}, overwrite=True)
    assert_same(load_weights(tmp_path / "net", net_weights()), net_weights(2))
    assert "a" not in json.loads((tmp_path / "net" / "card.json").read_text())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]
    with pytest.raises(ValueError, match="'weights' is filled in"):
        export_weights(tmp_path / "other", net_weights(), {"weights": 1})
