"""Both programs as a user runs them: in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavps_jax import programs

ROOT = Path(__file__).parents[2]

PRESETS = """
from lavps_jax.config.settings import *
from lavps_jax.data import SyntheticData
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig
from lavps_jax.operators.families import RandomPixels
from lavps_jax.samplers import DPS, MGDM

def get_config():
    return {config}
"""
TRAIN = """TrainConfig(
        task=PriorTask(HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)),
        train_data=SyntheticData(16, (16, 16, 1)), validation_data=SyntheticData(8, (16, 16, 1)),
        run_dir={run!r}, batch_size=4, num_train_steps=3, validate_every=3, checkpoint_every=3)"""
SAMPLE = """SampleConfig(
        prior={prior!r}, data=SyntheticData(8, (16, 16, 1)), operator=RandomPixels(0.4, 0.6),
        sampler=MGDM(num_steps=8, high_idx=3), compare_with=(DPS(num_steps=8),),
        out_dir={out!r}, num_images=3, num_particles=2, batch_size=2)"""


def program(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture
def told(capfd, monkeypatch):
    """A function of arguments with which sample.py does not sample: its status, what it prints.

    In this process, which saves seconds of start each time; `test_a_mistake_...` runs the program.
    """

    def run(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as stopped:
            programs.sample()
        return stopped.value.code, capfd.readouterr()

    return run


@pytest.fixture
def refused(told):
    """A function of arguments of sample.py that are a mistake: its one line."""

    def run(*arguments: object) -> str:
        code, printed = told(*arguments)
        assert code == 2
        assert printed.err.count("\n") == 1, printed.err
        return printed.err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    train = TRAIN.format(run=str(folder / "run"))
    sample = SAMPLE.format(prior=str(folder / "run" / "weights"), out=str(folder / "out"))
    (folder / "train_tiny.py").write_text(PRESETS.format(config=train))
    (folder / "sample_tiny.py").write_text(PRESETS.format(config=sample))
    done = program("train.py", folder / "train_tiny.py")
    assert done.returncode == 0, done.stderr
    assert "validation at step 3" in done.stdout
    return folder


def test_sampling_writes_what_it_says(folder):
    done = program("sample.py", folder / "sample_tiny.py", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert "LPIPS: images enlarged to 64 pixels first." in done.stdout
    out = folder / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["sampler"], metrics["images"], metrics["particles"]) == ("mgdm", 3, 2)
    wanted = {"psnr", "ssim", "lpips_alex", "residual_chi2", "seconds_per_image",
              "network_calls", "vjps"}  # fmt: skip
    assert wanted <= set(metrics["mean"]) and len(metrics["per_image"]) == 3
    assert [other["sampler"] for other in metrics["compared"]] == ["dps"]
    assert json.loads((out / "config.json").read_text())["seed"] == 3
    pictures = {path.name for path in (out / "images" / "synthetic-00002").iterdir()}
    assert {"reference.png", "observation.png", "mgdm_sample_01.png", "mgdm_mean.png",
            "mgdm_std.png"} <= pictures  # fmt: skip
    assert (out / "contact_sheet.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--sigma-y", "0"], "sigma_y"),
        (["--prior", "nowhere"], "nowhere"),
        (["--num-images", "9"], "first_image + num_images"),
        (["--no-such-flag", "1"], "no-such-flag"),
        (["--num-particles", "100000000"], "GiB of memory"),
        (["data:synthetic-data", "--data.image-shape", "16", "16", "3"], "channels of the images"),
        (["data:synthetic-data", "--data.image-shape", "18", "18", "1"], "size of the images"),
        (["data:folder-data", "--data.path", "{folder}/run"], "data.path"),
        (["data:folder-data", "--data.path", "{folder}/broken"], "bad.png"),
        (["--observations", "{folder}/nan.npz", "operator:identity"], "y: got nan"),
        (["operator:colorization"], "channels of the images"),
        (["operator:jpeg", "--operator.quality", "0"], "quality: got 0"),
        (["operator:mask-file", "--operator.path", "{folder}/broken/bad.png"], "operator.path"),
        (["--seed", "99999999999999999999"], "seed: got 9999"),
        (["--image-shape", "-1", "16", "1"], "image_shape: got (-1, 16, 1)"),
        (["--sigma-y", "1e-30"], "sigma_y: got 1e-30; use at least"),
        (["--observations", "{folder}/empty.npz"], "y of shape (1, 0, 16, 1)"),
        (["--tile", "15"], "tile: got 15"),
        (["--sigma-y", "estimate"], "sigma_y: got estimate"),
        (["sampler:lavps"], "amortized"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(folder, tmp_path, refused, arguments, words):
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "bad.png").write_bytes(b"no picture")
    np.savez(folder / "empty.npz", y=np.zeros((1, 0, 16, 1), np.float32))
    np.savez(folder / "nan.npz", y=np.full((1, 16, 16, 1), np.nan))
    arguments = [argument.format(folder=folder) for argument in arguments]
    out = tmp_path / "new"
    assert words in refused(folder / "sample_tiny.py", "--out-dir", out, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_mistake_ends_the_program_with_one_line_and_code_2(folder, tmp_path):
    flags = "--out-dir", tmp_path / "out", "--sigma-y", "0"
    done = program("sample.py", folder / "sample_tiny.py", *flags)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr == "error: sigma_y: got 0.0; use a positive number\n"


def test_given_observations_and_another_operator(folder, tmp_path):
    y = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "given.npz", y=y)
    done = program(
        "sample.py", folder / "sample_tiny.py", "--observations", tmp_path / "given.npz",
        "--out-dir", tmp_path / "out", "--no-compare",
        "operator:super-resolution", "--operator.factor", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["operator"], metrics["images"], metrics["compared"]) == (
        "SuperResolution",
        2,
        [],
    )
    assert "residual_chi2" in metrics["mean"] and "psnr" not in metrics["mean"]
    pictures = {path.name for path in (tmp_path / "out" / "images" / "observation-00001").iterdir()}
    assert "observation.png" in pictures and "reference.png" not in pictures


def test_a_photo_of_ones_own(folder, tmp_path):
    """13 x 9 colours with alpha: restored twice as large, channel by channel, inside 28 x 20."""
    rows, columns = np.mgrid[:13, :9]
    planes = [20 * rows, 30 * columns, 120 + 120 * np.sin(rows), np.full(rows.shape, 200)]
    photo = np.stack(planes, axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "holiday.png")
    done = program(
        "sample.py", folder / "sample_tiny.py", "--observations", tmp_path / "holiday.png",
        "--out-dir", tmp_path / "out", "--no-compare", "--tile", "16",
        "operator:super-resolution", "--operator.factor", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    restored = {path.name for path in (tmp_path / "out" / "restored").iterdir()}
    assert restored == {"mgdm_mean.png", "mgdm_sample_00.png", "mgdm_sample_01.png",
                        "mgdm_std.png", "mgdm_before_after.png"}  # fmt: skip
    with Image.open(tmp_path / "out" / "restored" / "mgdm_sample_00.png") as opened:
        pixels = np.asarray(opened)
    assert pixels.shape == (26, 18, 4) and np.all(pixels[..., 3] == 200)
    # It explains the photo, and better than grey would.
    small = pixels[..., :3].reshape(13, 2, 9, 2, 3).mean((1, 3))
    error, grey = (np.abs(x - photo[..., :3]).mean() for x in (small, 127.5))
    assert error < 0.7 * grey


@pytest.mark.parametrize(
    "text,words",
    [
        ("def get_config(:", "line 1: SyntaxError"),
        ("import nothing_of_that_name", "line 1: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "line 2: ZeroDivisionError"),
        ("import sys\nsys.exit(5)", "line 2: SystemExit"),
        ("def get_conf(): pass", "define get_config"),
        ("def get_config(): return 3", "must give a SampleConfig"),
    ],
)
def test_presets_that_do_not_work(tmp_path, refused, text, words):
    (tmp_path / "preset.py").write_text(text)
    assert words in refused(tmp_path / "preset.py")


OWN_FAMILY = """
import dataclasses
import jax.numpy as jnp
from lavps_jax.config.settings import *
from lavps_jax.data import SyntheticData
from lavps_jax.operators import nonlinear_operator
from lavps_jax.operators.families.base import Family
from lavps_jax.samplers import DPS

def root(data, x):
    return jnp.sqrt(x)

@dataclasses.dataclass(frozen=True)
class Root(Family):
    def draw(self, rng_key, x_shape):
        return nonlinear_operator(root, x_shape)

def get_config():
    return SampleConfig({prior!r}, SyntheticData(8, (16, 16, 1)), Root(), DPS(), {out!r})
"""


OWN = """
from __future__ import annotations
import dataclasses
from lavps_jax.config.settings import *
from lavps_jax.data import SyntheticData
from lavps_jax.operators.families import Identity
from lavps_jax.operators.families.base import Family
from lavps_jax.pytrees import static
from lavps_jax.samplers import DDNM

@dataclasses.dataclass(frozen=True)
class Mine(Family):
    \"""An operator of mine.\"""
    gain: float = 1.0
    \"""How bright.\"""
    def draw(self, rng_key, x_shape):
        return Identity().draw(rng_key, x_shape)

{decorator}
class Own{base}:
    \"""A sampler of mine.\"""
    num_steps: int = {default}

def get_config():
    return SampleConfig({prior!r}, SyntheticData(8, (16, 16, 1)), Mine(), Own(), {out!r},
                        num_images=1, num_particles=1)
"""
IS_ONE = {"decorator": "", "base": "(DDNM)", "default": "static(default=5)"}
IS_NONE = {"decorator": "@dataclasses.dataclass(frozen=True)", "base": "", "default": "5"}


def test_a_preset_with_an_operator_and_a_sampler_of_its_own(folder, tmp_path, told, refused):
    """From any folder, with flags of its own and in --help."""
    preset, out = tmp_path / "mine.py", tmp_path / "out"
    prior = str(folder / "run" / "weights")
    preset.write_text(OWN.format(prior=prior, out=str(out), **IS_ONE))
    code, printed = told(preset, "--help")
    assert code == 0 and "operator:mine" in printed.out, printed.err
    assert "--operator.gain" in told(preset, "operator:mine", "--help")[1].out
    wrong = refused(preset, "--operator.gainn", "2")
    assert wrong.startswith("error: Unrecognized") and "did you mean --operator.gain? " in wrong
    command = [sys.executable, ROOT / "sample.py", preset, "--sampler.num-steps", "4"]
    done = subprocess.run([*command, "--operator.gain", "2"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    stored = json.loads((out / "config.json").read_text())
    assert (stored["sampler"]["num_steps"], stored["operator"]["gain"]) == (4, 2.0)


def test_a_sampler_that_is_none(folder, tmp_path, refused):
    preset, out = tmp_path / "mine.py", tmp_path / "out"
    prior = str(folder / "run" / "weights")
    preset.write_text(OWN.format(prior=prior, out=str(out), **IS_NONE))
    assert "sampler: got Own; give one of lavps_jax.samplers" in refused(preset)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "program_", [["train.py", "train_tiny.py"], ["sample.py", "sample_tiny.py"]]
)
def test_a_device_that_is_not_here_is_one_line(folder, tmp_path, program_):
    name, preset = program_
    flag = "--run-dir" if name == "train.py" else "--out-dir"
    done = subprocess.run(
        [sys.executable, name, folder / preset, flag, tmp_path / "new"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "nothing"},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: JAX_PLATFORMS: got nothing")


def test_an_operator_without_a_gradient_is_refused(folder, tmp_path, refused):
    preset, out = tmp_path / "root.py", tmp_path / "out"
    preset.write_text(OWN_FAMILY.format(prior=str(folder / "run" / "weights"), out=str(out)))
    assert "NonlinearOperator without a finite gradient (synthetic-0000" in refused(preset)
    assert not out.exists()


def test_a_folder_with_other_files_is_not_replaced(folder, tmp_path, refused):
    preset, photo = folder / "sample_tiny.py", tmp_path / "photo.txt"
    photo.write_text("mine")
    assert "it holds other files" in refused(preset, "--overwrite", "--out-dir", tmp_path)
    assert photo.read_text() == "mine"
    assert "choose another" in refused(preset, "--out-dir", photo / "x")


def test_a_terminated_job_leaves_nothing(folder, tmp_path):
    command = [
        sys.executable,
        "sample.py",
        folder / "sample_tiny.py",
        "--out-dir",
        tmp_path / "out",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 143 and not list(tmp_path.iterdir())


def test_training_that_is_terminated_goes_on_where_it_was(folder, tmp_path):
    preset, text = tmp_path / "long.py", TRAIN.format(run=str(tmp_path / "run"))
    for name in ("num_train_steps", "checkpoint_every"):
        text = text.replace(f"{name}=3", f"{name}=10**6")
    text = text.replace("validate_every=3", "log_every=1")
    preset.write_text(PRESETS.format(config=text))
    process = subprocess.Popen([sys.executable, "train.py", preset], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    log = tmp_path / "run" / "log.csv"
    while (not log.exists() or log.read_text().count("\n") < 9) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err == "interrupted\n", err
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert int(saved.name) > 1
    assert f"stopped at step {saved.name}: the same command goes on from step {saved.name}" in out
    process = subprocess.Popen([sys.executable, "train.py", preset], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    assert f"resumed at step {saved.name} of" in process.stdout.readline()
    process.kill()
    process.communicate()


def test_missing_preset(tmp_path):
    done = program("train.py", tmp_path / "nothing.py")
    assert done.returncode == 2 and "configs/" in done.stderr
