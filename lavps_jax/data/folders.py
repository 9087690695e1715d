"""Files below a folder: one walk for everything that reads folders."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lavps_jax.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy")
"""What is taken for an image in a folder, in lower case."""


def is_folder(path: str | Path, field: str) -> bool:
    """Whether there is such a folder.

    Raises:
      UserError: if the rights to look are missing.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(field, path, error) from error


def files_below(folder: str | Path, field: str) -> list[Path]:
    """All files below an existing folder, ordered by their path.

    Files and folders whose names begin with a dot are left out. Links are followed, except to a
    folder that the link lies in.

    Raises:
      UserError: if a folder may not be read.
    """
    folder = Path(folder)
    try:
        return sorted(_files(folder, frozenset({_identity(folder)})))
    except OSError as error:
        raise _unreadable(field, error.filename or folder, error) from error


def image_files(folder: str | Path, field: str, besides: Path | None = None) -> list[Path]:
    """All image files below an existing folder, ordered by their path; see `files_below`.

    Files of other kinds are left out, which the log of this module tells in one line.

    Args:
      besides: a file that belongs to the images, if it is in the folder.

    Raises:
      UserError: if there is no image, or a folder may not be read.
    """
    every = files_below(folder, field)
    found = [file for file in every if file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(field, folder, f"give a folder with images ({', '.join(IMAGE_SUFFIXES)})")
    if left_out := [
        file for file in every if file.suffix.lower() not in IMAGE_SUFFIXES and file != besides
    ]:
        names = ", ".join(shown_name(file, folder) for file in left_out[:3])
        more = ", ..." if len(left_out) > 3 else ""
        plural = "s" if len(left_out) > 1 else ""
        logging.getLogger(__name__).warning(
            "%s: %d file%s of other kinds left out: %s%s",
            field, len(left_out), plural, names, more,
        )  # fmt: skip
    return found


def shown_name(file: Path, folder: str | Path) -> str:
    """The path of a file below a folder, for people: bytes that are not UTF-8 become "\\xe9"."""
    return os.fsencode(file.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")


def _files(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                inside = Path(entry.path)
                if (identity := _identity(inside)) not in above:
                    yield from _files(inside, above | {identity})
            # A link to nothing is kept, so that reading it says so.
            elif entry.is_file() or entry.is_symlink():
                yield Path(entry.path)


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _unreadable(field: str, path: object, error: OSError) -> UserError:
    return UserError(field, path, f"get the right to read it: {error.strerror}")
