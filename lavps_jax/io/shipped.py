"""Presets and weights that come with this library, found from any working folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ROOT", "shipped"]

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the repository, where the relative paths in configs/ begin."""


def shipped(path: str | os.PathLike[str]) -> str:
    """Where to read what a path names: the path itself, or the same one in the repository.

    The working folder comes first, so that it can hold presets and weights of its own under the
    same names. Absolute paths and those in buckets stay as they are.

    Args:
      path: of a file or folder, on disk or gs://.
    """
    text = os.fspath(path)
    there = ROOT / text
    # Unlike those of pathlib, these answer no where a folder may not be entered.
    return str(there) if not os.path.exists(text) and os.path.exists(there) else text
