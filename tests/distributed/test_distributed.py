"""Training on several devices and processes gives what one device gives."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

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
    to_json,
)
from lavps_jax.data import FolderData, SyntheticData
from lavps_jax.distributed import processes
from lavps_jax.errors import UserError
from lavps_jax.io.weights import read_card
from lavps_jax.networks import AmortizedNetworkConfig, GlobalAttention, HDiTConfig, LevelConfig
from lavps_jax.operators import families
from lavps_jax.runs import training as training_run
from lavps_jax.runs.loading import load_network
from lavps_jax.training.sharding import global_batch, make_mesh, on_all_devices, weight_sharding

ROOT = Path(__file__).parents[2]
NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(32, 1, GlobalAttention(16)),), 32, 1)
on_one = partial(training_run.run_training, devices=jax.devices()[:1])


def config(run_dir, **changes) -> TrainConfig:
    base = TrainConfig(
        task=PriorTask(NETWORK),
        train_data=SyntheticData(40, (8, 8, 1)),
        validation_data=SyntheticData(16, (8, 8, 1), seed=1),
        run_dir=str(run_dir),
        batch_size=16,
        num_train_steps=6,
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=2),
        log_every=1,
        validate_every=6,
        checkpoint_every=3,
    )
    return dataclasses.replace(base, **changes)


def weights_of(run_dir):
    return jax.tree.leaves(load_network(f"{run_dir}/weights")[1])


def assert_close(run_dir, other, rtol=2e-3, atol=2e-5):
    """Within rounding: sums have another order, and Adam divides by small moments."""
    for a, b in zip(weights_of(run_dir), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "single"
    on_one(config(run_dir))
    return run_dir


def test_weights_are_cut_and_batches_spread():
    mesh = make_mesh(4)
    tree = {"wide": np.ones((64, 128)), "odd": np.ones((63, 127)), "small": np.ones(8)}
    placed = on_all_devices(tree, weight_sharding(mesh, tree))
    shapes = {name: one.addressable_shards[0].data.shape for name, one in placed.items()}
    assert shapes == {"wide": (64, 32), "odd": (63, 127), "small": (8,)}
    loaded = []

    def load(rows):
        loaded.extend(numbers[rows].tolist())
        return np.broadcast_to(numbers[rows, None, None], (2, 2, 2))

    numbers = np.arange(16, dtype=np.float32)[::-1]
    batch = global_batch((16, 2, 2), load, mesh)
    np.testing.assert_array_equal(np.asarray(batch)[:, 0, 0], numbers)
    assert sorted(loaded) == list(range(16))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 2, 2)}
    with pytest.raises(UserError, match="fsdp: got 3; use a divisor of the number of devices, 8"):
        make_mesh(3)


@pytest.mark.parametrize("changes", [{}, {"fsdp": 4, "num_microbatches": 2}], ids=str)
def test_eight_devices_train_what_one_trains(single, tmp_path, changes):
    training_run.run_training(config(tmp_path / "run", **changes))
    assert_close(tmp_path / "run", single)


def test_microbatches_on_one_device(single, tmp_path):
    on_one(config(tmp_path / "run", num_microbatches=4))
    assert_close(tmp_path / "run", single)


def test_a_run_goes_on_on_other_devices(single, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copytree(single / "checkpoints" / "3", tmp_path / "run" / "checkpoints" / "3")
    training_run.run_training(config(tmp_path / "run", fsdp=2))
    assert_close(tmp_path / "run", single)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    on_one(config(tmp_path / "run"))
    assert_close(tmp_path / "run", single)


def test_runs_of_the_sampler_are_spread_too(single, tmp_path):
    task = AmortizedTask(
        AmortizedNetworkConfig(NETWORK), str(single / "weights"), families.RandomPixels(0.4, 0.6),
        num_steps=20, high_idx=4, states="chain",
    )  # fmt: skip
    on_one(config(tmp_path / "one", task=task))
    training_run.run_training(config(tmp_path / "eight", task=task, fsdp=2, num_microbatches=2))
    assert_close(tmp_path / "eight", tmp_path / "one")


def test_a_batch_that_cannot_be_spread_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size: got 12; use a multiple of 8, 8 devices"):
        training_run.run_training(config(tmp_path / "run", batch_size=12))
    with pytest.raises(UserError, match="num_microbatches: got 3; use a divisor of batch_size"):
        config(tmp_path / "run", num_microbatches=3)
    assert not list(tmp_path.iterdir())


# ---- Several processes ----


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def start(configs, num_devices=None, program=TRAIN):
    """One process for each configuration, connected to each other."""
    address, count = f"localhost:{free_port()}", len(configs)
    shares = [
        dataclasses.replace(one, coordinator=address, process_index=i, process_count=count)
        for i, one in enumerate(configs)
    ]
    return [
        subprocess.Popen([sys.executable, "-c", program, json.dumps(to_json(share))], cwd=ROOT,
                         env=os.environ | {"JAX_NUM_CPU_DEVICES": str(number)},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for share, number in zip(shares, num_devices or [1] * count, strict=True)
    ]  # fmt: skip


def finish(started):
    return [(*one.communicate(timeout=240), one.returncode) for one in started]


def train_on_two(tmp_path):
    """Started as for two GPUs; here they have a virtual device each."""
    stored = json.dumps(to_json(config("x")))
    preset = (
        "import json\nfrom lavps_jax.config.settings import from_json\n"
        f"def get_config():\n    return from_json(json.loads({stored!r}))\n"
    )
    (tmp_path / "preset.py").write_text(preset)
    command = ["launch/multi_gpu.sh", "2", "train.py", tmp_path / "preset.py", "--run-dir",
               tmp_path / "run", "--fsdp", "2"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHON": sys.executable},
                          capture_output=True, text=True, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation at step 6") == 1


def back_to_step_3(run):
    shutil.rmtree(run / "checkpoints" / "6")
    shutil.rmtree(run / "weights")


def test_two_processes_train_what_one_trains(single, tmp_path):
    train_on_two(tmp_path)
    assert_close(tmp_path / "run", single)
    assert read_card(tmp_path / "run" / "best")["step"] == 6
    # A checkpoint of two processes, with weights cut between them, restored by one.
    back_to_step_3(tmp_path / "run")
    on_one(config(tmp_path / "run"))
    assert_close(tmp_path / "run", single)


@pytest.mark.slow
def test_four_processes_go_on_from_what_two_saved(single, tmp_path):
    train_on_two(tmp_path)
    back_to_step_3(tmp_path / "run")
    four = finish(start([config(tmp_path / "run", fsdp=4)] * 4))
    assert [code for *_, code in four] == [0] * 4, four
    assert "resumed at step 3 of 6" in four[0][0]
    assert_close(tmp_path / "run", single)


@pytest.mark.slow
def test_two_processes_set_a_damaged_checkpoint_aside_together(single, tmp_path):
    shutil.copytree(single / "checkpoints", tmp_path / "run" / "checkpoints")
    for file in (tmp_path / "run" / "checkpoints" / "6" / "state" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    both = finish(start([config(tmp_path / "run", fsdp=2)] * 2))
    assert [code for *_, code in both] == [0, 0], both
    assert "warning: damaged checkpoint, now" in both[0][0]
    assert "resumed at step 3 of 6" in both[0][0]
    assert (tmp_path / "run" / "checkpoints" / "damaged-6").is_dir()
    assert_close(tmp_path / "run", single)


READ = """
import sys
from lavps_jax.config.settings import from_json
from lavps_jax.distributed.processes import connect
from lavps_jax.runs.training import batches_of
from lavps_jax.training.sharding import make_mesh
import json, numpy as np
config = from_json(json.loads(sys.argv[1]))
connect(config.coordinator, config.process_index, config.process_count)
load = batches_of(config, config.train_data.open(), make_mesh())
for step in (0, 7):
    for shard in load(step)[0].addressable_shards:
        print(step, shard.index[0].start, np.asarray(shard.data).tobytes().hex())
"""


def test_two_processes_read_the_crops_that_one_reads(tmp_path):
    for i in range(5):
        image = SyntheticData(1, (20 + i, 40 - i, 1), seed=i).open()[0]
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    data = FolderData(str(tmp_path), crop=8, reduce=(1, 2), flip=True)
    both = config("unused", train_data=data, batch_size=4)
    done = finish(start([both] * 2, program=READ))
    assert [code for *_, code in done] == [0, 0], done
    read = {}
    for output, *_ in done:
        for line in output.splitlines():
            step, row, pixels = line.split()
            read[int(step), int(row)] = bytes.fromhex(pixels)
    assert sorted(read) == [(step, row) for step in (0, 7) for row in (0, 2)]
    load = training_run.batches_of(both, data.open(), make_mesh(devices=jax.devices()[:1]))
    for step in (0, 7):
        whole = np.asarray(load(step)[0])
        assert len(np.unique(whole, axis=0)) == 4
        assert read[step, 0] + read[step, 2] == whole.tobytes()


def test_sigterm_to_one_process_stops_both_after_the_same_step(tmp_path):
    endless = config(tmp_path / "run", num_train_steps=100_000, checkpoint_every=100_000)
    started = start([endless] * 2)
    log = tmp_path / "run" / "log.csv"
    while not (log.is_file() and len(log.read_text().splitlines()) > 20):
        assert all(one.poll() is None for one in started)
        time.sleep(0.2)
    started[1].terminate()
    both = finish(started)
    assert [code for *_, code in both] == [143, 143], both
    (saved,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"stopped at step {saved}: the same command goes on" in both[0][0]


def test_processes_that_differ_are_told_apart(tmp_path):
    unlike = start([config(tmp_path / "run"), config(tmp_path / "run", seed=1)])
    unequal = start([config(tmp_path / "run")] * 2, num_devices=(1, 2))
    for _, errors, code in finish(unlike):
        assert code == 2, errors
        assert "error: seed: got another one in process 1 than in process 0" in errors
    for _, errors, code in finish(unequal):
        assert code == 2, errors
        assert "error: devices of a process: got 1, 2; use equal numbers" in errors
    assert not list(tmp_path.iterdir())


def connecting(port: int, index: int) -> subprocess.Popen:
    code = (
        "from lavps_jax.config import cli; from lavps_jax.distributed import processes; "
        f"cli.main(lambda _: processes.connect('localhost:{port}', {index}, 2, timeout=2))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_a_process_that_never_comes_and_a_port_that_is_taken_are_errors_in_time():
    """The first and the second of two processes, each alone; and a port of another program."""
    with socket.create_server(("", 0)) as server:
        taken = server.getsockname()[1]
        ports = free_port(), free_port()
        started = [connecting(ports[0], 0), connecting(ports[1], 1), connecting(taken, 0)]
        *alone, (_, told, code) = finish(started)
    for port, (_, errors, returned) in zip(ports, alone, strict=True):
        expected = f"error: coordinator: got localhost:{port}; start all processes: they did not "
        assert returned == 2
        assert f"{expected}meet within 2 s\n" in errors and "Traceback" not in errors
    assert code == 2
    assert f"error: coordinator: got localhost:{taken}; choose another port: Addr" in told


def test_flags_of_processes_are_checked():
    with pytest.raises(UserError, match="give all three, or none"):
        processes.connect("localhost:1", None, 2)
    with pytest.raises(UserError, match="process_index: got 2; use 0 to 1"):
        processes.connect("localhost:1", 2, 2)
    with pytest.raises(UserError, match="coordinator: got localhost; give host:port"):
        processes.connect("localhost", 0, 2)


def test_tpus_are_recognised_by_their_chips(tmp_path, monkeypatch):
    assert not processes._on_tpu(tmp_path)
    (tmp_path / "accel0").touch()
    for found in (None, "libtpu"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        assert processes._on_tpu(tmp_path) == (found is not None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1,t2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "h"}, False),
        ({"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_clusters_are_recognised(environ, expected):
    assert processes._in_cluster(environ) == expected
