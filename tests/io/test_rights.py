"""What may not be read is told as such, and never as missing or damaged."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import jax.numpy as jnp
import pytest

from lavps_jax import compare_sets
from lavps_jax.errors import UserError
from lavps_jax.io.checkpoints import TrainingCheckpoints
from lavps_jax.io.foreign_files import whole_file
from lavps_jax.io.own_folders import MARK, write_directory
from lavps_jax.io.weights import CARD, WEIGHTS, export_weights, load_weights, read_card
from lavps_jax.runs.sampling_job import Batch, Processes, SamplingJob

NOBODY = 65534


@contextlib.contextmanager
def as_nobody():
    """The superuser reads everything: another user tries."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder():
    """Like tmp_path, but not hidden from other users as a whole."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        for one in (path, *path.rglob("*")):
            one.chmod(0o755)


WEIGHTS_OF_A_NETWORK = {"a": jnp.ones(3)}


@pytest.mark.parametrize("part", [".", CARD, WEIGHTS])
def test_of_exported_weights(folder, part):
    export_weights(folder / "net", WEIGHTS_OF_A_NETWORK, {})
    (folder / "net" / part).chmod(0)
    with as_nobody(), pytest.raises(UserError, match="^weights: got .*Permission denied"):
        read_card(folder / "net")
        load_weights(folder / "net", WEIGHTS_OF_A_NETWORK)


@pytest.mark.parametrize("part", [".", "state", "state/_METADATA", "state/d"])
def test_of_a_checkpoint_which_is_not_set_aside(folder, part):
    with TrainingCheckpoints(folder / "run") as checkpoints:
        checkpoints.save(1, WEIGHTS_OF_A_NETWORK)
        checkpoints.wait()
        (folder / "run").chmod(0o777)  # It could be renamed.
        (folder / "run" / "1" / part).chmod(0)
        with as_nobody(), pytest.raises(UserError, match="checkpoint: got .*Permission denied"):
            checkpoints.restore(WEIGHTS_OF_A_NETWORK)
        assert [path.name for path in (folder / "run").iterdir()] == ["1"]


@pytest.mark.parametrize("part", ["dps_000000.npz", "run.json", "."])
def test_of_a_batch_that_another_user_restored(folder, part):
    job = SamplingJob(str(folder / "out"), {}, Processes(0, 1), overwrite=False)
    job.write("dps", 0, Batch({"seconds": 2.0}, {}, {}, {}, {}))
    (job.folder / part).chmod(0)
    with as_nobody(), pytest.raises(UserError, match="out_dir: got .*: Permission denied"):
        SamplingJob(str(folder / "out"), {}, Processes(0, 1), overwrite=False).read("dps", 0)


@pytest.mark.parametrize("rights", [0, 0o555])
def test_of_the_folder_in_which_results_would_be_made(folder, rights):
    """Before anything is computed."""
    (folder / "closed").mkdir()
    (folder / "closed").chmod(rights)
    with as_nobody(), pytest.raises(UserError, match="got .*closed/out; choose .*: Permission"):
        with write_directory(folder / "closed" / "out", "samples"):
            pytest.fail("refused before anything is computed")


def test_of_a_result_that_would_be_replaced(folder):
    with write_directory(folder / "out", "samples") as made:
        (made / "metrics.json").write_text("{}")
    for path in (folder / "out" / MARK, folder / "out"):
        path.chmod(0)
        with as_nobody(), pytest.raises(UserError, match="got .*/out; choose .*: Permission"):
            with write_directory(folder / "out", "samples", overwrite=True):
                pytest.fail("refused before anything is computed")


@pytest.mark.parametrize("part", ["metrics.json", "."])
def test_of_the_samples_of_a_run(folder, part):
    (folder / "out").mkdir()
    (folder / "out" / "metrics.json").write_text("{}")
    (folder / "out" / part).chmod(0)
    with as_nobody(), pytest.raises(UserError, match="^run: got .*; fix this: Permission denied"):
        compare_sets.run([str(folder / "out"), str(folder)])


def test_of_a_file_of_pytorch(folder):
    torch = pytest.importorskip("torch", reason="needs the extra convert")
    torch.save({"a": torch.ones(3)}, folder / "net.pt")
    (folder / "net.pt").chmod(0)
    with as_nobody():
        with pytest.raises(UserError, match="^clip: got .*Permission denied"):
            compare_sets.networks(clip=str(folder / "net.pt"))
        with pytest.raises(PermissionError), whole_file(folder / "net.pt", folder):
            pass


def test_of_a_folder_with_the_parts_of_a_file(folder):
    (folder / "parts").mkdir()
    (folder / "parts" / "net.pt.part-0").write_bytes(b"one")
    (folder / "parts").chmod(0o711)
    with as_nobody(), pytest.raises(PermissionError):
        with whole_file(folder / "parts" / "net.pt", folder):
            pass
