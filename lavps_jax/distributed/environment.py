"""What a result was computed on, in words."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def describe_machine() -> dict[str, Any]:
    """{"devices", "processor", "cores", "jax"}, for cards and records."""
    return {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
    }


def describe_code() -> str:
    """Version of this library, with a digest of its sources, and of JAX: results of two runs can be
    put together only where it is the same."""
    sources = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        digest.update(f"{file.relative_to(sources)}\n".encode() + file.read_bytes())
    return f"lavps-jax {metadata.version('lavps-jax')} {digest.hexdigest()[:12]}, {jax.__version__}"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
