"""Files on disk and in buckets of Google Cloud Storage (gs://): where they are, what there is."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import importlib.util
import itertools
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath

from lavps_jax.errors import UserError, first_words

AnyPath = Any
"""A `pathlib.Path` on disk, an `etils.epath.Path` in a bucket; what both can is used."""

CONNECTIONS = 16
"""How many objects of a bucket are sent or deleted at once."""


def on_disk(path: str | os.PathLike[str], field: str) -> Path:
    """A path on disk that a user gave; a leading ~ is the home folder.

    Raises:
      UserError: naming `field`, if there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(field, path, "give the whole path: there is no such home folder") from error


def as_path(path: str | os.PathLike[str], field: str) -> AnyPath:
    """A path on disk, as `on_disk`, or one in a bucket.

    Raises:
      UserError: naming `field`, if it is of another kind of storage, or what buckets need is not
        installed.
    """
    text = os.fspath(path)
    scheme, separator, rest = text.partition(":/")
    if not separator or not scheme.isalnum():
        return on_disk(text, field)
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


def files_in(folder: AnyPath) -> Iterator[tuple[str, int]]:
    """Every file of a folder and of those below: its name as "a/b.txt" and its size in bytes.

    A link is one of the files, whatever it leads to.

    Raises:
      OSError: if a folder cannot be listed.
    """
    if in_bucket(folder):
        import fsspec

        place = os.fspath(folder).removeprefix("gs://")
        found = fsspec.filesystem("gs").find(place, detail=True)
        yield from ((name.removeprefix(f"{place}/"), one["size"]) for name, one in found.items())
        return
    for path in _entries(folder):
        try:
            facts = path.lstat()
        except FileNotFoundError:  # Another process has just renamed it.
            continue
        if not stat.S_ISDIR(facts.st_mode):
            yield path.relative_to(folder).as_posix(), facts.st_size


def _entries(folder: Path) -> Iterator[Path]:
    """Files, links and folders of a folder on disk and of those below."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)
        yield path


def check_readable(folder: Path, field: str) -> None:
    """Raises a UserError, with what the system says, if there is a file that cannot be read."""
    with reached(folder, field):
        for path in _entries(folder):
            if path.is_file():
                with reached(path, field):
                    path.open("rb").close()


def remove_files(folder: AnyPath, names: Iterable[str]) -> None:
    """Deletes these files of a folder, and on disk the folders that are empty then; others stay."""
    if in_bucket(folder):
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda name: (folder / name).unlink(missing_ok=True), names))
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for path in itertools.chain(_entries(folder), (folder,)):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # It is not empty.
                path.rmdir()


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Makes an empty file and locks it while the block runs: `is_held` tells it from one that was
    left when its process was killed."""
    with path.open("xb") as file:
        with contextlib.suppress(OSError):  # Some network file systems have no locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds this file, or may do so."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


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
    temporary = hidden_beside(path)
    try:
        with hold(temporary):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def left_beside(path: AnyPath, suffix: str) -> Iterator[Path]:
    """What lies beside a path on disk under a name that `hidden_beside` gives, with this suffix."""
    if not in_bucket(path):
        pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}{suffix}"
        yield from (one for one in path.parent.glob(pattern) if not one.is_symlink())


def hidden_beside(path: Path) -> Path:
    """A new name in the same parent, because renaming is atomic only within one file system. It is
    drawn before anything is made, so that an interrupt at any moment finds what to delete."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
