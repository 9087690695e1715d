"""The benchmark of the full-size samplers, on the presets of the small images."""

from __future__ import annotations

import dataclasses
import json

from benchmarks import full_size_speed
from lavps_jax.config import MGDMConfig, load_preset


def small_preset(path: str):
    preset = load_preset(path.replace("small", "fashion_mnist"))
    if path == "configs/small.py":
        return dataclasses.replace(preset, compare_with=(MGDMConfig(num_steps=12),))
    return preset


def test_rows_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(full_size_speed, "load_preset", small_preset)
    monkeypatch.setattr(full_size_speed, "SIDE", 32)
    out = tmp_path / "speed.json"
    config = full_size_speed.Config(data=("small",), num_particles=(2,), out=str(out))
    config = dataclasses.replace(config, dtypes=("float32",))
    full_size_speed.main(config)
    found = json.loads(out.read_text())["results"]
    assert list(found) == ["small, LAVPS, float32, 2", "small, MGDM, float32, 2"]
    for row in found.values():
        assert row["seconds"] > 0 and row["seconds_to_compile"] > 0
    # LAVPS has a second network.
    lavps, mgdm = (row["gigabytes"] for row in found.values())
    assert lavps > mgdm > 0
    monkeypatch.setattr(full_size_speed, "measured", None)
    full_size_speed.main(config)
    assert json.loads(out.read_text())["results"] == found
