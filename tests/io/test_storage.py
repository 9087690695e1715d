"""Folders on disk and in a bucket: complete, or absent."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import sys
from functools import partial

import jax
import numpy as np
import pytest
from bucket_server import BucketServer, Stored
from flax import nnx

from lavps_jax.config.settings import PriorTask, SampleConfig, TrainConfig, to_json
from lavps_jax.data import SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.io.own_folders import MARK, new_mark, read_mark, write_directory
from lavps_jax.io.storage import as_path, write_file
from lavps_jax.io.weights import export_weights, read_card
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig, split
from lavps_jax.operators import families
from lavps_jax.runs.loading import load_network
from lavps_jax.runs.sampling import run_sampling
from lavps_jax.runs.training import run_training
from lavps_jax.samplers import DPS


def _entries(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.name != MARK)


def _make(path, **files):
    """A folder as the program makes it; "metrics" is metrics.json."""
    with write_directory(path, "samples") as folder:
        for name, content in files.items():
            (folder / f"{name}.json").write_text(content)


def test_directory_appears_when_complete(tmp_path):
    with write_directory(tmp_path / "deep" / "run", "samples") as folder:
        (folder / "a.txt").write_text("done")
        assert not (tmp_path / "deep" / "run").exists()
        assert folder.parent == tmp_path / "deep"
    assert (tmp_path / "deep" / "run" / "a.txt").read_text() == "done"
    assert _entries(tmp_path / "deep") == ["run"]


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with write_directory(tmp_path / "run", "samples") as folder:
            (folder / "half.txt").write_text("half")
            raise KeyboardInterrupt
    assert _entries(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupt_at_any_line_leaves_all_or_nothing(tmp_path, existing):
    target = tmp_path / "run"
    if existing:
        _make(target, metrics="old")
    before = _entries(tmp_path)

    def write(last_line):
        """Raises at the line of this number, counted through everything that is called."""
        passed = 0

        def trace(frame, event, argument):
            nonlocal passed
            passed += event == "line"
            if passed > last_line:
                raise KeyboardInterrupt
            return trace

        tracer = sys.gettrace()
        sys.settrace(trace)
        try:
            with write_directory(target, "samples", overwrite=True) as folder:
                (folder / "new.txt").write_text("new")
        finally:
            sys.settrace(tracer)

    for last_line in itertools.count():
        with contextlib.suppress(KeyboardInterrupt):
            write(last_line)
        if (target / "new.txt").exists():
            break  # What is left is tidying up.
        assert _entries(tmp_path) == before
        assert not existing or (target / "metrics.json").read_text() == "old"
    assert last_line > 20 and _entries(target) == ["new.txt"]


def test_an_existing_directory_is_kept_unless_asked_and_until_the_end(tmp_path):
    target = tmp_path / "run"
    _make(target, metrics="old")
    with pytest.raises(UserError, match="run; choose a new name"):
        with write_directory(target, "samples"):
            pytest.fail("refused before anything is computed")
    with pytest.raises(RuntimeError):
        with write_directory(target, "samples", overwrite=True) as folder:
            raise RuntimeError
    assert (target / "metrics.json").read_text() == "old"
    with write_directory(target, "samples", overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        assert (target / "metrics.json").exists()
    assert _entries(target) == ["new.txt"] and _entries(tmp_path) == ["run"]
    (tmp_path / "file").write_text("file")
    with pytest.raises(UserError, match="this is a file"):
        with write_directory(tmp_path / "file", "samples", overwrite=True):
            pass


def test_files_of_somebody_else_are_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("a photo")
    with pytest.raises(UserError, match="it holds other files"):
        with write_directory(tmp_path / "photos", "samples", overwrite=True):
            pass
    monkeypatch.chdir(tmp_path / "photos")
    for here in (".", "..", tmp_path):
        with pytest.raises(UserError, match="below the current one"):
            with write_directory(here, "samples", overwrite=True):
                pass
    assert _entries(tmp_path / "photos") == ["a.png"]


def test_a_directory_made_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(UserError, match="choose a new name"):
        with write_directory(tmp_path / "run", "samples"):
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "theirs.txt").write_text("theirs")
    assert _entries(tmp_path / "run") == ["theirs.txt"] and _entries(tmp_path) == ["run"]


# ---- Buckets ----


@pytest.fixture(scope="module")
def server():
    """One for all tests: gcsfs keeps its connections."""
    with (
        BucketServer.running("bucket", "private") as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in running.environment.items():
            patch.setenv(name, value)
        running.forbidden.add("private")
        yield running


@pytest.fixture
def objects(server):
    """What is in the bucket, nothing at first."""
    server.buckets["bucket"].clear()
    server.written.clear()
    return server.buckets["bucket"]


def test_a_folder_of_a_bucket_is_complete_when_its_mark_is_there(server, objects):
    with write_directory("gs://bucket/runs/out", "samples") as folder:
        (folder / "metrics.json").write_text("{}")
        (folder / "images").mkdir()
        (folder / "images" / "a.png").write_bytes(b"a")
        assert not objects
    made = ["runs/out/.lavps_jax.json", "runs/out/images/a.png", "runs/out/metrics.json"]
    assert sorted(objects) == made
    assert server.written[-2:] == ["runs/out/metrics.json", "runs/out/.lavps_jax.json"]
    mark = read_mark(as_path("gs://bucket/runs/out", "x") / MARK)
    assert mark is not None and mark["files"] == {"images/a.png": 1, "metrics.json": 2}


def test_a_failure_leaves_nothing_in_a_bucket(server, objects, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        with write_directory("gs://bucket/out", "samples"):
            raise KeyboardInterrupt
    assert not objects
    # Neither does one while it sends.
    with pytest.raises(UserError, match="output directory: got gs://bucket/out; .* no permission"):
        with write_directory("gs://bucket/out", "samples") as folder:
            (folder / "metrics.json").write_text("{}")
            (folder / "a.txt").write_text("a")

            def refuse(path, _):
                raise OSError("no permission")

            monkeypatch.setattr(type(as_path("gs://bucket/out", "x")), "write_bytes", refuse)
    assert not objects


def test_what_is_in_a_bucket_is_kept_unless_asked(objects):
    with write_directory("gs://bucket/out", "samples") as folder:
        (folder / "metrics.json").write_text("old")
        (folder / "old.txt").write_text("old")
    with pytest.raises(UserError, match="choose a new name or set overwrite"):
        with write_directory("gs://bucket/out", "samples"):
            pytest.fail("refused before anything is computed")
    with pytest.raises(RuntimeError):
        with write_directory("gs://bucket/out", "samples", overwrite=True):
            raise RuntimeError
    assert objects["out/metrics.json"].data == b"old"
    with write_directory("gs://bucket/out", "samples", overwrite=True) as folder:
        (folder / "metrics.json").write_text("new")
    objects.pop("out/.lavps_jax.json")
    assert {name: one.data for name, one in objects.items()} == {"out/metrics.json": b"new"}
    as_path("gs://bucket/photos/a.png", "x").write_bytes(b"a photo")
    with pytest.raises(UserError, match="it holds other files"):
        with write_directory("gs://bucket/photos", "samples", overwrite=True):
            pass
    # A file of this name is no mark unless it says so.
    as_path("gs://bucket/photos/.lavps_jax.json", "x").write_text('{"files": {"a.png": 7}}')
    with pytest.raises(UserError, match="it holds other files"):
        with write_directory("gs://bucket/photos", "samples", overwrite=True):
            pass
    assert objects["photos/a.png"].data == b"a photo"


def test_a_folder_of_a_bucket_that_was_being_filled_is_nobodys(objects, monkeypatch):
    """Killed while it replaced a.png and b.png by c.png; then somebody put a photo there."""
    out = as_path("gs://bucket/out", "x")
    _make("gs://bucket/out", metrics="old")

    def killed(path, data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        with write_directory("gs://bucket/out", "samples", overwrite=True) as folder:
            (folder / "c.png").write_bytes(b"c")
            patch.setattr(type(out), "write_bytes", killed)
            patch.setattr(type(out), "unlink", lambda *_, **__: None)  # Nor does it tidy up.
    assert sorted(objects) == ["out/.lavps_jax.json", "out/metrics.json"]
    (out / "photo.png").write_bytes(b"a photo")
    with pytest.raises(UserError, match=r"it holds other files \(photo.png\)"):
        _make("gs://bucket/out", metrics="new")
    (out / "photo.png").unlink()
    _make("gs://bucket/out", metrics="new")
    assert objects["out/metrics.json"].data == b"new"


def test_what_somebody_else_finished_meanwhile_is_theirs(objects):
    with pytest.raises(UserError, match="choose a new name"):
        with write_directory("gs://bucket/out", "samples") as folder:
            (folder / "metrics.json").write_text("ours")
            with write_directory("gs://bucket/out", "samples") as other:
                (other / "metrics.json").write_text("theirs")
    assert objects["out/metrics.json"].data == b"theirs"


def test_of_two_that_send_at_once_the_first_gives_way(objects, monkeypatch):
    mark = as_path("gs://bucket/out/.lavps_jax.json", "x")
    kind, write = type(mark), type(mark).write_bytes

    def interrupted(path, data):
        mark.write_text(json.dumps(new_mark("samples") | {"token": "of another run"}))
        return write(path, data)

    with pytest.raises(UserError, match="another run is writing there"):
        with write_directory("gs://bucket/out", "samples") as folder:
            (folder / "metrics.json").write_text("ours")
            (folder / "a.txt").write_text("ours")
            monkeypatch.setattr(kind, "write_bytes", interrupted)
    assert sorted(objects) == ["out/.lavps_jax.json", "out/a.txt"]


def test_an_object_appears_when_it_is_complete(objects):
    path = as_path("gs://bucket/log.csv", "run_dir")
    with pytest.raises(KeyboardInterrupt):
        with write_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert not objects
    with write_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole" and list(objects) == ["log.csv"]


@pytest.mark.parametrize(
    "path",
    ["s3://bucket/run", "gs://", "gs:///run", "gs://bucket", "gs://bucket/", "gs:/bucket/a"],
)
def test_other_kinds_of_storage_are_refused(path):
    with pytest.raises(UserError, match=f"run_dir: got {path}; give a folder on disk or gs://"):
        as_path(path, "run_dir")


def test_what_buckets_need_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install gcsfs"):
        as_path("gs://bucket/run", "run_dir")


@pytest.mark.parametrize("bucket", ["none", "private"])
def test_a_bucket_that_cannot_be_used_is_named_before_anything_is_computed(server, bucket):
    with pytest.raises(UserError, match=f"output directory: got gs://{bucket}/out; choose another"):
        with write_directory(f"gs://{bucket}/out", "samples"):
            pytest.fail("refused before anything is computed")


# ---- Runs ----

train = partial(run_training, devices=jax.devices()[:1])
sample = partial(run_sampling, devices=jax.devices()[:1])
NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


def trained(run_dir: str) -> TrainConfig:
    return TrainConfig(
        task=PriorTask(NETWORK),
        train_data=SyntheticData(40, (8, 8, 1)),
        validation_data=SyntheticData(16, (8, 8, 1), seed=1),
        run_dir=run_dir,
        batch_size=8,
        num_train_steps=6,
        log_every=1,
        validate_every=6,
        checkpoint_every=2,
    )


def losses(log: bytes) -> list[str]:
    """The rows of log.csv that are the same in every run."""
    rows = [row for row in log.decode().splitlines() if "images_per_second" not in row]
    assert len(rows) > 12
    return rows


def test_training_in_a_bucket_goes_on_and_ends_with_the_same_weights(
    server, objects, tmp_path, capsys
):
    train(trained(str(tmp_path / "run")))
    bucket = trained("gs://bucket/run")
    train(bucket)
    assert losses(objects["run/log.csv"].data) == losses((tmp_path / "run/log.csv").read_bytes())
    steps = {name.split("/")[2] for name in objects if name.startswith("run/checkpoints/")}
    assert steps == {"4", "6"}  # keep_last = 2
    # The newest checkpoint is damaged, and the run goes on from the one before.
    for name in [name for name in objects if name.startswith("run/checkpoints/6/state/d/")]:
        data = bytearray(objects[name].data)
        data[len(data) // 2] ^= 1
        server.count += 1
        objects[name] = Stored(bytes(data), server.count)
    for name in [name for name in objects if name.startswith("run/weights/")]:
        del objects[name]
    capsys.readouterr()
    train(bucket)
    told = capsys.readouterr().out
    assert "damaged-6" in told and "resumed at step 4 of 6" in told
    assert read_card("gs://bucket/run/best") == read_card("gs://bucket/run/weights")
    wanted = load_network(str(tmp_path / "run" / "weights"))[1]
    found = load_network("gs://bucket/run/weights")[1]
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="it holds a run with another batch_size"):
        train(dataclasses.replace(bucket, batch_size=4))
    with pytest.raises(UserError, match="run_dir: got gs://private/run; choose another"):
        train(trained("gs://private/run"))


def test_sampling_processes_meet_in_a_bucket(objects, tmp_path, perturb):
    weights = perturb(split(NETWORK.build(nnx.Rngs(0)))[1])
    export_weights("gs://bucket/prior", weights, {"config": to_json(trained("none"))})
    config = SampleConfig(
        "gs://bucket/prior", SyntheticData(8, (8, 8, 1), seed=2), families.RandomPixels(0.4, 0.6),
        DPS(num_steps=4), "gs://bucket/out", num_images=3, num_particles=2, batch_size=1,
    )  # fmt: skip
    sample(dataclasses.replace(config, out_dir=str(tmp_path / "out")))
    sample(dataclasses.replace(config, process_index=1, process_count=2))
    batches = {name for name in objects if name.endswith(".npz")}
    assert batches == {"out.job/dps_000001.npz", "out.job/measured_000001.npz"}
    sample(dataclasses.replace(config, process_index=0, process_count=2))
    assert not [name for name in objects if name.startswith("out.job")]
    wanted = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*.png")
    }
    found = {
        name.removeprefix("out/"): one.data
        for name, one in objects.items()
        if name.startswith("out/") and name.endswith(".png")
    }
    assert found == wanted and len(wanted) > 3
    with pytest.raises(UserError, match="choose a new name or set overwrite"):
        sample(config)
    for prior, words in {
        "gs://bucket/none": "weights: got gs://bucket/none, where no exported weights are",
        "gs://none/prior": "weights: got gs://none/prior",
        "gs://private/prior": "weights: got gs://private/prior; choose another",
    }.items():
        with pytest.raises(UserError, match=words):
            sample(dataclasses.replace(config, prior=prior, out_dir="gs://bucket/new"))
    for index in (0, 1):
        share = dataclasses.replace(
            config, out_dir="gs://private/out", process_index=index, process_count=2
        )
        with pytest.raises(UserError, match="gs://private/out; choose another"):
            sample(share)
    assert not [name for name in objects if name.startswith("new")]
