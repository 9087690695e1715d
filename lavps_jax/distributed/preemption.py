"""A request to end, which a long loop answers between two of its steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Takes SIGTERM, with which batch systems announce that a machine goes, while it is entered.

    Of several processes that JAX connects one signal is enough; all stop after the same step.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: Any = None

    def came(self, step: int) -> bool:
        """Whether to stop after this step; processes ask in every step, each with the same ones."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

    def _note(self, *_: object) -> None:
        self._noted = True

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; elsewhere the program's own stays. JAX has one of
        # its own for connected processes.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
