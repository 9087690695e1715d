"""Folders that this program makes: all of a result or nothing, and nothing of anybody else's.

Each holds a mark, `MARK`, with the program's name and version, what the folder is for, and every
file that was written to it with its size. Only a folder with no other file is ever replaced.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lavps_jax.errors import UserError
from lavps_jax.io.storage import (
    CONNECTIONS,
    AnyPath,
    absolute,
    as_path,
    files_in,
    hidden_beside,
    hold,
    in_bucket,
    is_held,
    left_beside,
    reached,
    remove_files,
)

Purpose: TypeAlias = Literal["samples", "an unfinished run", "weights"]
"""What a folder is for; one is not replaced by another."""

MARK = ".lavps_jax.json"
_PROGRAM = "lavps-jax"
_VERSION = metadata.version(_PROGRAM)
_LAST = ("metrics.json", "card.json")
"""What readers of a folder look for, so that in a bucket it comes last and goes first."""


def new_mark(purpose: Purpose) -> dict[str, Any]:
    """What tells a folder, or a file of JSON, as one of ours: JSON data."""
    return {"program": _PROGRAM, "version": _VERSION, "holds": purpose}


def read_mark(file: AnyPath) -> dict[str, Any] | None:
    """The content of a file that `new_mark` is part of; None if there is none, or another one.

    Raises:
      OSError: if it is there and cannot be read.
    """
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if is_marked(found) else None


def is_marked(content: Any) -> bool:
    """Whether `new_mark` is part of this content of a file."""
    return isinstance(content, dict) and content.get("program") == _PROGRAM


@contextlib.contextmanager
def write_directory(
    path: str | os.PathLike[str], purpose: Purpose, *, overwrite: bool = False
) -> Iterator[Path]:
    """Yields a temporary directory on disk that becomes `path` on success.

    If the block raises, everything in it is deleted and `path` is as before. On disk it lies beside
    `path` and is renamed; the same of runs that were killed is deleted then. What goes to a bucket
    is sent at the end; a folder there that was being filled when somebody was stopped may be
    replaced by anybody. An overwrite that is stopped while it sends has deleted what was there.

    Args:
      path: the directory to make; parents are made as needed.
      purpose: what it is for.
      overwrite: replace an existing directory, at the very end, if it is empty, or has this purpose
        and nothing but what was written here.

    Raises:
      UserError: before anything is computed, if `path` exists and may not be replaced, is a file,
        or cannot be made; in the end if it appeared or changed meanwhile, or cannot be sent.
    """
    with reached(path, "output directory"):
        target = absolute(as_path(path, "output directory"))
    if in_bucket(target):
        with _sent(target, purpose, overwrite=overwrite) as folder:
            yield folder
        return
    with reached(target, "output directory"):
        if target.exists() and not target.is_dir():
            raise UserError("output directory", target, "give a directory, this is a file")
        if Path.cwd().is_relative_to(target):
            raise UserError("output directory", target, "give a directory below the current one")
        _put_back(target)
    refuse_existing(target, purpose, overwrite=overwrite)
    temporary = hidden_beside(target)
    old = temporary.with_suffix(".old")
    mark = temporary / MARK
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            remedy = f"choose another: {error.strerror}"
            raise UserError("output directory", target, remedy) from error
        with hold(mark):
            mark.write_text(json.dumps(new_mark(purpose)))
            yield temporary
            files = {name: size for name, size in files_in(temporary) if name != MARK}
            mark.write_text(json.dumps(new_mark(purpose) | {"files": files}, indent=1) + "\n")
            refuse_existing(target, purpose, overwrite=overwrite)
            if target.exists():  # A rename cannot replace a directory that has files.
                target.rename(old)
            temporary.rename(target)
        _remove_leftovers(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_old(old)


def refuse_existing(path: AnyPath, purpose: Purpose, *, overwrite: bool) -> None:
    """Raises a UserError if `path` exists and may not be replaced; see `write_directory`."""
    with reached(path, "output directory"):
        if not path.exists():
            return
        mark = read_mark(path / MARK)
        listed = {} if mark is None else _listed(mark)
        for name, size in files_in(path):
            if mark is not None and name == MARK:
                continue
            if size not in listed.get(name, ()):
                what = "a file in it was changed" if name in listed else "it holds other files"
                remedy = f"choose a new name or move it, {what} ({name})"
                raise UserError("output directory", path, remedy)
        if mark is not None and mark.get("holds") != purpose:
            remedy = f"choose a new name, it holds {mark.get('holds')}"
            raise UserError("output directory", path, remedy)
        if not overwrite and not (mark and "token" in mark):
            raise UserError(
                "output directory", path, "choose a new name or set overwrite (--overwrite)"
            )


def _listed(mark: Mapping[str, Any]) -> dict[str, list[int]]:
    """Files of a mark and the sizes that each may have: in a bucket that is being filled, there are
    new ones and those that go."""
    sizes: dict[str, list[int]] = {}
    for some in (mark.get("replaced", {}), mark.get("files", {})):
        for name, size in some.items():
            sizes.setdefault(name, []).append(size)
    return sizes


# ---- On disk ----


def _put_back(target: Path) -> None:
    """Undoes the replacement of a directory that was stopped halfway."""
    if target.exists():
        return
    for old in left_beside(target, ".old"):
        if read_mark(old / MARK) is not None:
            old.rename(target)
            return


def _remove_leftovers(target: Path) -> None:
    """Deletes what killed runs left beside the directory that they were to make."""
    for old in left_beside(target, ".old"):
        _remove_old(old)
    for temporary in left_beside(target, ".tmp"):
        with contextlib.suppress(OSError):
            # In this order: whoever begins to fill one holds its mark before that says anything.
            if read_mark(temporary / MARK) is not None and not is_held(temporary / MARK):
                shutil.rmtree(temporary)


def _remove_old(old: Path) -> None:
    """Deletes the files of a directory that was replaced; those that came meanwhile stay."""
    with contextlib.suppress(OSError):
        mark = read_mark(old / MARK)
        remove_files(old, () if mark is None else (*_listed(mark), MARK))


# ---- In a bucket ----


@contextlib.contextmanager
def _sent(path: AnyPath, purpose: Purpose, *, overwrite: bool) -> Iterator[Path]:
    """`write_directory` to a bucket."""
    refuse_existing(path, purpose, overwrite=overwrite)
    with reached(path, "output directory"):
        # Whether one may write, replace and delete there is seen before anything is computed.
        trial = path / f"{MARK}_{secrets.token_hex(4)}"
        for _ in range(2):
            trial.write_text(_PROGRAM)
        trial.unlink()
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        refuse_existing(path, purpose, overwrite=overwrite)
        with reached(path, "output directory"):
            _send(Path(name), path, new_mark(purpose))


def _send(folder: Path, path: AnyPath, mark: Mapping[str, Any]) -> None:
    """Replaces what is in `path`, which is ours, by what is in `folder`: `_LAST` go first and come
    last, so that no part is taken for a whole."""
    token = secrets.token_hex(8)
    new = dict(files_in(folder))
    old = {name: size for name, size in files_in(path) if name != MARK}
    file = path / MARK

    def is_ours() -> bool:
        found = read_mark(file)
        return found is not None and found.get("token") == token

    def send(name: str) -> None:
        path.joinpath(*name.split("/")).write_bytes((folder / name).read_bytes())

    def is_last(name: str) -> bool:
        return name in _LAST

    try:
        file.write_text(json.dumps({**mark, "files": new, "replaced": old, "token": token}))
        for some in (filter(is_last, old), itertools.filterfalse(is_last, old)):
            remove_files(path, some)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(send, itertools.filterfalse(is_last, new)))
        if not is_ours():
            remedy = "choose a new name: another run is writing there"
            raise UserError("output directory", path, remedy)
        for name in filter(is_last, new):
            send(name)
        file.write_text(json.dumps({**mark, "files": new}))
    except BaseException:
        # What somebody else began meanwhile is theirs.
        with contextlib.suppress(Exception):
            if is_ours():
                remove_files(path, new.keys() | old.keys())
                file.unlink()
        raise
