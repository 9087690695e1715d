"""Benchmarks and tools replace what they wrote, and nothing else."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import conversion, operators, pods, restoration, run, weak_scaling
from benchmarks.reporting.record import check_report, earlier, record
from lavps_jax.errors import UserError
from lavps_jax.io.own_folders import MARK

ROOT = Path(__file__).parents[2]
PRIOR = ROOT / "pretrained" / "fashion_mnist" / "prior"
NOT_OURS = ["my notes", "[1, 2]", '{"results": {}}', '{"accuracy": 0.9}']


def test_results_are_replaced_by_later_ones(tmp_path):
    for results in ([1], [2]):
        record(tmp_path / "deep" / "found.json", results)
        stored = earlier("out", tmp_path / "deep" / "found.json")
        assert stored is not None and stored["results"] == results
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["found.json"]
    for file in (ROOT / "docs" / "results").glob("*.json"):
        assert earlier("out", file) is not None


def test_a_command_can_be_given_again_and_names_no_place_of_this_machine(tmp_path, monkeypatch):
    arguments = [
        "-m",
        "benchmarks.x",
        "--tasks",
        "motion blur",
        "--work",
        "/a/b",
        "--out=/c",
        "d/e",
    ]
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", *arguments])
    record(tmp_path / "found.json", {})
    command = json.loads((tmp_path / "found.json").read_text())["command"]
    told = "python -m benchmarks.x --tasks 'motion blur' --work DIR --out=DIR d/e"
    assert command == told


@pytest.mark.parametrize("text", NOT_OURS)
@pytest.mark.parametrize("benchmark", [conversion, operators, pods, restoration, weak_scaling])
def test_a_file_that_no_benchmark_wrote_is_refused_at_the_start(tmp_path, benchmark, text):
    file = tmp_path / "restoration_motion_blur.json"
    file.write_text(text)
    out = file.parent if benchmark is restoration else file
    with pytest.raises(UserError, match="out: got .*; give another place: no benchmark wrote this"):
        benchmark.main(benchmark.Config(out=str(out)))
    with pytest.raises(UserError, match="no benchmark wrote this"):
        record(file, {})
    assert file.read_text() == text and [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["images.md", "images_motion_blur.png", "images.json"])
def test_a_report_does_not_replace_what_no_report_wrote(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="out: got .*; give another (folder|place): no"):
        run.main(["--suite", "images", "--out", str(tmp_path), "--work", str(tmp_path / "work")])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    # Beside its own results a report replaces its pictures, but for the names of others.
    (tmp_path / name).unlink()
    record(tmp_path / "images.json", {})
    (tmp_path / "images.md").write_text("a report")
    record(tmp_path / "images_more.json", {})
    (tmp_path / "images_more.md").write_text("another report")
    for report in ("images", "images_more"):
        check_report(tmp_path, report)


def test_the_files_that_operators_read_replace_no_others(tmp_path):
    operators.all_families(tmp_path / "new")
    operators.all_families(tmp_path / "new")
    (tmp_path / "mask.png").write_bytes(b"my mask")
    with pytest.raises(UserError, match="pictures: got .*mask.png; give another folder"):
        operators.all_families(tmp_path)
    assert (tmp_path / "mask.png").read_bytes() == b"my mask"


def test_tools_replace_nothing_unasked(tmp_path):
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"my picture")
    tool = runpy.run_path(str(ROOT / "tools" / "sample_prior.py"))["main"]
    with pytest.raises(UserError, match="out: got .*sheet.png; choose a new name"):
        tool(["--prior", str(PRIOR), "--out", str(sheet)])
    assert sheet.read_bytes() == b"my picture"


def test_weights_are_published_to_a_new_folder_or_over_those_that_were(tmp_path):
    publish = runpy.run_path(str(ROOT / "tools" / "publish_weights.py"))["main"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.csv").write_text("step,name,value\n10,images_per_second,100\n")
    (tmp_path / "run" / "weights").symlink_to(PRIOR)
    flags = ["--run-dir", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--command", "c"]
    publish(flags)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["command"] == "c"
    with pytest.raises(UserError, match="choose a new name or set overwrite"):
        publish(flags)
    publish([*flags, "--overwrite"])
    (tmp_path / "out" / MARK).unlink()
    with pytest.raises(UserError, match="it holds other files"):
        publish([*flags, "--overwrite"])
