"""Writes a measured result together with what is needed to trust and repeat it."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavps_jax.distributed.environment import describe_machine
from lavps_jax.errors import UserError
from lavps_jax.io.storage import on_disk, write_file
from lavps_jax.io.strict_json import to_text


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root).stdout.strip()


_COMMIT = _git("rev-parse", "--short", "HEAD")
# The reports of one suite do not change what the next one measures.
_CHANGES = _git("diff", "HEAD", "--", ":!docs/results")
"""As both were when the program began."""


def current_commit() -> str:
    """Of the code that runs; with "-dirty-" and a sum of changes that are not committed."""
    if not _CHANGES:
        return _COMMIT or "unknown"
    return f"{_COMMIT}-dirty-{hashlib.sha256(_CHANGES.encode()).hexdigest()[:7]}"


def earlier(field: str, path: str | Path) -> dict[str, Any] | None:
    """What a benchmark wrote to `path` before; None if nothing is there.

    Called before anything is measured, since nothing else is replaced.

    Raises:
      UserError: of `field`, if something else is there.
    """
    path = on_disk(path, field)
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        stored = None
    if not isinstance(stored, dict) or not {"command", "commit", "machine"} <= stored.keys():
        raise UserError(field, path, "give another place: no benchmark wrote this")
    return stored


def check_report(out: Path, name: str) -> None:
    """Raises a UserError if a report NAME.json, NAME.md, NAME_*.svg, ... would replace something in
    the folder `out` that no report wrote: those lie beside their JSON."""
    if earlier("out", out / f"{name}.json") is not None:
        return
    for file in sorted(out.glob(f"{name}*")):
        is_of_report = file.suffix in (".md", ".html", ".svg", ".png")
        # That of another report, with a longer name.
        if is_of_report and earlier("out", file.with_suffix(".json")) is None:
            raise UserError("out", file, "give another folder: no report wrote this")


def stored_by_this_code(field: str, path: Path, remedy: str) -> dict[str, Any]:
    """What `record` has written to `path`.

    Raises:
      UserError: of `field`, if other code than this has written it, or no benchmark.
    """
    stored = earlier(field, path)
    if stored is None:
        raise UserError(field, path, "run the benchmark first: there is nothing")
    if stored["commit"] != current_commit():
        found = f"{path} of commit {stored['commit']}, this is {current_commit()}"
        raise UserError(field, found, remedy)
    return stored


def provenance() -> dict[str, Any]:
    """{"command", "commit", "date", "machine"} of this program.

    In the command absolute paths, which are of this machine, become DIR. A work tree with
    uncommitted changes gives a commit with "-dirty-" in it.
    """
    arguments = sys.orig_argv[1:]  # With "-m benchmarks.NAME", which sys.argv lacks.
    return {
        "command": shlex.join(["python", *map(_without_path, arguments)]),
        "commit": current_commit(),
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
    }


def _without_path(argument: str) -> str:
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}DIR" if Path(value).is_absolute() else argument


def record(path: str | Path, results: Any) -> None:
    """Writes `provenance` and {"results"} as JSON to `path`.

    Raises:
      UserError: if something is there that no benchmark wrote, see `earlier`.
    """
    content = {**provenance(), "results": results}
    path = on_disk(path, "out")
    earlier("out", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_file(path) as temporary:
        temporary.write_text(to_text(content, 1))


def origin_of(stored: Mapping[str, Any]) -> str:
    """In one line, what `provenance` or `record` gave."""
    machine = stored["machine"]
    return (
        f"{stored['command']}, commit {stored['commit']}, {stored['date']}, {machine['cores']} "
        f"cores ({machine['processor']}), {machine['devices']}, JAX {machine['jax']}"
    )
