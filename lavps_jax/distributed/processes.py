"""Several processes as one run: JAX's runtime connects them, and they agree before they begin."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lavps_jax.distributed.environment import describe_code
from lavps_jax.errors import UserError

TIMEOUT_SECONDS = 300
"""How long a process waits for the others to come."""


def connect(
    coordinator: str | None,
    process_index: int | None,
    process_count: int | None,
    *,
    timeout: int = TIMEOUT_SECONDS,
) -> None:
    """Joins the other processes of the run, if there are any; before anything else is computed.

    Without flags a step of SLURM or Open MPI, a Kubernetes job and a TPU slice are recognised, as
    far as JAX does (`jax.distributed.initialize`).

    Args:
      coordinator: host:port of process 0.
      process_index: which process this is, from 0.
      process_count: how many there are.
      timeout: seconds to wait for the others.

    Raises:
      UserError: if only some of the flags are given, or the others do not come in time.
    """
    flags = (coordinator, process_index, process_count)
    arguments: dict[str, Any] = {}
    if flags == (None, None, None):
        if not _in_cluster(os.environ) and not _on_tpu():
            return
    elif coordinator is None or process_index is None or process_count is None:
        remedy = "give all three, or none where the cluster tells them"
        raise UserError("coordinator, process_index, process_count", flags, remedy)
    elif not 0 <= process_index < process_count:
        remedy = f"use 0 to {process_count - 1}, one less than process_count"
        raise UserError("process_index", process_index, remedy)
    elif process_count == 1:
        return
    else:
        _check_address(coordinator, is_here=process_index == 0)
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": process_count,
            "process_id": process_index,
        }
    # Where a process does not come, JAX aborts the program with a stack of C++ frames: it gets more
    # time than it has, in a thread that ends with the program.
    arguments["initialization_timeout"] = 2 * timeout + 60
    errors: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(**arguments)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        remedy = f"start all processes: they did not meet within {timeout} s"
        raise UserError("coordinator", coordinator or "the one of the cluster", remedy)
    if errors:
        raise errors[0]


def _check_address(coordinator: str, is_here: bool) -> None:
    """Raises a UserError unless it is host:port; of this machine's, the port has to be free."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError("coordinator", coordinator, "give host:port of process 0")
    if is_here:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise UserError(
                "coordinator", coordinator, f"choose another port: {error.strerror}"
            ) from error


def _in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether this is one of several processes that a cluster started together."""

    def number(name: str) -> int:
        value = environ.get(name, "")
        return int(value) if value.isdigit() else 0

    return (
        number("SLURM_STEP_NUM_TASKS") > 1
        or number("OMPI_COMM_WORLD_SIZE") > 1
        or "," in environ.get("TPU_WORKER_HOSTNAMES", "")
        or ("KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ)
    )


def _on_tpu(devices: Path = Path("/dev")) -> bool:
    """Whether this is a TPU VM, whose workers JAX asks the machine's metadata for."""
    chips = [*devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; the name tells one such place from another."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def on_any(value: bool) -> bool:
    """Whether it is true in this or another process; every process has to ask."""
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.array(value))))


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises a UserError, on every process, unless all were started alike.

    Args:
      facts: what has to be equal, JSON data by name. The code, its version and that of JAX, and
        the number of devices of a process are compared besides.
    """
    if jax.process_count() == 1:
        return
    owners = [device.process_index for device in jax.devices()]
    counts = [owners.count(index) for index in range(jax.process_count())]
    if len(set(counts)) > 1:  # JAX gathers nothing then.
        raise UserError("devices of a process", ", ".join(map(str, counts)), "use equal numbers")
    facts = {**facts, "version of the code": describe_code()}
    names = sorted(facts)
    digests = np.stack(
        [
            np.frombuffer(hashlib.sha256(json.dumps(facts[name]).encode()).digest()[:8], np.uint32)
            for name in names
        ]
    )
    everywhere = np.asarray(multihost_utils.process_allgather(digests))
    differs = (everywhere != everywhere[0]).any(-1)
    if differs.any():
        process, field = np.argwhere(differs)[0]
        raise UserError(
            names[field],
            f"another one in process {process} than in process 0",
            "start all processes with the same command and the same installation",
        )
