"""The presets in configs/ can be built, and the commands in their docstrings are understood."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import nnx

from lavps_jax import convert
from lavps_jax.config import cli
from lavps_jax.config.settings import (
    PublishedPrior,
    SampleConfig,
    TrainConfig,
    from_json,
    load_preset,
    to_json,
)
from lavps_jax.errors import UserError
from lavps_jax.networks import split
from lavps_jax.runs.loading import network_shape

ROOT = Path(__file__).parents[2]
PRESETS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").glob("*.py"))


KINDS = {"train.py": TrainConfig, "sample.py": SampleConfig, "lavps_jax.convert": convert.Config}


def commands(preset: Path) -> list[list[str]]:
    """Of the programs in the docstring, with a number for each shell variable."""
    text = ast.get_docstring(ast.parse((ROOT / preset).read_text())) or ""
    lines = text.replace("\\\n", " ").splitlines()
    found = [line[line.index("python ") :].split(";")[0] for line in lines if "python " in line]
    words = [shlex.split(re.sub(r"\$\w+", "1", line)) for line in found]
    words = [one[2:] if one[1] == "-m" else one[1:] for one in words]
    return [one for one in words if one[0] in KINDS]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_preset_from_another_folder(preset, monkeypatch, tmp_path):
    """Also those that build on others, and what they name is found."""
    monkeypatch.chdir(ROOT)
    expected = load_preset(str(preset))
    monkeypatch.chdir(tmp_path)
    assert load_preset(str(ROOT / preset)) == load_preset(str(preset)) == expected
    if preset.stem == "fashion_mnist_inpainting":
        assert network_shape(expected.prior).channels == 1
    # A file of the working folder comes first.
    (tmp_path / "configs").mkdir()
    (tmp_path / preset).write_text("def get_config(): return 5")
    assert load_preset(str(preset)) == 5


def test_a_module_beside_a_preset(tmp_path, monkeypatch):
    beside = "beside_a_preset"
    (tmp_path / f"{beside}.py").write_text("SIDE = 5\n\ndef broken():\n    return 1 / 0\n")
    preset = tmp_path / "own.py"
    preset.write_text(f"import {beside}\n\ndef get_config():\n    return {beside}.SIDE\n")
    before = list(sys.path)
    monkeypatch.chdir(tmp_path)
    assert load_preset("own.py") == load_preset(str(preset)) == 5
    preset.write_text(preset.read_text().replace("SIDE", "broken()"))
    with pytest.raises(UserError, match=f"got own.py; fix {beside}.py, line 4: ZeroDivisionError"):
        load_preset("own.py")
    preset.write_text("\nimport nothing_beside")
    with pytest.raises(UserError, match="got own.py; fix own.py, line 2: ModuleNotFoundError"):
        load_preset("own.py")
    preset.write_bytes(b"\0")
    with pytest.raises(UserError, match=r"got own.py; fix own.py, line \?: "):
        load_preset("own.py")
    assert sys.path == before


def test_modules_of_one_name_beside_two_presets(tmp_path):
    """Also in packages; from one folder they stay the same modules."""
    for name in ("one", "other"):
        (tmp_path / name / "parts_beside").mkdir(parents=True)
        (tmp_path / name / "parts_beside" / "__init__.py").touch()
        (tmp_path / name / "parts_beside" / "side.py").write_text(f"SIDE = {name!r}\n")
        (tmp_path / name / "named_alike.py").write_text(f"class Own:\n    side = {name!r}\n")
        (tmp_path / name / "own.py").write_text(
            "from named_alike import Own\nfrom parts_beside.side import SIDE\n"
            "def get_config(): return Own, SIDE"
        )

    def load(name):
        return load_preset(str(tmp_path / name / "own.py"))

    one, other = load("one"), load("other")
    assert [(own.side, side) for own, side in (one, other)] == [("one",) * 2, ("other",) * 2]
    assert load("other") == other
    assert load("one")[0].side == "one"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_preset(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_preset(str(preset))
    assert from_json(to_json(config)) == config
    if isinstance(config, TrainConfig | PublishedPrior):
        network = nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0)))
        assert sum(leaf.size for leaf in jax.tree.leaves(split(network)[1])) > 5e5
    documented = commands(preset)
    assert documented
    for program, *arguments in documented:
        kind: Any = KINDS[program]
        if kind is convert.Config:
            named = cli.from_flags(kind, arguments, prog=program).preset
            assert named in (None, str(preset))
        else:
            assert isinstance(cli.parse(arguments, kind), kind)
