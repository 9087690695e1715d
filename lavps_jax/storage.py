"""Folders on disk or in a bucket of Google Cloud Storage (gs://): all of a result, or nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath

from lavps_jax.errors import UserError, first_words

__all__ = [
    "AnyPath",
    "absolute",
    "as_path",
    "copy_on_disk",
    "in_bucket",
    "make_folder",
    "reached",
    "refuse_existing",
    "remove_tree",
    "write_directory",
    "write_file",
]

AnyPath = Any
"""A `pathlib.Path` on disk, an `etils.epath.Path` in a bucket; what both can is used."""

MARKS = ("metrics.json", "card.json")
"""Files that tell a directory of results or weights from one with files of the user."""
_UNFINISHED = ".lavps_jax_unfinished"
"""Marks a folder in a bucket that somebody is filling, or was when they were stopped; it holds the
token of who began last."""
_TOKEN = "lavps_jax "
_NUM_CONNECTIONS = 16


def as_path(path: str | os.PathLike[str], field: str) -> AnyPath:
    """A path on disk or one in a bucket.

    Raises:
      UserError: naming `field`, if it is of another kind of storage, or what buckets need is not
        installed.
    """
    text = os.fspath(path)
    scheme, separator, rest = text.partition(":/")
    if not separator or not scheme.isalnum():
        return Path(text)
    bucket, _, folder = rest.removeprefix("/").partition("/")
    if scheme != "gs" or not rest.startswith("/") or not bucket or not folder.strip("/"):
        raise UserError(field, text, "give a folder on disk or gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(field, text, "install gcsfs (pip install gcsfs), or give a folder on disk")
    import fsspec.config

    # TensorFlow's own client is not what is tested; and what other processes write has to be seen.
    os.environ.setdefault("EPATH_USE_TF", "false")
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return epath.Path(text.rstrip("/"))


@contextlib.contextmanager
def reached(path: AnyPath, field: str) -> Iterator[None]:
    """What goes wrong inside, but for a UserError, becomes one: this path cannot be used."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # gcsfs, aiohttp and google-auth have exceptions of their own.
        reason = getattr(error, "strerror", None) or first_words(error) or type(error).__name__
        raise UserError(field, path, f"choose another: {reason}") from error


def absolute(path: AnyPath) -> AnyPath:
    """The same place, whatever the current folder will be."""
    return path if in_bucket(path) else path.resolve()


def in_bucket(path: AnyPath) -> bool:
    """Whether the path is one in a bucket."""
    return "://" in os.fspath(path)


def make_folder(path: AnyPath) -> None:
    """Makes the folder and those above it; buckets have none."""
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: AnyPath) -> None:
    """Deletes a folder with everything in it, if it is there."""
    if in_bucket(path):
        path.rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def copy_on_disk(path: AnyPath) -> Iterator[Path]:
    """Yields a folder with what is in `path`: that one, or a temporary copy of one in a bucket."""
    if not in_bucket(path):
        yield absolute(path)
        return

    def fetch(source: AnyPath, target: Path) -> None:
        target.mkdir()
        for one in source.iterdir():
            if one.is_dir():
                fetch(one, target / one.name)
            else:
                (target / one.name).write_bytes(one.read_bytes())

    with tempfile.TemporaryDirectory() as folder:
        fetch(path, Path(folder) / path.name)
        yield Path(folder) / path.name


@contextlib.contextmanager
def write_file(path: AnyPath) -> Iterator[Path]:
    """Yields a temporary name on disk for a file that becomes `path` on success.

    On disk it lies beside `path` and is renamed; an object in a bucket appears when all is sent.
    """
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.write_bytes(temporary.read_bytes())
        return
    temporary = _hidden(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary directory on disk that becomes `path` on success.

    If the block raises, everything in it is deleted and `path` is as before. On disk it lies beside
    `path` and is renamed. What goes to a bucket is sent at the end, its `MARKS` last; a folder
    there that was being filled when somebody was stopped may be replaced by anybody. An overwrite
    that is stopped while it sends has deleted what was there.

    Args:
      path: the directory to make; parents are made as needed.
      overwrite: replace an existing directory, at the very end, if it is empty or was made by
        this function's callers, which its `MARKS` tell.

    Raises:
      UserError: before anything is computed, if `path` exists and may not be replaced, is a file,
        or cannot be made; in the end if it appeared meanwhile, or cannot be sent.
    """
    target = absolute(as_path(path, "output directory"))
    if in_bucket(target):
        with _sent(target, overwrite=overwrite) as folder:
            yield folder
        return
    if target.exists() and not target.is_dir():
        raise UserError("output directory", target, "give a directory, this is a file")
    if Path.cwd().is_relative_to(target):
        raise UserError("output directory", target, "give a directory below the current one")
    refuse_existing(target, overwrite=overwrite)
    temporary = _hidden(target)
    old = temporary.with_suffix(".old")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            remedy = f"choose another: {error.strerror}"
            raise UserError("output directory", target, remedy) from error
        yield temporary
        refuse_existing(target, overwrite=overwrite)
        if target.exists():  # A rename cannot replace a directory that has files.
            target.rename(old)
        temporary.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _sent(path: AnyPath, *, overwrite: bool) -> Iterator[Path]:
    """`write_directory` to a bucket."""
    refuse_existing(path, overwrite=overwrite)
    with reached(path, "output directory"):
        # Whether one may write, replace and delete there is seen before anything is computed.
        trial = path / f"{_UNFINISHED}_{secrets.token_hex(4)}"
        for _ in range(2):
            trial.write_text(_TOKEN)
        trial.unlink()
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        refuse_existing(path, overwrite=overwrite)
        mark, token = path / _UNFINISHED, _TOKEN + secrets.token_hex(8)
        try:
            with reached(path, "output directory"):
                mark.write_text(token)
                _send(Path(name), path, mark, token)
        except BaseException:
            # What somebody else began meanwhile is theirs.
            with contextlib.suppress(Exception):
                if mark.read_text() == token:
                    path.rmtree()
            raise
        with contextlib.suppress(Exception):  # Everything is there.
            mark.unlink()


def _send(folder: Path, path: AnyPath, mark: AnyPath, token: str) -> None:
    """Replaces what is in `path`, but for the mark, by what is in `folder`: `MARKS` go first and
    come last, so that no part is taken for a whole."""
    olds = [one for one in path.iterdir() if one.name != mark.name]
    files = [one for one in sorted(folder.rglob("*")) if one.is_file()]

    def delete(one: AnyPath) -> None:
        one.rmtree() if one.is_dir() else one.unlink()

    def send(file: Path) -> None:
        path.joinpath(*file.relative_to(folder).parts).write_bytes(file.read_bytes())

    def is_mark(one: AnyPath) -> bool:
        return one.name in MARKS

    for one in filter(is_mark, olds):
        delete(one)
    with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
        list(pool.map(delete, itertools.filterfalse(is_mark, olds)))
        list(pool.map(send, itertools.filterfalse(is_mark, files)))
    if mark.read_text() != token:
        remedy = "choose a new name: another run is writing there"
        raise UserError("output directory", path, remedy)
    for file in filter(is_mark, files):
        send(file)


def _hidden(path: Path) -> Path:
    """A new name in the same parent, because renaming is atomic only within one file system. It is
    drawn before anything is made, so that an interrupt at any moment finds what to delete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def refuse_existing(path: AnyPath, *, overwrite: bool) -> None:
    """Raises a UserError if `path` exists and may not be replaced; see `write_directory`."""
    with reached(path, "output directory"):
        if not path.exists() or (in_bucket(path) and _is_unfinished(path)):
            return
        if not overwrite:
            raise UserError("output directory", path, "choose a new name or set overwrite")
        if any(path.iterdir()) and not any((path / mark).exists() for mark in MARKS):
            raise UserError("output directory", path, "choose a new name, it holds other files")


def _is_unfinished(path: AnyPath) -> bool:
    """Whether a folder in a bucket was being filled."""
    try:
        return (path / _UNFINISHED).read_text().startswith(_TOKEN)
    except FileNotFoundError:
        return False
