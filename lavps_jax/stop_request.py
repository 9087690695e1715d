"""A request to end, which a long loop answers between two of its steps."""

from __future__ import annotations

import signal
import threading
from typing import Any

__all__ = ["StopRequest"]


class StopRequest:
    """Takes SIGTERM, with which batch systems announce that a machine goes, while it is entered.

    Attributes:
      requested: whether the signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def _note(self, *_: object) -> None:
        self.requested = True

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; elsewhere the program's own stays.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
