"""The project's frame: one list of dependencies, and what the package ships."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]


def test_shipped_images_come_with_their_licence():
    licence = resources.files("lavps_jax") / "assets" / "LICENSE-fashion-mnist.txt"
    text = licence.read_text(encoding="utf-8")
    assert "Copyright (c) 2017 Zalando SE" in text and "MIT License" in text
