"""Writes a measured result together with what is needed to trust and repeat it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

__all__ = ["record"]


def record(path: str | Path, results: Any) -> None:
    """Writes {"command", "commit", "date", "machine", "jax", "results"} as JSON to `path`.

    A work tree with uncommitted changes gives a commit that ends in "-dirty".
    """
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    content = {
        "command": " ".join(["python", *sys.argv]),
        "commit": described.stdout.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "jax": jax.__version__,
        "results": results,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.rename(path)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
