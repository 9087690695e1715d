"""JSON that every reader takes: it has no numbers that are not finite."""

from __future__ import annotations

import json
import math
from typing import Any


def to_text(content: Any, indent: int | None = 2) -> str:
    """Plain data as JSON; null stands for a number that is infinite or none (RFC 8259)."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
