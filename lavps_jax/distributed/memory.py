"""Whether a compiled program fits the memory of its device, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from lavps_jax.errors import UserError

LESS_MEMORY = (
    "lower batch_size; in sampling, lower num_particles, give --tile or --compute-dtype bfloat16; "
    "in training, raise num_microbatches or fsdp, or give --remat layers"
)


def check_memory(compiled: Any, field: str, value: object, remedy: str) -> None:
    """Refuses a program that the device cannot hold; a device that tells nothing passes.

    Args:
      compiled: result of `jax.jit(...).lower(...).compile()`.
      field: what to lower, named as the user knows it.
      value: what it is now.
      remedy: what takes less memory.

    Raises:
      UserError: if the program needs more memory than there is.
    """
    needed, available = required_bytes(compiled), available_bytes()
    if needed is not None and available is not None and needed > available:
        found = f"{value}, which needs {needed / 2**30:.1f} GiB of memory"
        raise UserError(field, found, f"{remedy}; {available / 2**30:.1f} GiB are free")


def required_bytes(compiled: Any) -> int | None:
    """Bytes of the buffers a program makes: intermediates, and results that reuse no argument."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.temp_size_in_bytes + results


def available_bytes() -> int | None:
    """Free bytes of the first device here, or of the machine where that is the device."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        return None if limit is None else limit - stats.get("bytes_in_use", 0)
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    machine = int(fields["MemAvailable"].split()[0]) * 1024
    group = _control_group_bytes(Path("/sys/fs/cgroup"))
    return machine if group is None else min(machine, group)


def _control_group_bytes(root: Path) -> int | None:
    """Free bytes of a container whose memory is limited (cgroup v2); None without a limit.

    Cached files count as free: the system drops them when memory is needed.
    """
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(int(limit) - used + int(stat.get("inactive_file", 0)), 0)
