"""Slices of TPUs: what their chips can do, and how to compile for one that is not here."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from lavps_jax.errors import UserError, first_words


class Chip(NamedTuple):
    """What a chip can do, per second where it is a rate.

    Attributes:
      memory: bytes.
      flops: operations in bfloat16.
      bandwidth: bytes to and from its memory.
      links: bytes to and from its neighbours.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float


CHIPS = {
    "v5e": Chip(16e9, 197e12, 819e9, 200e9),
    "v6e": Chip(32e9, 918e12, 1640e9, 448e9),
    "v5p": Chip(95e9, 459e12, 2765e9, 600e9),
}
"""Google's numbers, https://cloud.google.com/tpu/docs (v5e, v6e, v5p), read in November 2026."""


def devices_of(topology: str) -> Any:
    """The chips of a slice that is not here.

    Raises:
      UserError: if there is no such slice, or the compiler for TPUs is not installed.
    """
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise UserError("topology", topology, f"use one of {', '.join(CHIPS)}, as in v5e:4x4")
    # There is no machine of Google's to ask where this one is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # Whatever the plug-in raises.
        remedy = f"pip install 'jax[tpu]' and use a slice that exists ({first_words(error)})"
        raise UserError("topology", topology, remedy) from error


def compile_only() -> None:
    """Sets JAX up for a program that compiles for devices which are not here, and runs nothing."""
    jax.config.update("jax_platforms", "cpu")
    # Without its search for good tilings the compiler for TPUs takes a minute for a training step
    # at 256 pixels; with it, none was ready after ten.
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
