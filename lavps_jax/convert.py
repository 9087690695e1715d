"""Weights of the published PyTorch release into weights of this library, and back.

    python -m lavps_jax.convert CHECKPOINT.pt OUT --preset configs/ffhq256_prior.py
    python -m lavps_jax.convert WEIGHTS OUT.pt --to-torch

CHECKPOINT.pt may lie there whole or in parts, CHECKPOINT.pt.part-*; where a file SHA256SUMS lies
beside it, what it lists is verified. Needs PyTorch: pip install -e '.[convert]'.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from flax import nnx

from lavps_jax.config import cli
from lavps_jax.config.settings import AmortizedTask, TrainConfig, load_preset, to_json
from lavps_jax.errors import UserError
from lavps_jax.io.foreign_files import first_line, import_torch, read_tensors, whole_file
from lavps_jax.io.orbax_exports import read_orbax_export
from lavps_jax.io.own_folders import is_marked, new_mark, write_directory
from lavps_jax.io.published import from_published, published_prefix, to_published
from lavps_jax.io.storage import as_path, on_disk, reached, write_file
from lavps_jax.io.weights import write_weights
from lavps_jax.networks import split
from lavps_jax.runs.loading import load_network

MADE_BY = "made_by"
"""Key of a checkpoint under which it says that it was made here."""


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
            weights = from_published(read_tensors(file), split(abstract)[1], prefix)
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
    torch = import_torch()
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
            raise UserError("out", out, f"fix this: {first_line(error)}") from error


def _made_here(out: Path) -> bool:
    """Whether `to_torch` wrote this file."""
    try:
        content: Any = import_torch().load(out, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # Whatever PyTorch makes of a file that may be anything.
        return False
    return isinstance(content, dict) and is_marked(content.get(MADE_BY))


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
