"""Runs that are shared between processes, or interrupted, give what one run gives."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lavps_jax.config.settings import PriorTask, SampleConfig, TrainConfig, to_json
from lavps_jax.data import FolderData, SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig, split
from lavps_jax.operators import families
from lavps_jax.runs import sampling_job
from lavps_jax.runs.loading import load_network
from lavps_jax.runs.sampling import run_sampling as run_sampling_on
from lavps_jax.runs.sampling_job import Batch, Processes, SamplingJob, detect_processes
from lavps_jax.samplers import DPS, MGDM

ROOT = Path(__file__).parents[2]
run_sampling = partial(run_sampling_on, devices=jax.devices()[:1])
NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


@pytest.fixture(scope="module")
def prior(tmp_path_factory, perturb):
    folder = tmp_path_factory.mktemp("prior") / "weights"
    config = TrainConfig(PriorTask(NETWORK), SyntheticData(), SyntheticData(), run_dir="none")
    weights = perturb(split(config.task.network.build(nnx.Rngs(0)))[1])
    export_weights(folder, weights, {"config": to_json(config)})
    return str(folder)


def config(folder, prior, **changes) -> SampleConfig:
    base = SampleConfig(
        prior,
        SyntheticData(8, (8, 8, 1), seed=2),
        families.RandomPixels(0.4, 0.6),
        DPS(num_steps=4),
        str(folder / "out"),
        num_images=5,
        num_particles=2,
        batch_size=2,
        compare_with=(MGDM(num_steps=5, high_idx=2),),
    )
    return dataclasses.replace(base, **changes)


def results(folder):
    """Everything that a run wrote but the times."""
    files = {
        str(file.relative_to(folder / "out")): file.read_bytes()
        for file in (folder / "out").rglob("*.png")
    }
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    for one in (metrics, *metrics["compared"]):
        assert one["mean"].pop("seconds_per_image") > 0
    assert len(files) == 1 + 5 * (2 + 2 * 4)
    return files, metrics


@pytest.fixture(scope="module")
def whole(prior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_sampling(config(folder, prior))
    assert [path.name for path in folder.iterdir()] == ["out"]
    return results(folder)


@pytest.mark.slow
def test_four_processes_make_what_one_makes(prior, whole, tmp_path):
    run = (
        "import json, sys; from lavps_jax.config.settings import from_json; "
        "from lavps_jax.runs.sampling import run_sampling; "
        "run_sampling(from_json(json.loads(sys.argv[1])))"
    )
    shares = [config(tmp_path, prior, process_index=i, process_count=4) for i in range(4)]
    others = [
        subprocess.Popen([sys.executable, "-c", run, json.dumps(to_json(share))], cwd=ROOT,
                         stdout=subprocess.PIPE, text=True)
        for share in shares[1:]
    ]  # fmt: skip
    run_sampling(shares[0])
    for index, process in enumerate(others, start=1):
        assert f"process {index} is done" in process.communicate(timeout=60)[0]
    assert results(tmp_path) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_devices_make_what_one_makes(prior, whole, tmp_path, monkeypatch):
    """Three batches, so that one of them is idle in the end."""
    put, used = jax.device_put, set()
    monkeypatch.setattr(jax, "device_put", lambda x, d: (used.add(d), put(x, d))[1])
    run_sampling_on(config(tmp_path, prior), devices=jax.devices()[1:3])
    assert used == set(jax.devices()[1:3])
    assert results(tmp_path) == whole


def test_a_restart_does_only_what_is_missing(prior, whole, tmp_path, monkeypatch, capsys):
    """Interrupted as the second sampler is about to do its second batch of three; the first one of
    the first sampler is then damaged."""
    write, written = SamplingJob.write, []

    def interrupted(job, *args):
        if args[:2] == ("mgdm", 1):
            raise KeyboardInterrupt
        written.append(args[:2])
        write(job, *args)

    monkeypatch.setattr(SamplingJob, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sampling(config(tmp_path, prior))
    assert [path.name for path in tmp_path.iterdir()] == ["out.job"]
    assert "out.job: the same command goes on" in capsys.readouterr().out

    with pytest.raises(UserError, match="out.job, an unfinished run with another seed; delete it"):
        run_sampling(config(tmp_path, prior, seed=1))

    damaged = tmp_path / "out.job" / "dps_000000.npz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    again = []
    monkeypatch.setattr(SamplingJob, "write", lambda *a: (again.append(a[1:3]), write(*a)))
    run_sampling(config(tmp_path, prior))
    assert written == [("measured", 0), ("dps", 0), ("mgdm", 0), ("measured", 1), ("dps", 1)]
    assert again == [("dps", 0), ("mgdm", 1), ("measured", 2), ("dps", 2), ("mgdm", 2)]
    said = capsys.readouterr().out
    assert "dps: 1 of 3 batches were done before" in said and "mgdm: 1 of 3" in said
    assert results(tmp_path) == whole


def batch(number=0) -> Batch:
    scores = np.full((1, 1), float(number))
    return Batch(
        {"seconds": 2.0}, {"psnr": scores}, {}, {"a/b.png": np.arange(3, dtype=np.uint8)}, {}
    )


def test_other_weights_are_another_run(prior, tmp_path):
    job = SamplingJob(str(tmp_path / "out"), {"a": 1, "sums": [1, 2]}, Processes(0, 1),
                      overwrite=False)  # fmt: skip
    job.write("dps", 0, batch())
    with pytest.raises(UserError, match="unfinished run with another sums"):
        SamplingJob(str(tmp_path / "out"), {"a": 1, "sums": [1, 3]}, Processes(0, 1),
                    overwrite=False)  # fmt: skip
    new = SamplingJob(str(tmp_path / "out"), {"a": 1, "sums": [1, 3]}, Processes(0, 1),
                      overwrite=True)  # fmt: skip
    assert new.is_empty() and new.read("dps", 0) is None


def test_a_run_with_other_weights_is_not_gone_on_with(prior, tmp_path, monkeypatch):
    replicated = tmp_path / "prior"
    shutil.copytree(prior, replicated)
    interrupt_after_a_batch(monkeypatch)
    small = config(tmp_path, str(replicated), num_images=2, compare=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        run_sampling(small)
    weights = load_network(prior)[1]
    card = {"config": to_json(TrainConfig(PriorTask(NETWORK), SyntheticData(), SyntheticData(),
                                          run_dir="none"))}  # fmt: skip
    changed = jax.tree.map(lambda leaf: leaf + 1e-3, weights)
    export_weights(replicated, changed, card, overwrite=True)
    with pytest.raises(UserError, match="unfinished run with another weights"):
        run_sampling(small)


def interrupt_after_a_batch(monkeypatch):
    write = SamplingJob.write

    def interrupted(job, name, *batch):
        write(job, name, *batch)
        if name == "dps":
            raise RuntimeError("interrupted")

    monkeypatch.setattr(SamplingJob, "write", interrupted)


def notes_alone(folder):
    (folder / "notes.txt").write_text("three weeks of work")


def test_a_run_with_other_measurements_is_not_gone_on_with(prior, tmp_path, monkeypatch):
    """An image of the second batch is another one."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    (tmp_path / "data").mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "data" / f"{k}.png")
    small = config(tmp_path, prior, data=FolderData(str(tmp_path / "data")), num_images=3)
    with monkeypatch.context() as patch:
        write = SamplingJob.write

        def interrupted(job, name, number, batch):
            if (name, number) == ("mgdm", 1):
                raise KeyboardInterrupt
            write(job, name, number, batch)

        patch.setattr(SamplingJob, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sampling(small)
    Image.fromarray(255 - images[2]).save(tmp_path / "data" / "2.png")
    with pytest.raises(UserError, match="unfinished run with another measurements; delete it"):
        run_sampling(small)


def batches_of_something(folder):
    (folder / "dps_000000.npz").write_bytes(b"numbers")


def a_run_of_something(folder):
    (folder / "run.json").write_text('{"seed": 1}')
    notes_alone(folder)


@pytest.mark.parametrize("put", [notes_alone, batches_of_something, a_run_of_something])
def test_a_folder_of_somebody_else_is_no_job(prior, tmp_path, put, monkeypatch):
    """It happens to have the name of the one that the run would use."""
    (tmp_path / "out.job").mkdir()
    put(tmp_path / "out.job")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out.job").iterdir()}
    monkeypatch.setattr("lavps_jax.runs.sampling.prepare", lambda *_: pytest.fail("it began"))
    for shared in ({}, {"process_index": 1, "process_count": 2}):
        with pytest.raises(UserError, match="out.job, which holds other files; choose another"):
            run_sampling(config(tmp_path, prior, overwrite=True, **shared))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out.job").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.job"]


def test_a_file_with_the_name_of_the_job_is_told(prior, tmp_path):
    (tmp_path / "out.job").write_text("my job")
    with pytest.raises(UserError, match="out_dir: got .*out.job; choose another"):
        run_sampling(config(tmp_path, prior, overwrite=True))
    assert (tmp_path / "out.job").read_text() == "my job"


def test_what_is_put_into_a_job_outlives_it(prior, tmp_path):
    small = config(tmp_path, prior, num_images=1, compare=False)
    job = SamplingJob(small.out_dir, {"seed": 7}, Processes(0, 1), overwrite=False)
    notes_alone(job.folder)
    (job.folder / ".dps_000003.npz.0123abcd.tmp").write_bytes(b"killed while it was written")
    run_sampling(dataclasses.replace(small, overwrite=True))
    assert [path.name for path in job.folder.iterdir()] == ["notes.txt"]
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_a_job_that_was_killed_as_it_began_is_no_obstacle(tmp_path):
    (tmp_path / "out.job").mkdir()
    (tmp_path / "out.job" / ".run.json.0123abcd.tmp").write_text("{")
    job = SamplingJob(str(tmp_path / "out"), {}, Processes(0, 1), overwrite=False)
    job.remove()
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_another_process_is_told(tmp_path):
    one, two = (SamplingJob(str(tmp_path / "out"), {}, Processes(i, 2), overwrite=False)
                for i in (0, 1))  # fmt: skip
    two.write_mistake(UserError("samples", "values that are not finite", "use less"))
    with pytest.raises(UserError, match="^samples: got values that are not finite; use less$"):
        list(one.collect([("dps", 1)], lambda: None))
    # Started again, it begins anew.
    SamplingJob(str(tmp_path / "out"), {}, Processes(1, 2), overwrite=False)
    assert not list((tmp_path / "out.job").glob("mistake*"))


def test_another_process_refuses_what_is_there_already(prior, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="output directory"):
        run_sampling(config(tmp_path, prior, process_index=1, process_count=2))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_kept_outlives_a_lack_of_memory(prior, tmp_path, monkeypatch):
    interrupt_after_a_batch(monkeypatch)
    small = config(tmp_path, prior, num_images=4, compare=False)
    with pytest.raises(RuntimeError):
        run_sampling(small)
    monkeypatch.undo()
    monkeypatch.setattr("lavps_jax.distributed.memory.available_bytes", lambda: 1)
    with pytest.raises(UserError, match="batch_size, num_particles"):
        run_sampling(small)
    assert (tmp_path / "out.job" / "dps_000000.npz").exists()
    monkeypatch.undo()
    monkeypatch.setattr("lavps_jax.runs.sampling.describe_code", lambda: "other code")
    with pytest.raises(UserError, match="an unfinished run with another code"):
        run_sampling(small)


def test_batches_of_other_processes_are_waited_for(tmp_path):
    """Batch 1 comes only after it was said that something is waited for."""
    one, two = (SamplingJob(str(tmp_path / "out"), {}, Processes(i, 2), overwrite=False)
                for i in (0, 1))  # fmt: skip
    one.write("dps", 0, batch(0))
    told, wanted = [], [("dps", 0), ("dps", 1)]
    waiting = lambda: (told.append(1), two.write("dps", 1, batch(1)))  # noqa: E731
    found = list(one.collect(wanted, waiting))
    assert told == [1]
    assert [float(one.scores["psnr"].mean()) for one in found] == [0, 1]
    assert found[0].files["a/b.png"].tobytes() == bytes(range(3))


def test_a_process_that_never_comes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_job, "PATIENCE", 0.5)
    job = SamplingJob(str(tmp_path / "out"), {}, Processes(0, 2), overwrite=False)
    job.write("dps", 0, batch())
    told = []
    with pytest.raises(UserError, match="no batch 1 of dps; start process 1 again"):
        list(job.collect([("dps", 0), ("dps", 1)], lambda: told.append(1)))
    assert told == [1]


def test_which_process_this_is():
    assert detect_processes(None, None, {}) == (0, 1)
    pod = {"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "1"}
    with pytest.raises(UserError, match="give [$]JOB_COMPLETION_INDEX and the number of pods"):
        detect_processes(None, None, pod)
    assert detect_processes(1, 8, pod) == (1, 8)
    assert detect_processes(1, 4, {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"}) == (1, 4)
    slurm = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "9"}
    assert detect_processes(None, None, slurm) == (2, 8)
    # A batch script outside of a step.
    assert detect_processes(None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "9"}) == (0, 1)
    mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert detect_processes(None, None, mpi) == (1, 2)
    for wrong in ((1, None), (None, 2), (2, 2), (-1, 2)):
        with pytest.raises(UserError, match="process_index, process_count: got"):
            detect_processes(*wrong, {})
