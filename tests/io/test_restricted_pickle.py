"""The restricted unpickler: arrays come through, nothing else is ever called."""

import codecs
import collections
import os
import pickle
from typing import Any

import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.io.restricted_pickle import load_arrays

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def store(tmp_path):
    def write(content, protocol=4):
        path = tmp_path / "file.pkl"
        raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
        path.write_bytes(raw)
        return path

    return write


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_come_through(store, protocol):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
    content: dict[str, Any] = collections.OrderedDict(
        layer={"kernel": kernel, "bias": np.asfortranarray(kernel[0])},
        view=kernel.T[::2],
        empty=np.zeros((0, 3)),
        count=np.asarray(3),
        scalar=np.float64(0.1),
        half=np.asarray([1.5], dtype=np.float16),
        big_endian=np.asarray([1, 2], dtype=">i4"),
        label=np.asarray(["a", "bc"]),
        others=[None, True, 1, 2.5, "text", b"\x00\xff", (1, 2)],
    )
    loaded = load_arrays(store(content, protocol))
    assert list(loaded) == list(content)
    assert loaded["others"] == content["others"]
    assert type(loaded["scalar"]) is np.float64
    for name in ("view", "empty", "count", "scalar", "half", "big_endian", "label"):
        # NumPy may give values back in the machine's byte order.
        assert loaded[name].dtype.newbyteorder("=") == content[name].dtype.newbyteorder("="), name
        np.testing.assert_array_equal(loaded[name], content[name])
    for name, value in content["layer"].items():
        np.testing.assert_array_equal(loaded["layer"][name], value)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_both_names_of_numpys_module(store, module):
    raw = pickle.dumps(np.arange(5.0), 2)
    assert b"numpy._core.multiarray\n" in raw
    loaded = load_arrays(store(raw.replace(b"numpy._core.multiarray", module)))
    np.testing.assert_array_equal(loaded, np.arange(5.0))


class Calls:
    """Pickles as the call function(*args)."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_command_runs(store, tmp_path, protocol):
    trace = tmp_path / "ran"
    path = store({"weights": np.zeros(2), "evil": Calls(os.system, f"touch {trace}")}, protocol)
    with pytest.raises(UserError, match=r"(posix|nt)\.system"):
        load_arrays(path)
    assert not trace.exists()
    with open(path, "rb") as file:  # the file is a working attack
        pickle.load(file)
    assert trace.exists()


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (eval, ("1",), "eval"),
        (getattr, (np.zeros(1), "tofile"), "getattr"),
        (np.load, ("file.npy",), "load"),
        (np.memmap, ("file",), "memmap"),
        (pickle.loads, (b"N.",), "loads"),
        (codecs.lookup, ("zip",), "lookup"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_functions_are_refused_by_name(store, function, args, name, protocol):
    with pytest.raises(UserError, match=name):
        load_arrays(store(Calls(function, *args), protocol))


def test_dotted_names_do_not_reach_attributes(store):
    raw = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(UserError, match=r"numpy\.ndarray\.tofile"):
        load_arrays(store(raw))


def test_objects_inside_arrays_are_refused(store, tmp_path):
    trace = tmp_path / "ran"
    with pytest.raises(UserError, match="system"):
        load_arrays(store(np.asarray([Calls(os.system, f"touch {trace}")], dtype=object)))
    assert not trace.exists()
    with pytest.raises(UserError, match="Python objects"):
        load_arrays(store({"a": [np.asarray([1, "b"], dtype=object)]}))


@pytest.mark.parametrize("content", [np.ndarray, {"a": np.dtype}, [np.dtype("f4")], {1, 2}])
def test_only_data_is_returned(store, content):
    with pytest.raises(UserError):
        load_arrays(store(content))


def test_only_latin1_is_decoded(store):
    with pytest.raises(UserError, match="damaged"):
        load_arrays(store(Calls(codecs.encode, "text", "rot13"), 2))


def test_damaged_files(store, tmp_path):
    raw = pickle.dumps({"a": np.arange(100.0)}, 4)
    for damaged in (b"", raw[:60], raw[:-1], b"no pickle", raw.replace(b"ndarray", b"ndarraz")):
        with pytest.raises(UserError, match=r"file\.pkl"):
            load_arrays(store(damaged))
    with pytest.raises(UserError, match="readable"):
        load_arrays(tmp_path / "missing.pkl")
