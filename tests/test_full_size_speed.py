"""The benchmark of the full-size samplers, on the presets of the small images."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import full_size_speed, record
from lavps_jax.config import DPSConfig, load_preset
from lavps_jax.errors import UserError


def small_preset(path: str):
    preset = load_preset(path.replace("small", "fashion_mnist"))
    if path == "configs/small.py":
        return dataclasses.replace(preset, compare_with=(DPSConfig(num_steps=12),))
    return preset


def test_rows_are_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_size_speed, "load_preset", small_preset)
    monkeypatch.setattr(full_size_speed, "SIDE", 16)
    out = tmp_path / "speed.json"
    config = full_size_speed.Config(
        data=("small",), dtypes=("bfloat16",), num_particles=(1,), out=str(out)
    )
    full_size_speed.main(config)
    found = json.loads(out.read_text())["results"]
    assert list(found) == ["small, LAVPS, bfloat16, 1", "small, DPS, bfloat16, 1"]
    for row in found.values():
        assert row["seconds"] > 0 and row["seconds_to_compile"] > 0
        assert 0.01 < row["gigabytes"] < 1  # Two million weights take .009.
    seconds = found["small, LAVPS, bfloat16, 1"]["seconds"]
    assert f"| small | LAVPS | bfloat16 | 1 | {seconds:.2f} |" in capsys.readouterr().out
    monkeypatch.setattr(full_size_speed, "measured", None)
    full_size_speed.main(config)
    assert json.loads(out.read_text())["results"] == found
    monkeypatch.setattr(record, "current_commit", lambda: "another")
    with pytest.raises(UserError, match="this is another; delete it"):
        full_size_speed.main(config)
