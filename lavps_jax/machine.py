"""What a result was computed on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import jax

__all__ = ["describe_machine"]


def describe_machine() -> dict[str, Any]:
    """{"devices", "processor", "cores", "jax"}, for cards and records."""
    return {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
