"""Whose a folder is: what the program replaces, what it refuses, and what killed runs leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lavps_jax.errors import UserError
from lavps_jax.io.own_folders import MARK, Purpose, read_mark, write_directory

ROOT = Path(__file__).parents[2]


def make(path, purpose: Purpose = "samples", overwrite=True):
    with write_directory(path, purpose, overwrite=overwrite) as folder:
        (folder / "metrics.json").write_text("{}")
        (folder / "images" / "a").mkdir(parents=True)
        (folder / "images" / "a" / "mean.png").write_bytes(b"a picture")


def everything(folder):
    """Contents by name; None of a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def test_the_mark_names_the_program_and_every_file(tmp_path):
    make(tmp_path / "out")
    mark = json.loads((tmp_path / "out" / MARK).read_text())
    assert mark.pop("version")
    files = {"metrics.json": 2, "images/a/mean.png": 9}
    assert mark == {"program": "lavps-jax", "holds": "samples", "files": files}
    make(tmp_path / "out")
    assert everything(tmp_path).keys() == {
        "out", f"out/{MARK}", "out/metrics.json", "out/images", "out/images/a",
        "out/images/a/mean.png",
    }  # fmt: skip


def add_notes(out):
    (out / "notes.txt").write_text("three weeks of work")


def add_notes_below(out):
    (out / "images" / "a" / "notes.txt").write_text("three weeks of work")


def add_a_hidden_file(out):
    (out / ".notes").write_text("three weeks of work")


def add_a_link(out):
    (out / "link").symlink_to(out.parent)


def write_into_a_file(out):
    (out / "metrics.json").write_text('{"my": "remarks"}')


def replace_a_picture(out):
    (out / "images" / "a" / "mean.png").write_bytes(b"a painted picture")


def take_the_mark_away(out):
    (out / MARK).unlink()


def write_another_mark(out):
    (out / MARK).write_text('{"program": "another", "files": {"metrics.json": 2}}')


def damage_the_mark(out):
    (out / MARK).write_text("{")


@pytest.mark.parametrize(
    "change",
    [
        add_notes, add_notes_below, add_a_hidden_file, add_a_link, write_into_a_file,
        replace_a_picture, take_the_mark_away, write_another_mark, damage_the_mark,
    ],
)  # fmt: skip
def test_what_was_not_written_here_is_never_replaced(tmp_path, change):
    make(tmp_path / "out")
    change(tmp_path / "out")
    before = everything(tmp_path)
    with pytest.raises(UserError, match="choose a new name or move it, (it holds|a file in it)"):
        with write_directory(tmp_path / "out", "samples", overwrite=True):
            pytest.fail("refused before anything is computed")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("change", [add_notes, write_into_a_file])
def test_what_comes_while_the_run_computes_is_kept(tmp_path, change):
    make(tmp_path / "out")
    with pytest.raises(UserError, match="choose a new name or move it"):
        with write_directory(tmp_path / "out", "samples", overwrite=True) as folder:
            (folder / "metrics.json").write_text("new")
            change(tmp_path / "out")
            before = everything(tmp_path / "out")
    assert everything(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_are_not_replaced_by_samples(tmp_path):
    make(tmp_path / "out", "weights")
    with pytest.raises(UserError, match="it holds weights"):
        make(tmp_path / "out", "samples")
    make(tmp_path / "out", "weights")


def test_a_copy_and_a_folder_with_less_in_it_may_be_replaced(tmp_path):
    make(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    (tmp_path / "copy" / "metrics.json").unlink()
    make(tmp_path / "copy")
    assert everything(tmp_path / "copy") == everything(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")


# ---- After a kill ----

FILL = """
import sys, time
from lavps_jax.io.own_folders import write_directory
with write_directory(sys.argv[1], "samples", overwrite=True) as folder:
    (folder / "half.txt").write_text("half")
    print("filling", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def filling(tmp_path):
    """A process that fills a folder which becomes tmp_path / "out"."""
    with subprocess.Popen(
        [sys.executable, "-c", FILL, str(tmp_path / "out")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "filling\n"
            yield process
        finally:
            process.kill()


def test_what_a_killed_run_leaves_goes_with_the_next_and_that_of_a_live_one_stays(
    filling, tmp_path
):
    (half,) = tmp_path.iterdir()
    assert half.name.startswith(".out.") and half.suffix == ".tmp"
    # Folders of such names that are not ours, and that of another result.
    shutil.copytree(half, tmp_path / ".other.0123abcd.tmp")
    theirs = tmp_path / ".out.0123abcd.tmp"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("three weeks of work")
    make(tmp_path / "out")
    assert (half / "half.txt").read_text() == "half"
    os.kill(filling.pid, signal.SIGKILL)
    filling.wait()
    make(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.0123abcd.tmp", ".out.0123abcd.tmp", "out",
    ]  # fmt: skip
    assert (theirs / "notes.txt").read_text() == "three weeks of work"


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    """The old result is there again for the next run, whatever becomes of it."""
    make(tmp_path / "out")
    before = everything(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.0123abcd.old")
    with pytest.raises(UserError, match="choose a new name or set overwrite"):
        make(tmp_path / "out", overwrite=False)
    assert everything(tmp_path / "out") == before
    # Killed after both: the old one goes with the next run, but for what is not ours.
    shutil.copytree(tmp_path / "out", tmp_path / ".out.0123abcd.old")
    add_notes(tmp_path / ".out.0123abcd.old")
    make(tmp_path / "out")
    assert everything(tmp_path).keys() - {"out", *(f"out/{name}" for name in before)} == {
        ".out.0123abcd.old", ".out.0123abcd.old/notes.txt",
    }  # fmt: skip
    assert read_mark(tmp_path / "out" / MARK) is not None
