"""The folder of a training run: never one of somebody else, and trained longer in."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from lavps_jax.config.settings import OptimizerConfig, PriorTask, TrainConfig, to_json
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.io.weights import read_card
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig
from lavps_jax.runs import training as training_run
from lavps_jax.runs.loading import load_network
from lavps_jax.runs.training_folder import check_run_folder

run_training = partial(training_run.run_training, devices=jax.devices()[:1])
NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


def config(run_dir, **changes) -> TrainConfig:
    base = TrainConfig(
        task=PriorTask(NETWORK),
        train_data=SyntheticData(32, (8, 8, 1)),
        validation_data=SyntheticData(16, (8, 8, 1), seed=1),
        run_dir=str(run_dir),
        batch_size=8,
        num_train_steps=2,
        optimizer=OptimizerConfig(3e-3, schedule="constant", warmup_steps=3),
        log_every=1,
        validate_every=4,
        checkpoint_every=4,
    )
    return dataclasses.replace(base, **changes)


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def step_of(run_dir):
    return read_card(run_dir / "weights")["step"]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    run_training(config(folder))
    return folder


def test_a_finished_run_is_trained_longer_as_if_it_had_been_from_the_start(
    two_steps, tmp_path, capsys
):
    longer = tmp_path / "longer"
    shutil.copytree(two_steps, longer)
    capsys.readouterr()
    run_training(config(longer))
    assert "nan" not in capsys.readouterr().out
    run_training(config(longer, num_train_steps=4))
    assert "resumed at step 2 of 4" in capsys.readouterr().out
    run_training(config(tmp_path / "whole", num_train_steps=4))
    one, other = (load_network(str(run / "weights"))[1] for run in (longer, tmp_path / "whole"))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert step_of(longer) == step_of(tmp_path / "whole") == 4
    with (longer / "log.csv").open() as file:
        losses = [row["step"] for row in csv.DictReader(file) if row["name"] == "loss"]
    assert losses == ["1", "2", "3", "4"]
    assert json.loads((longer / "config.json").read_text())["num_train_steps"] == 4

    before = everything(longer)
    with pytest.raises(UserError, match="num_train_steps: got 3; give at least 4: so many"):
        run_training(config(longer, num_train_steps=3))
    with pytest.raises(UserError, match="it holds a run with another batch_size"):
        run_training(config(longer, num_train_steps=6, batch_size=4))
    assert everything(longer) == before


def test_the_weights_of_a_run_that_shall_end_earlier_are_those_of_its_end(two_steps, tmp_path):
    """Stopped after the weights of step 4 were exported, and before its checkpoint."""
    run = tmp_path / "run"
    run_training(config(run, num_train_steps=4, checkpoint_every=2, validate_every=2))
    shutil.rmtree(run / "checkpoints" / "4")
    run_training(config(run, checkpoint_every=2, validate_every=2))
    wanted = read_card(two_steps / "weights")
    found = read_card(run / "weights")
    assert found["step"] == 2 and found["weights"] == wanted["weights"]


def test_a_cosine_ends_where_it_ends(tmp_path):
    cosine = OptimizerConfig(3e-3, schedule="cosine", warmup_steps=1)
    run_training(config(tmp_path / "run", optimizer=cosine))
    before = everything(tmp_path)
    for steps in (1, 4):
        with pytest.raises(UserError, match=f"num_train_steps: got {steps}; keep 2, .* cosine"):
            run_training(config(tmp_path / "run", optimizer=cosine, num_train_steps=steps))
    with pytest.raises(UserError, match="another optimizer"):
        run_training(config(tmp_path / "run", num_train_steps=4))
    assert everything(tmp_path) == before


def test_a_run_that_knew_fewer_settings_goes_on(tmp_path):
    """They had their defaults then."""
    stored = to_json(config(tmp_path))
    del stored["initial_weights"], stored["schedule"]["least_alpha_bar"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    check_run_folder(tmp_path, config(tmp_path))
    for field, changed in (("schedule", Schedule(least_alpha_bar=1e-5)), ("initial_weights", "x")):
        with pytest.raises(UserError, match=f"a run with another {field}"):
            check_run_folder(tmp_path, config(tmp_path, **{field: changed}))


def a_log(run):
    (run / "log.csv").write_text("epoch,loss\n1,0.9\n")


def numbers_of_three(run):
    (run / "log.csv").write_text("1,2,3\n4,5,6\n")


def weights_of_something(run):
    (run / "weights").mkdir()
    (run / "weights" / "a.bin").write_bytes(b"weights")


def best_of_something(run):
    (run / "best").write_text("the best")


def steps_of_something(run):
    (run / "checkpoints" / "100").mkdir(parents=True)
    (run / "checkpoints" / "100" / "model.bin").write_bytes(b"weights")


def config_of_something(run):
    (run / "config.json").write_text('{"lr": 1}')


def a_list(run):
    (run / "config.json").write_text("[1, 2]")


def samples(run):
    (run / "config.json").write_text('{"is": "SampleConfig"}')


@pytest.mark.parametrize(
    "put",
    [
        a_log, numbers_of_three, weights_of_something, best_of_something,
        steps_of_something, config_of_something, a_list, samples,
    ],
)  # fmt: skip
def test_a_folder_of_something_else_is_refused_before_anything_is_read(tmp_path, put, monkeypatch):
    (tmp_path / "run").mkdir()
    put(tmp_path / "run")
    before = everything(tmp_path)
    monkeypatch.setattr(training_run, "cached", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(UserError, match="run_dir: got .*run.*; choose another folder"):
        run_training(config(tmp_path / "run"))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["weights", "best"])
def test_files_beside_exported_weights_are_kept(two_steps, tmp_path, name, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    (run / name / "notes.txt").write_text("three weeks of work")
    monkeypatch.setattr(training_run, "cached", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(UserError, match=rf"{name}; choose .* other files \(notes.txt\)"):
        run_training(config(run, num_train_steps=4))
    assert (run / name / "notes.txt").read_text() == "three weeks of work"


def test_other_files_do_not_matter_and_what_killed_runs_left_goes(two_steps, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    notes, theirs = run / "notes.txt", run / ".notes.txt.0123abcd.tmp"
    for file in (notes, theirs, run / ".log.csv.0123abcd.tmp", run / ".config.json.0123abcd.tmp"):
        file.write_text("text")
    half = run / "checkpoints" / "3.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "a").write_text("half")
    shutil.copytree(run / "weights", run / ".weights.0123abcd.tmp")
    run_training(config(run, num_train_steps=4))
    assert sorted(path.name for path in run.iterdir()) == [
        theirs.name, "best", "checkpoints", "config.json", "log.csv", "notes.txt", "weights",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]


def test_damaged_checkpoints_that_were_set_aside_are_kept(two_steps, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_steps, run)
    aside = run / "checkpoints" / "damaged-2"
    aside.mkdir()
    (aside / "first").write_text("the first")
    for file in (run / "checkpoints" / "2" / "state" / "d").iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="all its checkpoints are damaged"):
        run_training(config(run, num_train_steps=4))
    assert (aside / "first").read_text() == "the first"
    assert (run / "checkpoints" / "damaged-2-2" / "state").is_dir()
