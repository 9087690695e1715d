"""Tensors of other libraries' files: read as they are, or refused in one line."""

from __future__ import annotations

import json
import pickle
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from lavps_jax.errors import UserError
from lavps_jax.io.foreign_files import read_tensors

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": RANDOM.standard_normal((4, 3, 2, 2), np.float32),
    "norm.scale": RANDOM.standard_normal(5).astype(np.float16),
    "proj.weight": RANDOM.standard_normal((3, 2), np.float32).astype(jnp.bfloat16),
    "steps": np.arange(3),
}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name].astype(array.dtype))
        assert array.dtype == (np.float32 if wanted[name].dtype == jnp.bfloat16 else
                               wanted[name].dtype)  # fmt: skip


def test_every_number_of_a_safetensors_file_is_read(tmp_path):
    save_file(ARRAYS, tmp_path / "net.safetensors")
    same(read_tensors(tmp_path / "net.safetensors"), ARRAYS)


def test_an_index_puts_several_files_together(tmp_path):
    names, parts = list(ARRAYS), ["a-1-of-2.safetensors", "a-2-of-2.safetensors"]
    for k, part in enumerate(parts):
        save_file({name: ARRAYS[name] for name in names[2 * k : 2 * k + 2]}, tmp_path / part)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: parts[i // 2] for i, n in enumerate(names)}}))
    same(read_tensors(index), ARRAYS)
    (tmp_path / parts[1]).unlink()
    with pytest.raises(UserError, match="^checkpoint: got .* without a-2-of-2.safetensors; get"):
        read_tensors(index)
    index.write_text("{}")
    with pytest.raises(UserError, match='^checkpoint: got .*; give an index with a "weight_map"'):
        read_tensors(index)


@pytest.mark.parametrize("length", [-3, 40, 4, 0])
def test_a_file_that_ends_early_is_refused(tmp_path, length):
    path = tmp_path / "net.safetensors"
    save_file(ARRAYS, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="^checkpoint: got .*; get the file again, safetensors"):
        read_tensors(path)


def test_quantised_numbers_are_refused(tmp_path):
    save_file({"w": np.zeros(3, jnp.float8_e4m3fn)}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="^checkpoint: got .*, w of F8_E4M3; give weights that"):
        read_tensors(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "content,words",
    [
        (b"", "which is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "text (version https://git-lfs.githu"),
        (b"<!DOCTYPE html>\n<html>", "text (<!DOCTYPE html> <html>); get the file itself"),
        (bytes(range(128, 256)) + b"\0", "no zip file; get the file again, or save"),
        (b"\x80\x02cnothing", "no zip file; get the file again, or save it with PyTorch 1.6"),
    ],
)
def test_what_is_no_checkpoint_is_told_without_pytorch(content, words, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(words)):
        read_tensors(tmp_path / "net.pt")


def test_what_pytorch_saves(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra convert")
    tensors = {name: torch.tensor(array.astype(np.float32)) for name, array in ARRAYS.items()}
    for name, content in (("plain.pt", tensors), ("ema.bin", {"ema": tensors, "step": 3})):
        torch.save(content, tmp_path / name)
        same(read_tensors(tmp_path / name), {n: t.numpy() for n, t in tensors.items()})
    torch.save({"model": tensors, "optimizer": {}, "step": 3}, tmp_path / "all.pt")
    with pytest.raises(UserError, match="^checkpoint: .* which holds model, optimizer, step; save"):
        read_tensors(tmp_path / "all.pt")
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": 1}))
    with pytest.raises(UserError, match="^checkpoint: .*; do not use it: .* as a state dict"):
        read_tensors(tmp_path / "edm.pkl")
