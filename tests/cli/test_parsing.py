"""Command lines choose what their words say, and a signal to end is never lost."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lavps_jax.cli import _stop, main, parse
from lavps_jax.config import (
    DAPSConfig,
    DDIMConfig,
    DDNMConfig,
    DDRMConfig,
    DiffPIRConfig,
    DINGConfig,
    DPSConfig,
    FastDIPSConfig,
    GuessAndGuideConfig,
    LAVPSConfig,
    MGDMConfig,
    MGPSConfig,
    OneStepConfig,
    PiGDMConfig,
    REDDiffConfig,
    SampleConfig,
)
from lavps_jax.errors import UserError
from lavps_jax.operators import GaussianBlur, MotionBlur

PRESET = str(Path(__file__).parents[2] / "configs" / "fashion_mnist.py")


def parsed(*arguments: str) -> SampleConfig:
    return parse([PRESET, *arguments], SampleConfig)


def test_a_preset_as_it_is():
    config = parsed("--num-images", "5")
    assert type(config.sampler) is LAVPSConfig and config.sampler.tau_rule == "midpoint"
    assert config.operator == MotionBlur(size=9, intensity=0.9)
    assert config.num_images == 5
    assert [type(other) for other in config.compare_with] == [MGDMConfig, DPSConfig]


@pytest.mark.parametrize(
    "word,kind",
    [
        ("sampler:mgdm-config", MGDMConfig),
        ("sampler:lavps-config", LAVPSConfig),
        ("sampler:dps-config", DPSConfig),
        ("sampler:ddim-config", DDIMConfig),
        ("sampler:pi-gdm-config", PiGDMConfig),
        ("sampler:ddnm-config", DDNMConfig),
        ("sampler:ddrm-config", DDRMConfig),
        ("sampler:diff-pir-config", DiffPIRConfig),
        ("sampler:red-diff-config", REDDiffConfig),
        ("sampler:daps-config", DAPSConfig),
        ("sampler:ding-config", DINGConfig),
        ("sampler:fast-dips-config", FastDIPSConfig),
        ("sampler:guess-and-guide-config", GuessAndGuideConfig),
        ("sampler:mgps-config", MGPSConfig),
        ("sampler:one-step-config", OneStepConfig),
    ],
)
def test_a_word_chooses_the_sampler(word, kind):
    config = parsed(word)
    assert type(config.sampler) is kind
    if kind is LAVPSConfig:  # The preset's own kind keeps the preset's values.
        assert config.sampler.amortized == "pretrained/fashion_mnist/motion_blur"


def test_flags_of_a_field_before_and_after_its_word():
    words = ("operator:gaussian-blur", "--operator.size", "7", "sampler:mgdm-config")
    config = parsed("--sigma-y", "0.1", *words, "--sampler.inner-low-noise.num-inner-steps", "4")
    assert config.operator == GaussianBlur(size=7)
    assert config.sigma_y == 0.1
    assert isinstance(config.sampler, MGDMConfig)
    assert config.sampler.inner_low_noise.num_inner_steps == 4


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
        (("--sampler.inner.learning-rate", "-1"), "sampler.inner.learning_rate"),
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


def test_a_signal_during_garbage_collection_is_not_lost():
    def _xla_gc_callback(phase, info):
        if phase == "start":
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))  # The handler runs here.

    before = signal.signal(signal.SIGTERM, _stop)
    gc.callbacks.append(_xla_gc_callback)
    try:
        gc.collect()
        gc.callbacks.remove(_xla_gc_callback)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_a_signal_in_a_finalizer_is_not_lost():
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            sum(range(1000))  # The handler runs here.

    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            Finalized()
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
