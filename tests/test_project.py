"""The project's frame: one list of dependencies, and what the package ships."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from lavps_jax.errors import UserError
from lavps_jax.io.shipped import shipped_network
from lavps_jax.runs.loading import load_network

ROOT = Path(__file__).parents[1]


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]


def test_shipped_images_come_with_their_licence():
    licence = resources.files("lavps_jax") / "assets" / "LICENSE-fashion-mnist.txt"
    text = licence.read_text(encoding="utf-8")
    assert "Copyright (c) 2017 Zalando SE" in text and "MIT License" in text


FROM_ANYWHERE = """
import sys
from importlib.metadata import entry_points

import lavps_jax as lavps
from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.io.shipped import ROOT

assert str(ROOT) == sys.argv[1], ROOT
prior = lavps.load_prior("fashion_mnist")
for task in ("motion_blur", "super_resolution", "inpainting"):
    assert lavps.load_amortized(f"fashion_mnist/{task}").schedule == prior.schedule
preset = load_preset("configs/fashion_mnist.py")
assert isinstance(preset, SampleConfig)
lavps.load_prior(preset.prior)
assert lavps.data.shipped("fashion_mnist").shape == (64, 32, 32, 1)
for name in ("lavps-sample", "lavps-train"):
    (program,) = entry_points(group="console_scripts", name=name)
    assert callable(program.load())
"""


def test_a_wheel_has_networks_images_and_presets(tmp_path):
    """Unpacked, as an installation does it, and used in an empty folder."""
    source, empty, installed = (tmp_path / name for name in ("source", "empty", "installed"))
    for name in ("lavps_jax", "configs", "pretrained"):
        unbuilt = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=unbuilt)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    empty.mkdir()
    command = [sys.executable, "-c", FROM_ANYWHERE, str(installed / "lavps_jax")]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_shipped_network_names_those_there_are():
    with pytest.raises(
        UserError, match="got fashion_mnist/blur; give a folder, or one of .*inpainting, fashion"
    ):
        shipped_network("fashion_mnist/blur")
    assert load_network(shipped_network("fashion_mnist/prior"))[2].num_train_steps == 8000


def test_the_suite_begins_without_pytorch():
    """`make test` does not install it; tests that need it are skipped one by one."""
    files = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("benchmarks/*.py")]
    needs = {
        file.name for file in files if re.search(r"^(import|from) torch", file.read_text(), re.M)
    }
    assert needs <= {"sampler_parity.py"}, "this one compares with libraries of PyTorch"
