"""The benchmark of the full-size samplers, on the presets of the small images."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import full_size_speed, record
from lavps_jax.config.settings import DPSConfig, InnerConfig, MGDMConfig, PriorTask, load_preset
from lavps_jax.errors import UserError
from lavps_jax.samplers import MGDM


def small_preset(path: str):
    preset = load_preset(path.replace("small", "fashion_mnist"))
    if path == "configs/small.py":  # LAVPS itself takes long to compile.
        few = MGDMConfig(num_steps=6, high_idx=2, inner_low_noise=InnerConfig(1))
        return dataclasses.replace(preset, sampler=few, compare_with=(DPSConfig(num_steps=12),))
    if path == "configs/small_prior.py":
        network = preset.task.network
        levels = tuple(dataclasses.replace(level, depth=1) for level in network.levels)
        return dataclasses.replace(
            preset, task=PriorTask(dataclasses.replace(network, levels=levels))
        )
    return preset


def test_the_sampler_of_a_preset_has_its_amortized_start(monkeypatch):
    monkeypatch.setattr(full_size_speed, "load_preset", small_preset)
    models, params = full_size_speed.networks("small")
    preset = load_preset("configs/fashion_mnist.py")
    sampler = full_size_speed.sampler_of("small", preset.sampler, models)
    assert isinstance(sampler, MGDM) and sampler.cost().amortized_calls > 0
    assert set(params) == {"theta", "phi"}


def test_rows_are_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_size_speed, "load_preset", small_preset)
    monkeypatch.setattr(full_size_speed, "SIDE", 16)
    out = tmp_path / "speed.json"
    config = full_size_speed.Config(
        data=("small",), dtypes=("bfloat16",), num_particles=(1,), out=str(out)
    )
    full_size_speed.main(config)
    found = json.loads(out.read_text())["results"]
    assert list(found) == ["small, MGDM, bfloat16, 1", "small, DPS, bfloat16, 1"]
    for row in found.values():
        assert row["seconds"] > 0 and row["seconds_to_compile"] > 0
        assert 0.003 < row["gigabytes"] < 1  # A million weights take .004.
    seconds = found["small, MGDM, bfloat16, 1"]["seconds"]
    assert f"| small | MGDM | bfloat16 | 1 | {seconds:.2f} |" in capsys.readouterr().out
    monkeypatch.setattr(full_size_speed, "measured", None)
    full_size_speed.main(config)
    assert json.loads(out.read_text())["results"] == found
    monkeypatch.setattr(record, "current_commit", lambda: "another")
    with pytest.raises(UserError, match="this is another; delete it"):
        full_size_speed.main(config)
