"""Command lines choose what their words say, and a signal to end is never lost."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from lavps_jax import compare_sets, convert
from lavps_jax.config.cli import _stop, _stop_again, from_flags, main, parse
from lavps_jax.config.samplers import AnySampler
from lavps_jax.config.settings import AmortizedTask, SampleConfig, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.errors import UserError
from lavps_jax.io.storage import as_path
from lavps_jax.operators import families
from lavps_jax.samplers import (
    DPS,
    LAVPS,
    MGDM,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    OneStep,
    PiGDM,
    REDDiff,
)

PRESET = str(Path(__file__).parents[2] / "configs" / "fashion_mnist.py")


def parsed(*arguments: str) -> SampleConfig:
    return parse([PRESET, *arguments], SampleConfig)


def test_a_preset_as_it_is():
    config = parsed("--num-images", "5")
    assert type(config.sampler) is LAVPS and config.sampler.tau_rule == "midpoint"
    assert config.operator == families.MotionBlur(size=9, intensity=0.9)
    assert config.num_images == 5
    assert [type(other) for other in config.compare_with] == [MGDM, DPS]


HYPHENATED = {
    DiffPIR: "diff-pir",
    FastDIPS: "fast-dips",
    GuessAndGuide: "guess-and-guide",
    OneStep: "one-step",
    PiGDM: "pi-gdm",
    REDDiff: "red-diff",
}


@pytest.mark.parametrize("kind", get_args(AnySampler))
def test_a_word_chooses_the_sampler(kind):
    config = parsed(f"sampler:{HYPHENATED.get(kind, kind.__name__.lower())}")
    assert type(config.sampler) is kind
    if kind is LAVPS:  # The preset's own kind keeps the preset's values.
        assert config.sampler.amortized == "pretrained/fashion_mnist/motion_blur"


def test_flags_of_a_field_before_and_after_its_word():
    words = ("operator:gaussian-blur", "--operator.size", "7", "sampler:mgdm")
    config = parsed("--sigma-y", "0.1", *words, "--sampler.inner-low-noise.num-inner-steps", "4")
    assert config.operator == families.GaussianBlur(size=7)
    assert config.sigma_y == 0.1
    assert isinstance(config.sampler, MGDM)
    assert config.sampler.inner_low_noise.num_inner_steps == 4


def test_words_and_flags_in_any_order():
    expected = parsed("operator:gaussian-blur", "--operator.std", "2", "sampler:dps",
                      "--sampler.step-size", "3", "--num-images", "5")  # fmt: skip
    assert expected.operator == families.GaussianBlur(std=2.0)
    flags = ("--sampler.step-size", "3", "--num_images", "5", "--operator.std", "2")
    words = ("sampler:dps", "operator:gaussian-blur")
    assert parsed(*flags, *words) == parsed(*words, *flags) == expected
    mixed = (*flags[:2], words[1], *flags[2:], words[0])
    assert parsed(*mixed) == expected


def test_a_word_inside_of_a_kind_comes_after_it():
    preset = str(Path(PRESET).with_name("fashion_mnist_amortized.py"))
    flags = ("--train-data.path", "x", "--task.operator.std", "2")
    words = ("train-data:folder-data", "task.operator:gaussian-blur", "task:amortized-task")
    config = parse([preset, *flags, *words], TrainConfig)
    assert isinstance(config.task, AmortizedTask) and config.task.operator == families.GaussianBlur(
        std=2.0
    )
    assert config.train_data == FolderData("x")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num-image", "2"), "did you mean --num-images? "),
        (("--outdir", "x"), "did you mean --out-dir? "),
        (("num-images", "2"), "did you mean --num-images? "),
        (("--overwrit",), "did you mean --overwrite? "),
        (("--no-compar",), "did you mean --no-compare? "),
        (("--sampler.nun-steps", "2"), "did you mean --sampler.num-steps? "),
        (("operator:gausian-blur",), "did you mean operator:gaussian-blur? "),
        (("operator:Denoise",), "did you mean operator:identity? "),
        (("operators:denoise",), "did you mean operator:identity? "),
        (("sampler:lavp",), "did you mean sampler:lavps? "),
        (("data:folder",), "did you mean data:folder-data? "),
        (("--operator", "denoise"), "did you mean operator:identity? "),
        (("--operator:identity",), "did you mean operator:identity? "),
        (("--sampler.zeta", "3"), "; --sampler.zeta goes with sampler:diff-pir; "),
        (("--data.path", "x"), "; --data.path goes with data:folder-data; "),
        (("--compute-dtype", "bfloat"), "Expected one of ('float32', 'bfloat16')"),
    ],
)
def test_what_may_have_been_meant(flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(*flags)
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1
    assert words in line and line.endswith("--help lists all flags\n"), line


def test_two_kinds_of_one_field():
    with pytest.raises(UserError, match="sampler: got dps and ddim; give one"):
        parsed("sampler:dps", "--num-images", "2", "sampler:ddim")


def test_presets_that_are_not_there_or_for_the_other_program():
    with pytest.raises(UserError, match="did you mean configs/fashion_mnist.py?"):
        parse(["configs/fashion_mist.py"], SampleConfig)
    with pytest.raises(
        UserError, match=r"of a .py file; ls .*/configs/\*.py lists those there are$"
    ):
        parse(["nosuch.py"], SampleConfig)
    with pytest.raises(UserError, match="start it with sample.py"):
        parse([PRESET], TrainConfig)
    for name, program in (
        ("fashion_mnist", "train.py"),
        ("adm_ffhq256", "python -m lavps_jax.conv"),
    ):
        words = f"start it with {program}.*; configs/{name}.py samples with this prior$"
        with pytest.raises(UserError, match=words):
            parse([f"configs/{name}_prior.py"], SampleConfig)


def test_other_programs_are_as_helpful(capsys):
    for config, flags, words in (
        (convert.Config, ("a", "b", "--presets", "x"), "did you mean --preset? "),
        (compare_sets.Config, ("a", "b", "--sizes", "3"), "did you mean --size? "),
    ):
        with pytest.raises(SystemExit):
            from_flags(config, list(flags), prog="program")
        assert words in capsys.readouterr().err


class Terminal(io.StringIO):
    """A standard output in colours."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Plain(io.StringIO):
    """A standard output of a POSIX locale."""

    encoding = "ascii"


@pytest.mark.parametrize("stdout", [Terminal, Plain])
def test_a_wrong_flag_is_one_plain_line(stdout, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", stdout())
    monkeypatch.setenv("TERM", "xterm")
    for flags, words in (
        (("--nothing", "3"), "error: Unrecognized options: --nothing, 3; "),
        (("--num-images", "some"), "error: Error parsing --num-images: "),
        (
            ("sampler:mgmd", "--sampler.num-steps", "10"),
            "error: Unrecognized options: sampler:mgmd; did you mean sampler:mgdm?",
        ),
        (
            ("sampler:mgmd",),
            "error: Unrecognized options: sampler:mgmd; did you mean sampler:mgdm?",
        ),
        (("--overwrite", "True"), "error: Unrecognized options: True; a flag of yes or no takes "),
    ):
        with pytest.raises(SystemExit) as stop:
            parsed(*flags)
        assert stop.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith(words) and line.endswith("--help lists all flags\n"), line
        assert line.count("\n") == 1 and line[:-1].isprintable() and line.isascii()
        assert "---" not in line, line


@pytest.mark.parametrize("stdout", [Terminal, Plain])
@pytest.mark.parametrize(
    "flags,field",
    [
        (("--num-images", "-3"), "num_images"),
        (("--operator.intensity", "3"), "intensity"),
        (("--sampler.inner.learning-rate", "-1"), "inner.learning_rate"),
    ],
)
def test_a_value_out_of_range_speaks_for_itself(stdout, flags, field, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stdout())
    with pytest.raises(UserError) as error:
        parsed(*flags)
    assert error.value.field == field
    assert error.value.__suppress_context__


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(arguments):
        with open("/dev/full", "w") as file:
            file.write("x")

    with pytest.raises(SystemExit) as stop:
        main(run)
    assert stop.value.code == 2
    expected = "error: disk: No space left on device; make room, then the same command goes on\n"
    assert capsys.readouterr().err == expected


def test_a_file_that_cannot_be_written_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        main(lambda arguments: (tmp_path / "none" / "x").write_text("x"))
    assert stop.value.code == 2
    expected = f"error: file: got {tmp_path}/none/x; fix this: No such file or directory\n"
    assert capsys.readouterr().err == expected


def signalled(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    sum(range(1000))  # The handler runs here.


class Finalized:
    __del__ = signalled


def collected():
    gc.callbacks.append(signalled)
    gc.collect()
    gc.callbacks.remove(signalled)


@pytest.mark.parametrize("dropped", [Finalized, collected])
def test_a_signal_that_python_drops_is_not_lost(dropped, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", _stop_again)
    before = [(number, signal.signal(number, _stop)) for number in (signal.SIGTERM, signal.SIGALRM)]
    try:
        dropped()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def test_a_preset_allows_to_replace_its_own_folder_alone(tmp_path):
    own = parsed()
    assert own.overwrite and parsed("--out-dir", f"./{own.out_dir}/").overwrite
    assert parsed("--out-dir", str(Path(own.out_dir).absolute())).overwrite
    assert not parsed("--no-overwrite").overwrite
    other = str(tmp_path / "out")
    assert not parsed("--out-dir", other).overwrite
    assert not parsed("operator:identity", f"--out-dir={other}").overwrite
    assert parsed("--out-dir", other, "--overwrite").overwrite
    assert parsed("operator:identity", "--overwrite", "--out-dir", other).overwrite


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "preset.py").write_text(
        "import dataclasses\n"
        "from lavps_jax.config.settings import load_preset\n"
        "from lavps_jax.samplers import LAVPS\n"
        "def get_config():\n"
        f"    preset = load_preset({PRESET!r})\n"
        "    others = (LAVPS(amortized='~/other'),)\n"
        "    return dataclasses.replace(preset, prior='~/prior', compare_with=others)\n"
    )
    home = str(tmp_path)
    words = ["operator:mask-file", "--operator.path=~/mask.png", "data:folder-data"]
    words += ["--data.path=~/photos", "--data.classes", "~/classes.txt"]
    words += ["--observations=~", "--out-dir=~/out", "--sampler.amortized=~/start"]
    config = parse(["~/preset.py", *words], SampleConfig)
    assert config.operator == families.MaskFile(f"{home}/mask.png")
    assert config.data == FolderData(f"{home}/photos", classes=f"{home}/classes.txt")
    assert config.observations == home and config.out_dir == f"{home}/out"
    assert config.sampler.amortized == f"{home}/start"  # type: ignore[union-attr]
    assert config.prior == f"{home}/prior"
    assert config.compare_with == (LAVPS(amortized=f"{home}/other"),)
    assert as_path("~/run", "run_dir") == tmp_path / "run"
    with pytest.raises(UserError, match="data.path: got ~nobody-of-this-name/a; give the whole"):
        parsed("data:folder-data", "--data.path", "~nobody-of-this-name/a")
