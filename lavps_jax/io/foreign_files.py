"""Tensors in the files that other libraries write: PyTorch's and safetensors, whole or in parts.

Only tensors are read: a file that asks for anything to be run is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from lavps_jax.errors import UserError, first_words

_CHUNK = 1 << 20
_SUM = re.compile(r"([0-9a-fA-F]{64})\s+\*?(.+)")
_CODE = "do not use it: it holds more than tensors, which could be code"
_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip
"""Of safetensors: numbers that networks are made of."""

Tensors = dict[str, np.ndarray]
Digest: TypeAlias = "hashlib._Hash"


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file by name, as arrays: averaged weights, if there are several kinds.

    The arrays are views of the mapped file: they are valid as long as it is there.

    Args:
      path: a .safetensors file, an index of several (.safetensors.index.json), or what PyTorch
        saved.

    Raises:
      UserError: if it is none of these, is damaged, or holds anything but tensors.
    """
    if path.name.endswith(".index.json"):
        return _read_index(path)
    return (_read_safetensors if path.suffix == ".safetensors" else _read_pytorch)(path)


def _read_index(path: Path) -> Tensors:
    try:
        files = json.loads(path.read_text())["weight_map"].values()
        names = dict.fromkeys(str(name) for name in files)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError("checkpoint", path, 'give an index with a "weight_map"') from error
    if any(Path(name).name != name or name.endswith(".json") for name in names):
        raise UserError("checkpoint", path, "give an index of files that lie beside it")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise UserError("checkpoint", f"{path} without {', '.join(missing)}", "get all parts")
    sums = _listed_sums(path.parent / "SHA256SUMS")
    for name in names:
        if name in sums:
            with (path.parent / name).open("rb") as file:
                _compare(name, hashlib.file_digest(file, "sha256"), sums)
    return {k: v for name in names for k, v in read_tensors(path.parent / name).items()}


def _read_safetensors(path: Path) -> Tensors:
    try:
        with safe_open(path, "np"):  # Checks the header, and that the file is as long as it says.
            pass
    except SafetensorError as error:
        remedy = f"get the file again, safetensors says: {first_words(error)}"
        raise UserError("checkpoint", path, remedy) from error
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    content = np.memmap(path, np.uint8, "r", offset=8 + size)
    tensors = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        if facts["dtype"] not in _DTYPES:
            found = f"{path}, {name} of {facts['dtype']}"
            raise UserError("checkpoint", found, "give weights that are not quantised")
        first, end = facts["data_offsets"]
        array = content[first:end].view(_DTYPES[facts["dtype"]]).reshape(facts["shape"])
        tensors[name] = array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
    return tensors


def _read_pytorch(path: Path) -> Tensors:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(40)
        words = " ".join(start.decode(errors="replace").split())
        found, remedy = "no zip file", "get the file again, or save it with PyTorch 1.6 or newer"
        if path.suffix == ".pkl":
            remedy = f"{_CODE}; get the same weights as a state dict (.pt or .safetensors)"
        elif start.isascii() and words.isprintable():
            found = f"text ({words})" if words else "empty"
            remedy = "get the file itself, this may be a page or a pointer to it"
        raise UserError("checkpoint", f"{path}, which is {found}", remedy)
    torch = import_torch()
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError("checkpoint", path, _CODE) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        remedy = f"get the file again, PyTorch says: {first_line(error)}"
        raise UserError("checkpoint", path, remedy) from error
    if isinstance(content, Mapping) and isinstance(content.get("ema"), Mapping):
        content = content["ema"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        kinds = content if isinstance(content, Mapping) else ()
        found = f"{path}, which holds {', '.join(map(str, list(kinds)[:6])) or 'something else'}"
        remedy = 'save its averaged weights alone: a state dict of tensors, or one under "ema"'
        raise UserError("checkpoint", found, remedy)
    return {name: _as_array(tensor, torch) for name, tensor in content.items()}


def _as_array(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach()
    try:  # NumPy has no bfloat16.
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        remedy = "give weights that are not quantised"
        raise UserError("checkpoint", f"tensors of {tensor.dtype}", remedy) from error


def first_line(error: Exception) -> str:
    """What PyTorch says, without the trace that it appends."""
    return str(error).split("\n", 1)[0]


def import_torch() -> Any:
    """PyTorch.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("torch", "not installed", "pip install -e '.[convert]'") from error
    return torch


# ---- Files in parts ----


@contextlib.contextmanager
def whole_file(path: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """The file at `path`, and its SHA-256; one in parts is joined in `folder` for the time being.

    Raises:
      UserError: if there is neither the file nor all parts of it, or a SHA-256 is not the one that
        SHA256SUMS beside it lists; without such a list nothing is verified.
    """
    sums = _listed_sums(path.parent / "SHA256SUMS")
    if path.is_file():
        digest = hashlib.sha256()
        for chunk in _chunks(path):
            digest.update(chunk)
        _check_listed([path.name], sums)
        _compare(path.name, digest, sums)
        yield path, digest.hexdigest()
        return
    names = os.listdir(path.parent) if path.parent.is_dir() else ()
    beside = {name for name in names if name.startswith(f"{path.name}.part-")}
    listed = {name for name in sums if name.startswith(f"{path.name}.part-")}
    missing = sorted(listed - beside)
    if missing:
        raise UserError("checkpoint", f"{path} without {', '.join(missing)}", "get all parts")
    # Numbers may have no leading zeros: 10 comes after 2.
    names = sorted(listed or beside, key=lambda name: (len(name), name))
    parts = [path.with_name(name) for name in names]
    if not parts:
        raise UserError("checkpoint", path, "give a .pt file, or one of which the .part-* are here")
    _check_listed([path.name, *names], sums)
    joined = folder / path.name
    try:
        digest = _join(parts, joined, sums)
        _compare(path.name, digest, sums)
        yield joined, digest.hexdigest()
    finally:
        joined.unlink(missing_ok=True)


def _join(parts: Sequence[Path], joined: Path, sums: Mapping[str, str]) -> Digest:
    whole = hashlib.sha256()
    with joined.open("wb") as file:
        for part in parts:
            digest = hashlib.sha256()
            for chunk in _chunks(part):
                digest.update(chunk)
                whole.update(chunk)
                file.write(chunk)
            _compare(part.name, digest, sums)
    return whole


def _listed_sums(path: Path) -> dict[str, str]:
    """SHA-256 by file name; nothing where there is no list."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [_SUM.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    if not lines or not all(lines):
        remedy = "get the file again; its lines are a SHA-256 and a name"
        raise UserError("checkpoint", path, remedy)
    return {Path(line[2]).name: line[1].lower() for line in lines if line}


def _check_listed(names: Sequence[str], sums: Mapping[str, str]) -> None:
    """Raises a UserError if there is a list and it says nothing of these files."""
    if sums and not sums.keys() & set(names):
        remedy = "get the list of this file, or take it away to convert without verifying"
        raise UserError("checkpoint", f"{names[0]}, which SHA256SUMS does not list", remedy)


def _compare(name: str, digest: Digest, sums: Mapping[str, str]) -> None:
    if sums.get(name, digest.hexdigest()) != digest.hexdigest():
        raise UserError("checkpoint", f"{name}, whose SHA-256 differs from the one in SHA256SUMS",
                        "get the file again, it is damaged")  # fmt: skip


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
