"""Training: the loss falls, an interrupted run repeats the uninterrupted one, errors are kind."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from programs import TRAIN

from lavps_jax.config.settings import (
    AmortizedTask,
    OptimizerConfig,
    PriorTask,
    TrainConfig,
    from_json,
    to_json,
)
from lavps_jax.data import FolderData, SyntheticData, batch_indices
from lavps_jax.errors import UserError
from lavps_jax.io.weights import read_card
from lavps_jax.networks import AmortizedNetworkConfig, GlobalAttention, HDiTConfig, LevelConfig
from lavps_jax.operators import families
from lavps_jax.runs import training as training_run
from lavps_jax.runs import training_folder as run_folder
from lavps_jax.runs.loading import load_network, load_prior

ROOT = Path(__file__).parents[2]
run_training = partial(training_run.run_training, devices=jax.devices()[:1])
NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


def config(run_dir, **changes) -> TrainConfig:
    base = TrainConfig(
        task=PriorTask(NETWORK),
        train_data=SyntheticData(32, (8, 8, 1)),
        validation_data=SyntheticData(16, (8, 8, 1), seed=1),
        run_dir=str(run_dir),
        batch_size=8,
        num_train_steps=6,
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=2),
        log_every=1,
        validate_every=3,
        checkpoint_every=3,
        keep_last=5,
    )
    return dataclasses.replace(base, **changes)


def amortized_task(prior_run, **changes) -> AmortizedTask:
    base = AmortizedTask(
        AmortizedNetworkConfig(NETWORK),
        prior=str(prior_run / "weights"),
        operator=families.RandomPixels(0.4, 0.6),
        num_steps=20,
        high_idx=6,
    )
    return dataclasses.replace(base, **changes)


def assert_same_weights(run_dir, other):
    first, second = (load_network(str(run / "weights"))[1] for run in (run_dir, other))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run_training(config(run_dir))
    return run_dir


def test_resumed_run_repeats_the_uninterrupted_one(whole_run, tmp_path, capsys):
    resumed = config(tmp_path / "resumed")
    (tmp_path / "resumed" / "checkpoints").mkdir(parents=True)
    shutil.copytree(whole_run / "checkpoints" / "3", tmp_path / "resumed" / "checkpoints" / "3")
    run_training(resumed)
    assert "resumed at step 3" in capsys.readouterr().out
    assert_same_weights(whole_run, tmp_path / "resumed")


def test_resumed_chains_repeat_the_uninterrupted_ones(whole_run, tmp_path):
    task = amortized_task(whole_run, states="chain", block_weight="expected_residual")
    run_training(config(tmp_path / "whole", task=task, num_train_steps=12, validate_every=12))
    resumed = tmp_path / "resumed" / "checkpoints"
    resumed.mkdir(parents=True)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "9", resumed / "9")
    again = config(resumed.parent, task=task, num_train_steps=12, validate_every=12)
    run_training(again)
    assert_same_weights(tmp_path / "whole", resumed.parent)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Settings of training on random crops of photographs of different sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(10):
        image = SyntheticData(1, (20 + i, 40 - i, 1), seed=i).open()[0]
        Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    data = FolderData(str(folder), crop=8, reduce=(1, 2), flip=True)
    constant = OptimizerConfig(peak_lr=3e-3, warmup_steps=2, schedule="constant")
    return {"train_data": data, "validation_data": data, "optimizer": constant}


def test_a_run_on_random_crops_that_was_told_to_stop_repeats_the_uninterrupted_one(
    photographs, tmp_path
):
    steps: dict[str, Any] = {
        "num_train_steps": 500,
        "checkpoint_every": 500,
        "validate_every": 500,
        "log_every": 5,
    }
    run = config(tmp_path / "stopped", **photographs, **steps)
    command = [sys.executable, "-c", TRAIN, json.dumps(to_json(run))]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "stopped" / "log.csv"
    while not (log.is_file() and len(log.read_text().splitlines()) > 20):
        assert started.poll() is None
        time.sleep(0.02)
    started.terminate()
    said, _ = started.communicate(timeout=60)
    assert started.returncode == 143
    (saved,) = (int(one.name) for one in (tmp_path / "stopped" / "checkpoints").iterdir())
    assert saved < 500 and f"the same command goes on from step {saved}" in said
    run_training(run)
    run_training(config(tmp_path / "whole", **photographs, **steps))
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_a_photograph_that_is_damaged_ends_the_run_at_its_step(photographs, tmp_path):
    folder = Path(photographs["train_data"].path)
    number = next(iter(set(range(10)) - set(batch_indices(0, 0, 8, 10).tolist())))
    shutil.copytree(folder, tmp_path / "damaged")
    damaged = tmp_path / "damaged" / f"{number}.png"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    data = dataclasses.replace(photographs["train_data"], path=str(tmp_path / "damaged"))
    run = config(tmp_path / "run", **photographs | {"train_data": data}, checkpoint_every=1)
    with pytest.raises(UserError, match=rf"image: got .*{number}.png; remove or replace it"):
        run_training(run)
    assert not [one for one in threading.enumerate() if one.name.startswith("load")]
    assert [one.name for one in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]
    shutil.copy(folder / damaged.name, damaged)
    run_training(run)
    run_training(config(tmp_path / "whole", **photographs))
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_loss_falls(tmp_path):
    run_training(config(tmp_path / "run", num_train_steps=150, checkpoint_every=150,
                        validate_every=10, log_every=150))  # fmt: skip
    with (tmp_path / "run" / "log.csv").open() as file:
        values = [float(r["value"]) for r in csv.DictReader(file) if r["name"] == "validation_loss"]
    assert len(values) == 15 and values[-1] < 0.8 * values[0]


def test_the_best_weights_are_kept_over_restarts(tmp_path):
    # Too fast to stay good: the best weights are not the last ones.
    optimizer = OptimizerConfig(0.05, schedule="constant", warmup_steps=2, ema_decay=0.1)
    run = config(tmp_path / "run", num_train_steps=30, optimizer=optimizer, keep_last=10)
    run_training(run)
    with (tmp_path / "run" / "log.csv").open() as file:
        losses = {
            int(row["step"]): float(row["value"])
            for row in csv.DictReader(file) if row["name"] == "validation_loss"
        }  # fmt: skip
    best = min(losses, key=losses.__getitem__)
    assert 3 < best < 30
    card = read_card(tmp_path / "run" / "best")
    assert card["step"] == best
    assert card["validation"]["validation_loss"] == pytest.approx(losses[best], rel=1e-5)
    kept = read_card(tmp_path / "run" / "best")["weights"]["sha256"]
    assert kept != read_card(tmp_path / "run" / "weights")["weights"]["sha256"]
    # Run again from there: nothing better comes.
    for step in range(best + 3, 33, 3):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    run_training(run)
    assert read_card(tmp_path / "run" / "best") == card


def test_amortized_training_beats_the_block_prior(whole_run, tmp_path):
    task = amortized_task(whole_run)
    run_training(config(tmp_path / "run", task=task, num_train_steps=60, validate_every=60,
                        checkpoint_every=60, log_every=60))  # fmt: skip
    with (tmp_path / "run" / "log.csv").open() as file:
        scores = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    assert 0 < scores["validation_ratio"] < 0.98


def test_a_prior_learns_the_classes_of_its_images(tmp_path):
    """Dark and bright images; where noise hides everything, only the class tells which."""
    shades = np.array([40, 215] * 8, np.uint8)
    lines = []
    for i, shade in enumerate(shades):
        Image.fromarray(np.full((8, 8), shade)).save(tmp_path / f"{i:02d}.png")
        lines.append(f"{i:02d}.png {i % 2}\n")
    (tmp_path / "classes.txt").write_text("".join(lines))
    data = FolderData(str(tmp_path), classes=str(tmp_path / "classes.txt"))
    task = PriorTask(dataclasses.replace(NETWORK, num_classes=2), 1.5, 1.0, label_dropout=0.3)
    shared = {"train_data": data, "validation_data": data, "task": task}
    folder = run_training(config(tmp_path / "run", **shared, num_train_steps=300, batch_size=16,
                                 checkpoint_every=300, validate_every=300))  # fmt: skip
    prior = load_prior(str(folder))
    sigma = jax.numpy.float32(10.0)
    z = sigma * jax.random.normal(jax.random.key(0), (64, 8, 8, 1))
    for label, found in ((None, 0.0), ([1.0, 0.0], -0.686), ([0.0, 1.0], 0.686)):
        shown = None if label is None else jax.numpy.array(label)
        x_0 = jax.vmap(prior.at_sigma, (0, None, None))(z, sigma, shown)
        assert abs(float(x_0.mean()) - found) < 0.25

    for changes, words in (
        ({"task": PriorTask(dataclasses.replace(NETWORK, num_classes=1))}, "class of 0.*: got 1"),
        ({"train_data": FolderData(str(tmp_path))}, "train_data: got images without classes"),
        ({"validation_data": FolderData(str(tmp_path))}, "validation_data: got images without"),
    ):
        with pytest.raises(UserError, match=words):
            run_training(config(tmp_path / "other", **(shared | changes)))


def test_only_blocks_that_the_sampler_poses_are_learned(whole_run):
    amortized_task(whole_run, high_idx=18)  # Its last step has t_next = times[19].
    with pytest.raises(UserError, match="num_steps - 2 = 18"):
        amortized_task(whole_run, high_idx=19)


def test_directory_of_another_run_is_refused(whole_run):
    with pytest.raises(UserError, match="another batch_size"):
        run_training(config(whole_run, batch_size=4))


def test_a_run_whose_weights_were_taken_away_exports_again(whole_run, tmp_path):
    replicated = tmp_path / "replicated"
    shutil.copytree(whole_run, replicated)
    shutil.rmtree(replicated / "weights")
    # How often a run logs may change when it goes on.
    run_training(config(replicated, log_every=2))
    assert_same_weights(whole_run, replicated)


def test_a_run_goes_on_from_the_last_good_checkpoint(whole_run, tmp_path, capsys):
    replicated = tmp_path / "replicated"
    shutil.copytree(whole_run, replicated)
    for file in (replicated / "checkpoints" / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    run_training(config(replicated))
    said = capsys.readouterr().out
    assert "warning: damaged checkpoint, now " in said and "resumed at step 3" in said
    assert_same_weights(whole_run, replicated)


def test_damaged_files_of_a_run_are_named(whole_run, tmp_path):
    replicated = tmp_path / "replicated"
    shutil.copytree(whole_run, replicated)
    (replicated / "config.json").write_text('{"is": ')
    with pytest.raises(UserError, match=r"config.json, which is damaged or of no training run"):
        run_training(config(replicated))


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path):
    wild = OptimizerConfig(peak_lr=1e30, warmup_steps=0, schedule="constant")
    good = r"loss at step \d: got .*; lower optimizer.peak_lr, in a new run_dir; .*, copy .*/1 to"
    with pytest.raises(UserError, match=good):
        run_training(config(tmp_path / "run", optimizer=wild, log_every=100, checkpoint_every=1))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]
    with pytest.raises(UserError, match=r"loss at step 2: .*\(1 steps skipped\)"):
        run_training(config(tmp_path / "other", optimizer=wild, max_skipped_steps=0))


def test_a_last_step_that_is_skipped_ends_the_run_as_any_other(tmp_path, monkeypatch):
    make = training_run.make_train_step

    def spoiled(*given, **settings):
        step = make(*given, **settings)

        class Compiled:
            def lower(self, *inputs):
                return self

            def compile(self):
                return self

            def memory_analysis(self):
                return None

            def __call__(self, state, frozen, images, *rest):
                images = jax.numpy.where(state.step == 5, jax.numpy.nan, images)
                return step(state, frozen, images, *rest)

        return Compiled()

    monkeypatch.setattr(training_run, "make_train_step", spoiled)
    run_training(config(tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"3", "6"}


@pytest.mark.parametrize("shape,message", [((8, 8, 3), "channels"), ((8, 10, 1), "multiples of 4")])
def test_images_that_do_not_fit_are_refused(tmp_path, shape, message):
    with pytest.raises(UserError, match=message):
        run_training(config(tmp_path / "run", train_data=SyntheticData(8, shape)))
    assert not (tmp_path / "run").exists()


def test_configuration_survives_json(tmp_path):
    assert from_json(to_json(config(tmp_path))) == config(tmp_path)


def test_an_amortized_network_is_no_prior(whole_run, tmp_path):
    with pytest.raises(UserError, match="no exported weights"):
        load_prior(str(tmp_path / "missing"))
    prior = load_prior(str(whole_run / "weights"))
    assert np.isfinite(prior(jax.numpy.ones((8, 8, 1)), jax.numpy.int32(50))).all()


@pytest.mark.parametrize("field", ["train_data", "validation_data"])
def test_mistakes_in_data_are_named_after_their_flag(tmp_path, field):
    nowhere = FolderData(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=f"^{field}.path: got .*nowhere"):
        run_training(config(tmp_path / "run", **{field: nowhere}))
    assert not list(tmp_path.iterdir())


def test_chains_that_do_not_fit_are_refused_before_they_begin(whole_run, tmp_path, monkeypatch):
    task = amortized_task(whole_run, states="chain", block_weight="expected_residual")
    monkeypatch.setattr("lavps_jax.distributed.memory.available_bytes", lambda: 1000)
    # The training step would be refused as well; it must not get that far.
    monkeypatch.setattr("lavps_jax.runs.training.make_train_step", lambda *_, **__: None)
    with pytest.raises(UserError, match="batch_size: got .* of memory; lower it"):
        run_training(config(tmp_path / "run", task=task))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_costs_no_checkpoint(whole_run, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        run = config(disk / "run", checkpoint_every=1)
        command = [sys.executable, "-c", TRAIN, json.dumps(to_json(run))]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        remedy = "make room, then the same command goes on"
        told = ended.stderr.splitlines()
        assert f"error: disk: No space left on device; {remedy}" in told
        assert not any("RESOURCE_EXHAUSTED" in line for line in told)
        assert ended.returncode == 2
        checkpoints = disk / "run" / "checkpoints"
        steps = sorted(int(one.name) for one in checkpoints.iterdir() if one.name.isdigit())
        assert steps and steps[-1] < 5
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        run_training(run)
        assert f"resumed at step {steps[-1]} of 6" in capsys.readouterr().out
        assert_same_weights(whole_run, disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_only_the_first_process_has_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "is_first", lambda: False)
    run_folder.RunLog(tmp_path, 0).write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
