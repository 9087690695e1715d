"""The benchmark of the full-size samplers, on the presets of the small images."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import full_size_speed
from benchmarks.reporting import record
from lavps_jax.config.settings import PriorTask, load_preset
from lavps_jax.errors import UserError
from lavps_jax.samplers import DPS, LAVPS, MGDM, Inner


def small_preset(path: str):
    preset = load_preset(path.replace("small", "fashion_mnist"))
    if path == "configs/small.py":  # LAVPS itself takes long to compile.
        few = MGDM(num_steps=6, high_idx=2, inner_low_noise=Inner(1))
        return dataclasses.replace(preset, sampler=few, compare_with=(DPS(num_steps=12),))
    if path == "configs/small_prior.py":
        network = preset.task.network
        levels = tuple(dataclasses.replace(level, depth=1) for level in network.levels)
        return dataclasses.replace(
            preset, task=PriorTask(dataclasses.replace(network, levels=levels))
        )
    return preset


def test_the_sampler_of_a_preset_has_its_amortized_start(monkeypatch):
    monkeypatch.setattr(full_size_speed, "load_preset", small_preset)
    networks = full_size_speed.networks("small")
    preset = load_preset("configs/fashion_mnist.py")
    sampler, prior = full_size_speed.in_place("small", preset.sampler, networks)
    assert isinstance(sampler, LAVPS) and sampler.cost(prior.schedule).amortized_calls > 0
    assert sampler.amortized.weights is networks["amortized"][1]
    assert prior.weights is networks["prior"][1]


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
