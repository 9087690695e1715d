"""Weights of other projects into weights of this library, and back.

    python -m lavps_jax.convert CHECKPOINT OUT
    python -m lavps_jax.convert CHECKPOINT.pt OUT --preset configs/ffhq256_prior.py
    python -m lavps_jax.convert WEIGHTS OUT.pt --to-torch
    python -m lavps_jax.convert WEIGHTS OUT --to-diffusers

CHECKPOINT is a .pt or .safetensors file, an index of several, or a folder in diffusers' layout: a
U-Net of ADM, DDPM, EDM or diffusers, which its names and shapes describe, or with a preset a
network of the LAVPS release. A file may lie there whole or in parts, NAME.part-*; where a file
SHA256SUMS lies beside it, what it lists is verified. Files of PyTorch need it:
pip install -e '.[convert]'.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx

from lavps_jax.config import cli
from lavps_jax.config.settings import (
    AmortizedTask,
    PriorTask,
    PublishedPrior,
    TrainConfig,
    from_json,
    load_preset,
    to_json,
)
from lavps_jax.diffusion.parameterisations import EDM, VP
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.io.diffusers_folder import (
    find_network,
    is_diffusers,
    settings_beside,
    write_network,
)
from lavps_jax.io.foreign_files import first_line, import_torch, read_tensors, whole_file
from lavps_jax.io.layouts.diffusers import to_diffusers as to_network
from lavps_jax.io.layouts.recognised import (
    Recognised,
    check_network,
    layout_of,
    read_layout,
    recognise,
    scheduler_of,
    unwrapped,
)
from lavps_jax.io.orbax_exports import read_orbax_export
from lavps_jax.io.own_folders import is_marked, new_mark, write_directory
from lavps_jax.io.published import from_published, published_prefix, to_published
from lavps_jax.io.storage import as_path, on_disk, reached, write_file
from lavps_jax.io.weights import CARD, write_weights
from lavps_jax.networks import UNetConfig, split
from lavps_jax.runs.loading import load_network, network_shape

OWN = "_lavps_jax"
"""Key of a config.json, of which diffusers takes no notice, with the whole `PublishedPrior`."""
MADE_BY = "made_by"
"""Key of a checkpoint under which it says that it was made here."""


@dataclass(frozen=True)
class Config:
    """What to convert."""

    source: tyro.conf.Positional[str]
    """A file of tensors, whole or in parts, a folder in diffusers' layout, or exported weights."""
    out: tyro.conf.Positional[str]
    """Folder to make; with --to-torch, the .pt file."""
    preset: str | None = None
    """File of configs/ whose get_config() gives the TrainConfig or PublishedPrior of this network;
    without one it is told from names and shapes."""
    to_torch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Convert weights of this library into the published form."""
    to_diffusers: tyro.conf.FlagCreatePairsOff[bool] = False
    """Convert a U-Net of this library into a folder as the diffusers library reads it."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace what lies at `out`, if this program made it."""


def from_checkpoint(
    source: Path, out: str, preset: str | None = None, *, overwrite: bool = False
) -> list[str]:
    """Converts the checkpoint of another project into exported weights with a card.

    Args:
      source: a file of tensors, whole or in parts, or a folder in diffusers' layout.
      out: folder to make.
      preset: file of configs/ whose get_config() gives a `TrainConfig` (of a network of the LAVPS
        release) or a `PublishedPrior`; None finds out what the checkpoint is.

    Returns:
      What it is taken for, a line each.

    Raises:
      UserError: if a file is missing or damaged, or the preset is of another network. Nothing is
        left behind then.
    """
    config: Any = None if preset is None else load_preset(preset)
    if preset is not None and not isinstance(config, TrainConfig | PublishedPrior):
        remedy = "its get_config() must give a TrainConfig or a PublishedPrior"
        raise UserError("preset", preset, remedy)
    if isinstance(config, TrainConfig):  # Before anything is read.
        _prefix(config)
    settings = scheduler = None
    if source.is_dir():
        source, settings, scheduler = find_network(source)
    # The directory comes first: whether it can be made is known before the work begins.
    with write_directory(out, "weights", overwrite=overwrite) as folder:
        with whole_file(source, folder) as (file, digest):
            state, prefix = unwrapped(read_tensors(file))
            if isinstance(config, TrainConfig):
                weights, lines = _from_release(state, config), []
            else:
                settings = settings or settings_beside(source)
                if config is None and settings and OWN in settings:
                    config = _own_prior(settings, scheduler or {})
                elif config is None:
                    config = _as_prior(recognise(state, settings, scheduler))
                else:
                    check_network(state, config.task.network)
                weights, lines = _from_project(state, config)
            origin = {"file": source.name, "sha256": digest, "preset": preset}
            write_weights(folder, weights, {"config": to_json(config), "source": origin})
    return [f'names: without "{prefix}", which is before all of them'] * bool(prefix) + lines


def _own_prior(settings: Mapping[str, Any], scheduler: Mapping[str, Any]) -> PublishedPrior:
    """What `to_diffusers` wrote; a UserError if the scheduler has become one of something else."""
    config: Any = from_json(settings[OWN])
    if not isinstance(config, PublishedPrior):
        found = type(config).__name__
        raise UserError(f"config.json {OWN}", found, "get the file again, or leave this out")
    for name, value in scheduler_of(config.task.parameterisation).items():
        if name not in ("_class_name", "clip_sample") and scheduler.get(name, value) != value:
            remedy = f"{OWN} of config.json says {value}: take that out if it was trained otherwise"
            raise UserError(f"scheduler_config.json {name}", scheduler[name], remedy)
    return config


def _as_prior(found: Recognised) -> PublishedPrior:
    trained_as = found.parameterisation
    task = PriorTask(found.network, parameterisation=trained_as)
    schedule = trained_as.schedule if isinstance(trained_as, VP) else Schedule()
    if schedule.kind == "cosine":  # Runs end before nothing is left of the image.
        schedule = Schedule(min(schedule.num_times, 1000), kind="cosine")
    return PublishedPrior(task, schedule, found.side)


def _from_release(state: Mapping[str, np.ndarray], config: TrainConfig) -> nnx.State:
    prefix = _prefix(config)
    abstract = nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0)))
    return from_published(state, split(abstract)[1], prefix)


def _from_project(
    state: Mapping[str, np.ndarray], config: PublishedPrior
) -> tuple[nnx.State, list[str]]:
    network, order = config.task.network, config.new_attention_order
    weights = read_layout(state, network, new_attention_order=order)
    count = sum(array.size for array in jax.tree.leaves(weights))
    return weights, [
        f"layout: {layout_of(state)}, {count:,} parameters",
        f"network: {network}",
        f"it was trained as: {config.task.parameterisation}",
    ]


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
    state = to_published(weights, _prefix(config))
    if isinstance(config.task, AmortizedTask):
        _, theta, prior = load_network(config.task.prior)
        inner = to_published(theta, _prefix(prior))
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


def to_diffusers(source: str, out: str, *, overwrite: bool = False) -> None:
    """Writes an exported U-Net as a folder that diffusers' `UNet2DModel.from_pretrained` reads.

    The network there is told the times that are embedded: noise levels times `noise_scale`.

    Raises:
      UserError: if there are no weights at `source`, or of a network that has no such layout.
    """
    _, weights, config = load_network(source)
    task = config.task
    if not isinstance(task, PriorTask) or not isinstance(task.network, UNetConfig):
        kind = type(task.network).__name__
        raise UserError("source", f"{source}, {kind}", "give a U-Net, diffusers has no other")
    side = network_shape(source).trained_side
    state, settings = to_network(weights, task.network)
    settings |= {OWN: to_json(PublishedPrior(task, config.schedule, side))}
    settings |= {} if side is None else {"sample_size": side}
    scheduler = scheduler_of(task.parameterisation)
    with write_directory(out, "weights", overwrite=overwrite) as folder:
        write_network(folder, state, settings, scheduler)


def _prefix(config: TrainConfig | PublishedPrior) -> str:
    """Of the published names; a UserError if the published code would compute something else."""
    trained_as = getattr(config.task, "parameterisation", EDM())
    return published_prefix(config.schedule, config.task.network, trained_as)


def _made_here(out: Path) -> bool:
    """Whether `to_torch` wrote this file."""
    try:
        content: Any = import_torch().load(out, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # Whatever PyTorch makes of a file that may be anything.
        return False
    return isinstance(content, dict) and is_marked(content.get(MADE_BY))


def _is_old_export(source: str) -> bool:
    path = as_path(source, "source")
    with reached(path, "source"):
        if not path.is_dir() or is_diffusers(path):
            return False
        if not (path / CARD).is_file():
            remedy = "give a file of tensors, or a folder with config.json and weights"
            raise UserError("source", f"{path}, a folder without config.json", remedy)
        return True


def run(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m lavps_jax.convert")
    if (config.to_torch or config.to_diffusers) and config.preset is not None:
        remedy = "leave it out with --to-torch and --to-diffusers"
        raise UserError("preset", config.preset, remedy)
    try:
        if config.to_torch:
            to_torch(config.source, on_disk(config.out, "out"), overwrite=config.overwrite)
        elif config.to_diffusers:
            to_diffusers(config.source, config.out, overwrite=config.overwrite)
        elif config.preset is None and _is_old_export(config.source):
            from_orbax(config.source, config.out, overwrite=config.overwrite)
        else:
            source = on_disk(config.source, "source")
            overwrite = config.overwrite
            for line in from_checkpoint(source, config.out, config.preset, overwrite=overwrite):
                print(line)
    except OSError as error:
        raise UserError("file", error.filename, f"fix this: {error.strerror}") from error
    print(config.out)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    cli.main(run)
