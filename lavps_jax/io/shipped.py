"""Presets and weights that come with this library, found from any working folder."""

from __future__ import annotations

import os
from pathlib import Path

from lavps_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE if (_PACKAGE / "pretrained").is_dir() else _PACKAGE.parent
"""Folder with configs/ and pretrained/, where relative paths in presets begin: the repository, or
the package itself where a wheel was installed."""


def shipped(path: str | os.PathLike[str]) -> str:
    """Where to read what a path names: the path itself, or the same one below `ROOT`.

    The working folder comes first, so that it can hold presets and weights of its own under the
    same names. Absolute paths and those in buckets stay as they are.

    Args:
      path: of a file or folder, on disk or gs://.
    """
    text = os.fspath(path)
    there = ROOT / text
    # Unlike those of pathlib, these answer no where a folder may not be entered.
    return str(there) if not os.path.exists(text) and os.path.exists(there) else text


def shipped_network(name: str) -> str:
    """The folder of a network that comes with this library.

    Args:
      name: such as "fashion_mnist/prior" or "fashion_mnist/motion_blur".

    Raises:
      UserError: if there is none of this name; it lists those there are.
    """
    folder = ROOT / "pretrained"
    cards = folder.glob("*/*/card.json")
    known = sorted(card.parent.relative_to(folder).as_posix() for card in cards)
    if name not in known:
        raise UserError("shipped network", name, f"give a folder, or one of {', '.join(known)}")
    return str(folder / name)
