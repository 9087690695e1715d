"""What the chips of a slice send to each other, read off a compiled program."""

from __future__ import annotations

import re
from math import prod

_COLLECTIVE = re.compile(
    r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\])")

_ON_A_RING = {
    "all-reduce": lambda size, n: 2 * size * (n - 1) / n,
    "all-gather": lambda size, n: size * (n - 1) / n,
    "reduce-scatter": lambda size, n: size * (n - 1),
    "all-to-all": lambda size, n: size * (n - 1) / n,
    "collective-permute": lambda size, n: size,
}
"""Bytes that one of n chips sends around a ring for a result of `size` bytes on each of them."""


def bytes_sent(text: str, num_chips: int) -> dict[str, float]:
    """Bytes that a chip sends to others, by the name of the operation.

    Args:
      text: of a compiled program, HLO; every loop is counted once.
      num_chips: of an operation that does not name its groups, at least 1.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := _COLLECTIVE.search(line):
            result, name, start = match.groups()
            sizes = [
                int(bits) / 8 * prod(int(n) for n in shape.split(",") if n)
                for _, bits, shape in _ARRAY.findall(result)
            ]
            if start and name == "collective-permute":
                sizes = sizes[1:2]  # Argument, result, and two numbers.
            elif start and name != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # The arguments, then the results.
            chips = num_chips
            if groups := _GROUPS.search(line):
                chips = groups[1].count(",") + 1 if groups[1] else int(groups[3])
            sent = _ON_A_RING[name](sum(sizes), chips)
            found[name] = found.get(name, 0.0) + sent
    return found
