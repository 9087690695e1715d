"""Folders in the layout of the diffusers library: config.json, and weights beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from lavps_jax.errors import UserError

_CONFIG = "config.json"
_SCHEDULER = "scheduler_config.json"
_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
)


class Folder(NamedTuple):
    """A network in diffusers' layout.

    Attributes:
      weights: the file of its weights.
      network, scheduler: contents of config.json and of scheduler_config.json, empty where there is
        none.
    """

    weights: Path
    network: dict[str, Any]
    scheduler: dict[str, Any]


def is_diffusers(folder: Path) -> bool:
    """Whether a folder holds a network in this layout, or a pipeline with one."""
    return any((folder / place / _CONFIG).is_file() for place in (".", "unet"))


def find_network(folder: Path) -> Folder:
    """The network of a folder, or of its sub-folder unet, and the scheduler beside it.

    Raises:
      UserError: if a file is missing, or damaged.
    """
    unet = folder if (folder / _CONFIG).is_file() else folder / "unet"
    files = [unet / name for name in _WEIGHTS if (unet / name).is_file()]
    files = files or sorted(unet.glob("diffusion_pytorch_model.*.safetensors"))[:1]  # Of float16.
    if not files:
        raise UserError("checkpoint", f"{unet} without {_WEIGHTS[0]}", "get the weights, too")
    schedulers = (folder / "scheduler" / _SCHEDULER, folder / _SCHEDULER)
    found = [file for file in schedulers if file.is_file()]
    return Folder(files[0], _read(unet / _CONFIG), _read(found[0]) if found else {})


def settings_beside(file: Path) -> dict[str, Any] | None:
    """The content of the config.json beside a file of weights, if there is one."""
    config = file.with_name(_CONFIG)
    return _read(config) if config.is_file() else None


def write_network(
    folder: Path,
    state: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> None:
    """Writes what `UNet2DModel.from_pretrained` reads, config.json and the weights, and
    scheduler_config.json beside them."""
    for name, content in ((_CONFIG, settings), (_SCHEDULER, scheduler)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    save_file(arrays, folder / _WEIGHTS[0], metadata={"format": "pt"})
    (folder / _WEIGHTS[0]).chmod((folder / _CONFIG).stat().st_mode)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise UserError("checkpoint", file, "get the file again, it is damaged") from error
    return content
