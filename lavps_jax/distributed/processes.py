"""Several processes as one run: JAX's runtime connects them, and they agree before they begin."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lavps_jax.distributed.environment import describe_code
from lavps_jax.errors import UserError

__all__ = ["check_agreement", "connect", "is_first", "on_any", "wait_for_all"]

TIMEOUT_SECONDS = 300
"""How long a process waits for the others to come."""
_GO = "go\n"


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
    if flags == (None, None, None):
        if not _in_cluster(os.environ) and not _on_tpu():
            return
        arguments: dict[str, Any] = {}
    elif coordinator is None or process_index is None or process_count is None:
        remedy = "give all three, or none where the cluster tells them"
        raise UserError("coordinator, process_index, process_count", flags, remedy)
    elif not 0 <= process_index < process_count:
        remedy = f"use 0 to {process_count - 1}, one less than process_count"
        raise UserError("process_index", process_index, remedy)
    elif process_count == 1:
        return
    else:
        _meet(coordinator, process_index, process_count, timeout)
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": process_count,
            "process_id": process_index,
        }
    jax.distributed.initialize(**arguments, initialization_timeout=timeout)


def _meet(coordinator: str, index: int, count: int, timeout: int) -> None:
    """Returns when all processes are there, on the port that JAX will use.

    JAX itself aborts the program, with a stack of C++ frames, where a process does not come.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError("coordinator", coordinator, "give host:port of process 0")
    deadline = time.monotonic() + timeout
    if index == 0:
        _wait_for_others(int(port), count, deadline, timeout)
        return
    trouble = "it closed the connection"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=left) as connection:
                connection.sendall(f"{index}\n".encode())
                if connection.makefile().readline() == _GO:
                    return
        except OSError as error:
            trouble = error.strerror or str(error)
        time.sleep(min(0.2, left))
    remedy = f"start process 0 there: no answer within {timeout} s ({trouble})"
    raise UserError("coordinator", coordinator, remedy)


def _wait_for_others(port: int, count: int, deadline: float, timeout: int) -> None:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            remedy = f"choose another port: {error.strerror}"
            raise UserError("coordinator", f"port {port}", remedy) from error
        there: dict[int, socket.socket] = {}
        while len(there) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(max(deadline - time.monotonic(), 0.01))
                word = connection.makefile().readline().strip()
            except TimeoutError:
                missing = [str(i) for i in range(1, count) if i not in there]
                remedy = f"start process {', '.join(missing)}: not there within {timeout} s"
                raise UserError("process_count", count, remedy) from None
            if word.isdigit() and 0 < int(word) < count:
                there[int(word)] = connection
        for connection in there.values():
            connection.sendall(_GO.encode())


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
