"""Packages import from those below them, so that each can be read without those above it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("errors",),
    ("pytrees", "types"),
    ("data", "distributed"),
    ("operators", "networks"),
    ("metrics", "testing"),
    ("problems",),
    ("diffusion",),
    ("samplers", "io"),
    ("training",),
    ("config",),
    ("runs",),
    ("aot", "compare_sets", "convert", "programs"),
    ("__init__",),
)
"""Rooms of the library, lowest first; those of one floor know nothing of each other."""


def imports() -> set[tuple[str, str]]:
    """(module, module that it imports), of the library, without "lavps_jax."."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "lavps_jax").rglob("*.py")
    }
    found = set()
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: import from lavps_jax, not from a dot"
                names = [f"{node.module}.{one.name}" for one in node.names]
            elif isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            for name in names:
                target = name if name in files else name.rpartition(".")[0]
                if target in files:
                    found.add((module, target))
    strip = "lavps_jax."
    return {(module.removeprefix(strip), target.removeprefix(strip)) for module, target in found}


def room(module: str) -> str:
    return "__init__" if module == "lavps_jax" else module.partition(".")[0]


def test_imports_run_downward():
    floor = {name: number for number, rooms in enumerate(FLOORS) for name in rooms}
    found = imports()
    assert len(found) > 300
    assert {room(module) for module, _ in found} <= floor.keys(), "give the new room a floor"
    upward = {
        (module, target)
        for module, target in found
        if room(module) != room(target) and floor[room(module)] <= floor[room(target)]
    }
    assert not upward
