"""Weights of the published PyTorch release into weights of this library, and back.

    python -m lavps_jax.convert CHECKPOINT.pt OUT --preset configs/ffhq256_prior.py
    python -m lavps_jax.convert WEIGHTS OUT.pt --to-torch

CHECKPOINT.pt may lie there whole or in parts, CHECKPOINT.pt.part-*; where a file SHA256SUMS lies
beside it, what it lists is verified. Needs PyTorch: pip install -e '.[convert]'.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import tyro
from flax import nnx

from lavps_jax.config import cli
from lavps_jax.config.settings import AmortizedTask, TrainConfig, load_preset, to_json
from lavps_jax.errors import UserError
from lavps_jax.io.orbax_exports import read_orbax_export
from lavps_jax.io.own_folders import is_marked, new_mark, write_directory
from lavps_jax.io.published import from_published, published_prefix, to_published
from lavps_jax.io.storage import as_path, on_disk, reached, write_file
from lavps_jax.io.weights import write_weights
from lavps_jax.networks import split
from lavps_jax.runs.loading import load_network

MADE_BY = "made_by"
"""Key of a checkpoint under which it says that it was made here."""
_CHUNK = 1 << 20
_SUM = re.compile(r"([0-9a-fA-F]{64})\s+\*?(.+)")

Digest: TypeAlias = "hashlib._Hash"


@dataclass(frozen=True)
class Config:
    """What to convert."""

    source: tyro.conf.Positional[str]
    """A published .pt file, whole or in parts; or else a folder of exported weights."""
    out: tyro.conf.Positional[str]
    """Folder to make; with --to-torch, the .pt file."""
    preset: str | None = None
    """File of configs/ whose get_config() gives the TrainConfig of this network."""
    to_torch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Convert weights of this library into the published form."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace what lies at `out`, if this program made it."""


def from_torch(source: Path, out: str, preset: str, *, overwrite: bool = False) -> None:
    """Converts a published checkpoint into exported weights with a card.

    Raises:
      UserError: if a file is missing or damaged, or the preset is of another network. Nothing is
        left behind then.
    """
    config: Any = load_preset(preset)
    if not isinstance(config, TrainConfig):
        raise UserError("preset", preset, "its get_config() must give a TrainConfig")
    prefix = published_prefix(config.schedule, config.task.network)
    abstract = nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0)))
    # The directory comes first: whether it can be made is known before the work begins.
    with write_directory(out, "weights", overwrite=overwrite) as folder:
        with whole_file(source, folder) as (file, digest):
            weights = from_published(read_state_dict(file), split(abstract)[1], prefix)
            origin = {"file": source.name, "sha256": digest, "preset": preset}
            write_weights(folder, weights, {"config": to_json(config), "source": origin})


def from_orbax(source: str, out: str, *, overwrite: bool = False) -> None:
    """Converts weights that an earlier version exported by Orbax; their card is kept.

    Raises:
      UserError: if there are none at `source`, or they are damaged. Nothing is left behind then.
    """
    with write_directory(out, "weights", overwrite=overwrite) as folder:
        arrays, card = read_orbax_export(source)
        facts = card.pop("weights")
        write_weights(folder, arrays, card, dtype=facts["dtype"])


def to_torch(source: str, out: Path, *, overwrite: bool = False) -> None:
    """Converts exported weights into a published checkpoint, {"ema": state dict, MADE_BY: mark}.

    That of an amortized network holds its prior too, as the published ones do.

    Raises:
      UserError: if there are no weights at `source`, or `out` exists and was not made here with
        `overwrite` set.
    """
    torch = _torch()
    if out.exists() and not _made_here(out):
        raise UserError("out", out, "choose a new name or move it, this program did not make it")
    if out.exists() and not overwrite:
        raise UserError("out", out, "choose a new name or set overwrite (--overwrite)")
    if not out.parent.is_dir():
        raise UserError("out", out, "make its folder first")
    _, weights, config = load_network(source)
    state = to_published(weights, published_prefix(config.schedule, config.task.network))
    if isinstance(config.task, AmortizedTask):
        _, theta, prior = load_network(config.task.prior)
        inner = to_published(theta, published_prefix(prior.schedule, prior.task.network))
        state |= {f"epsilon_net.net.{name}": array for name, array in inner.items()}
    with warnings.catch_warnings():
        # Arrays of JAX are read-only, which PyTorch warns of; nothing is written to them.
        warnings.simplefilter("ignore", UserWarning)
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    with write_file(out) as temporary:
        try:
            torch.save({"ema": tensors, MADE_BY: new_mark("weights")}, temporary)
        except RuntimeError as error:  # What PyTorch makes of a full disk.
            raise UserError("out", out, f"fix this: {_first_line(error)}") from error


def _made_here(out: Path) -> bool:
    """Whether `to_torch` wrote this file."""
    try:
        content: Any = _torch().load(out, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # Whatever PyTorch makes of a file that may be anything.
        return False
    return isinstance(content, dict) and is_marked(content.get(MADE_BY))


# ---- Files ----


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


# ---- PyTorch ----


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The averaged weights ("ema", if there are several kinds) of a checkpoint, as arrays.

    The arrays are views of the mapped file: they are valid as long as it is there. Only tensors
    are read; a file that asks for anything to be run is refused.

    Raises:
      UserError: if the file is no checkpoint, is damaged, or holds anything but tensors.
    """
    torch = _torch()
    if not zipfile.is_zipfile(path):
        remedy = "get the file again, or save it with PyTorch 1.6 or newer"
        raise UserError("checkpoint", f"{path}, which is no zip file", remedy)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        remedy = "do not use it: it holds more than tensors, which could be code"
        raise UserError("checkpoint", path, remedy) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        remedy = f"get the file again, PyTorch says: {_first_line(error)}"
        raise UserError("checkpoint", path, remedy) from error
    if isinstance(content, Mapping) and isinstance(content.get("ema"), Mapping):
        content = content["ema"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise UserError("checkpoint", path, 'give one with a state dict of tensors under "ema"')
    return {name: _as_array(tensor, torch) for name, tensor in content.items()}


def _as_array(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach()
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError("torch", "not installed", "pip install -e '.[convert]'") from error
    return torch


def _is_folder(source: str) -> bool:
    path = as_path(source, "source")
    with reached(path, "source"):
        return path.is_dir()


def run(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m lavps_jax.convert")
    if config.to_torch and config.preset is not None:
        raise UserError("preset", config.preset, "leave it out with --to-torch")
    try:
        if config.to_torch:
            to_torch(config.source, on_disk(config.out, "out"), overwrite=config.overwrite)
        elif config.preset is not None:
            source = on_disk(config.source, "source")
            from_torch(source, config.out, config.preset, overwrite=config.overwrite)
        elif _is_folder(config.source):
            from_orbax(config.source, config.out, overwrite=config.overwrite)
        else:
            remedy = "give --preset configs/NAME.py of the network, or a folder of exported weights"
            raise UserError("preset", None, remedy)
    except OSError as error:
        raise UserError("file", error.filename, f"fix this: {error.strerror}") from error
    print(config.out)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    cli.main(run)
