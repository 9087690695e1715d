"""Conversion of published checkpoints: real files, written and read by PyTorch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from lavps_jax.config.settings import AmortizedTask, PriorTask, TrainConfig, to_json
from lavps_jax.convert import from_checkpoint, from_orbax, run, to_torch
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.errors import UserError
from lavps_jax.io.own_folders import MARK
from lavps_jax.io.published import to_published
from lavps_jax.io.weights import CARD, WEIGHTS, load_weights
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    split,
)
from lavps_jax.operators import families
from lavps_jax.runs.loading import load_network

torch = pytest.importorskip("torch", reason="needs the extra convert")
ROOT = Path(__file__).parents[2]


def write_preset(path: Path, task) -> str:
    config = TrainConfig(task, SyntheticData(), SyntheticData(), run_dir="runs/none")
    path.write_text(
        "import json\nfrom lavps_jax.config.settings import from_json\n\n"
        f"def get_config():\n    return from_json(json.loads({json.dumps(to_json(config))!r}))\n"
    )
    return str(path)


@pytest.fixture
def prior(golden, tmp_path):
    """(tensors, preset) of the tiny prior."""
    stored = golden("hdit_tiny")
    tensors = {name: torch.from_numpy(array) for name, array in stored.state_dict().items()}
    return tensors, write_preset(tmp_path / "prior.py", PriorTask(stored.backbone))


def save(tensors, path: Path) -> Path:
    torch.save({"ema": tensors, "step": 3}, path)
    return path


def split_in_parts(path: Path, size: int = 400_000) -> None:
    content, lines = path.read_bytes(), []
    for i in range(0, len(content), size):
        part = path.with_name(f"{path.name}.part-{i // size:02d}")
        part.write_bytes(content[i : i + size])
        lines.append(f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n")
    lines.append(f"{hashlib.sha256(content).hexdigest()} *{path.name}\n")
    (path.parent / "SHA256SUMS").write_text("".join(lines))
    path.unlink()


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lavps_jax.convert", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_a_prior_in_parts_gives_the_published_numbers(golden, prior, tmp_path):
    tensors, preset = prior
    source = save(tensors, tmp_path / "tiny.pt")
    whole = hashlib.sha256(source.read_bytes()).hexdigest()
    split_in_parts(source)
    assert len(list(tmp_path.glob("tiny.pt.part-*"))) > 3
    done = command(source, tmp_path / "out", "--preset", preset)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out") in done.stdout
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["source"] == {"file": "tiny.pt", "sha256": whole, "preset": preset}
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [MARK, CARD, WEIGHTS]
    model, weights, _ = load_network(str(tmp_path / "out"))
    stored = golden("hdit_tiny")
    x, c_noise = stored.image("raw_x"), jnp.asarray(stored["raw_c_noise"])[:, None]
    stored.close("raw_out", jax.jit(jax.vmap(model, (None, 0, 0)))(weights, x, c_noise))


@pytest.mark.parametrize("kind", ["palette", "invfussion"])
def test_amortized_networks_go_there_and_back(golden, prior, tmp_path, kind):
    stored, (prior_tensors, prior_preset) = golden(f"amortized_{kind}"), prior
    folder = tmp_path / "prior"
    from_checkpoint(save(prior_tensors, tmp_path / "prior.pt"), str(folder), prior_preset)
    network = AmortizedNetworkConfig(stored.backbone, noise_embedding="linear", inverse="published")
    task = AmortizedTask(network, str(folder), families.MotionBlur())
    preset = write_preset(tmp_path / "amortized.py", task)
    tensors = {name: torch.from_numpy(array) for name, array in stored.state_dict().items()}
    tensors |= {f"epsilon_net.net.{name}": tensor for name, tensor in prior_tensors.items()}
    source = save(tensors, tmp_path / "amortized.pt")
    from_checkpoint(source, str(tmp_path / "amortized"), preset)
    to_torch(str(tmp_path / "amortized"), tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["ema"]
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape, name
        if "logvar" in name:  # The head that nothing uses is not kept.
            assert not back[name].any()
        elif name.endswith("freqs"):
            torch.testing.assert_close(back[name], tensor, rtol=1e-6, atol=0)
        else:
            assert torch.equal(back[name], tensor), name


@pytest.mark.slow
def test_memory_stays_below_one_and_a_half_checkpoints(prior, tmp_path):
    def converted(tensors, preset, name) -> tuple[int, int]:
        """(size of the checkpoint, peak memory), bytes."""
        source, out = save(tensors, tmp_path / f"{name}.pt"), str(tmp_path / name)
        # Not ru_maxrss: that of a new process begins with the one of its parent.
        program = (
            "from lavps_jax.convert import run; "
            f"run([{str(source)!r}, {out!r}, '--preset', {preset!r}]); "
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        return source.stat().st_size, 1024 * int(done.stdout.split()[-1])

    small, program_itself = converted(*prior, "small")
    assert small < 1e7
    levels = (LevelConfig(1024, 6, GlobalAttention(64)),)
    config = TrainConfig(
        PriorTask(HDiTConfig(3, 4, 4, levels, 256, 1)), SyntheticData(), SyntheticData(), "none"
    )
    network: Any = config.task.network
    shapes = split(nnx.eval_shape(lambda: network.build(nnx.Rngs(0))))[1]
    draw = np.random.default_rng(0).standard_normal  # Numbers that do not compress.
    weights = jax.tree.map(lambda leaf: draw(leaf.shape, np.float32), shapes)
    large = {name: torch.tensor(array) for name, array in to_published(weights, "unet.").items()}
    size, peak = converted(large, write_preset(tmp_path / "large.py", config.task), "large")
    assert size > 3e8
    assert peak - program_itself < 1.5 * size


def test_what_does_not_fit_is_named(prior, tmp_path):
    tensors, preset = prior
    wrong = dict(tensors)
    wrong["unet.patch_in.weight"] = wrong.pop("unet.patch_in.proj.weight")
    wrong["unet.out_norm.scale"] = torch.zeros(7)
    source = save(wrong, tmp_path / "wrong.pt")
    done = command(source, tmp_path / "out", "--preset", preset)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "missing: unet.patch_in.proj.weight;" in done.stderr
    assert "unexpected: unet.patch_in.weight;" in done.stderr
    assert "misshapen: unet.out_norm.scale [7] instead of [64]" in done.stderr
    assert not (tmp_path / "out").exists()


def test_other_rotary_frequencies_are_refused(prior, tmp_path):
    tensors, preset = prior
    name = next(name for name in tensors if name.endswith("freqs"))
    source = save({**tensors, name: 2 * tensors[name]}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="other rotary frequencies"):
        from_checkpoint(source, str(tmp_path / "out"), preset)


def test_damaged_and_missing_files(prior, tmp_path):
    tensors, preset = prior
    source, out = save(tensors, tmp_path / "tiny.pt"), str(tmp_path / "out")
    with pytest.raises(UserError, match="nothing.pt; give a .pt file"):
        from_checkpoint(tmp_path / "nothing.pt", out, preset)
    split_in_parts(source)
    part = tmp_path / "tiny.pt.part-01"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="part-01, whose SHA-256 differs"):
        from_checkpoint(source, out, preset)
    part.unlink()
    with pytest.raises(UserError, match="without tiny.pt.part-01; get all parts"):
        from_checkpoint(source, out, preset)
    source.write_bytes(b"no checkpoint")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"which is text \(no checkpoint\); get the file itself"):
        from_checkpoint(source, out, preset)
    (tmp_path / "SHA256SUMS").write_text("404: Not Found")
    with pytest.raises(UserError, match="SHA256SUMS; get the file again"):
        from_checkpoint(source, out, preset)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  other.pt\n")
    with pytest.raises(UserError, match="tiny.pt, which SHA256SUMS does not list"):
        from_checkpoint(source, out, preset)
    (tmp_path / "SHA256SUMS").unlink()
    torch.save([1, 2], source)
    with pytest.raises(UserError, match="state dict"):
        from_checkpoint(source, out, preset)
    assert not Path(out).exists() and not list(tmp_path.glob(".*"))


def test_parts_without_leading_zeros_are_joined_in_order(prior, tmp_path):
    tensors, preset = prior
    source = save(tensors, tmp_path / "tiny.pt")
    split_in_parts(source, size=100_000)
    (tmp_path / "SHA256SUMS").unlink()
    parts = sorted(tmp_path.glob("tiny.pt.part-*"))
    assert len(parts) > 11
    for i, part in enumerate(parts):
        part.rename(tmp_path / f"tiny.pt.part-{i}")
    from_checkpoint(source, str(tmp_path / "out"), preset)


def test_half_precision_is_read(golden, prior, tmp_path):
    tensors, preset = prior
    halved = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    from_checkpoint(save(halved, tmp_path / "half.pt"), str(tmp_path / "out"), preset)
    model, weights, _ = load_network(str(tmp_path / "out"))
    stored = golden("hdit_tiny")
    out = jax.jit(model)(weights, stored.image("raw_x")[0], jnp.asarray(stored["raw_c_noise"])[:1])
    expected = stored.image("raw_out")[0]
    assert 1e-5 < np.abs(out - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    "change",
    [
        {"noise_embedding": "log"},
        {"mean_unit": "prior_std"},
        {"guidance": True},
        {"inverse": "ridge"},
    ],
)
def test_networks_that_would_mean_something_else_there(golden, tmp_path, change):
    backbone = golden("amortized_palette").backbone
    network = AmortizedNetworkConfig(backbone, noise_embedding="linear", inverse="published")
    task = AmortizedTask(dataclasses.replace(network, **change), "prior", families.MotionBlur())
    preset = write_preset(tmp_path / "preset.py", task)
    with pytest.raises(UserError, match=f"{next(iter(change))}: .* the published networks have"):
        from_checkpoint(tmp_path / "nothing.pt", str(tmp_path / "out"), preset)


def test_a_prior_that_predicts_something_else_is_refused(prior, golden, tmp_path):
    tensors, preset = prior
    other = PriorTask(golden("hdit_tiny").backbone, parameterisation=VP())
    with pytest.raises(UserError, match="^task.parameterisation: got VP.* have EDM"):
        from_checkpoint(tmp_path / "nothing.pt", "out", write_preset(tmp_path / "other.py", other))
    from_checkpoint(save(tensors, tmp_path / "tiny.pt"), str(tmp_path / "out"), preset)
    card = json.loads((tmp_path / "out" / CARD).read_text())
    card["config"]["task"]["parameterisation"] = to_json(VP())
    (tmp_path / "out" / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match="^task.parameterisation: got VP.* have EDM"):
        to_torch(str(tmp_path / "out"), tmp_path / "back.pt")


class Harmful:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_never_run(prior, tmp_path):
    source = tmp_path / "harmful.pt"
    torch.save({"ema": Harmful(tmp_path / "harm")}, source)
    with pytest.raises(UserError, match="holds more than tensors"):
        from_checkpoint(source, str(tmp_path / "out"), prior[1])
    assert not (tmp_path / "harm").exists()


def test_nothing_is_replaced_unasked(prior, tmp_path):
    tensors, preset = prior
    source = save(tensors, tmp_path / "tiny.pt")
    from_checkpoint(source, str(tmp_path / "out"), preset)
    with pytest.raises(UserError, match="overwrite"):
        from_checkpoint(source, str(tmp_path / "out"), preset)
    before = source.read_bytes()
    with pytest.raises(UserError, match="move it, this program did not make it"):
        to_torch(str(tmp_path / "out"), source, overwrite=True)  # The only copy, downloaded.
    assert source.read_bytes() == before
    to_torch(str(tmp_path / "out"), tmp_path / "back.pt")
    with pytest.raises(UserError, match="set overwrite"):
        to_torch(str(tmp_path / "out"), tmp_path / "back.pt")
    to_torch(str(tmp_path / "out"), tmp_path / "back.pt", overwrite=True)
    before = np.asarray(tensors["unet.patch_in.proj.weight"])
    back = torch.load(tmp_path / "back.pt", weights_only=True)["ema"]
    np.testing.assert_array_equal(back["unet.patch_in.proj.weight"], before)
    done = command(tmp_path / "out", tmp_path / "missing" / "back.pt", "--to-torch")
    assert done.returncode == 2 and "make its folder first" in done.stderr


# ---- Exports by Orbax ----


def export_by_orbax(folder: Path, dtype: str) -> dict[str, Any]:
    """As earlier versions did; returns the arrays as a tree."""
    kernel = np.random.default_rng(0).standard_normal((2, 3)).astype(dtype)
    arrays = {"layers/0/kernel": kernel, "steps": np.array(7, np.int32)}
    digest = hashlib.sha256(
        f"layers/0/kernel {dtype} [2, 3]\n".encode() + kernel.tobytes()
        + b"steps int32 []\n" + arrays["steps"].tobytes()
    )  # fmt: skip
    ocp.PyTreeCheckpointer().save(folder / "weights", arrays)
    facts = {"sha256": digest.hexdigest(), "dtype": dtype, "num_parameters": 7}
    (folder / "card.json").write_text(json.dumps({"config": {"width": 3}, "weights": facts}))
    return {"layers": [{"kernel": jnp.asarray(kernel, jnp.float32)}], "steps": jnp.int32(7)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_exports_by_orbax_are_refused_until_they_are_converted(tmp_path, dtype):
    old, new = tmp_path / "old", tmp_path / "new"
    wanted = export_by_orbax(old, dtype)
    remedy = f"old, an export of .*convert it: python -m lavps_jax.convert {old} NEW_FOLDER$"
    with pytest.raises(UserError, match=remedy):
        load_weights(old, wanted)
    done = command(old, new)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in new.iterdir()) == [MARK, CARD, WEIGHTS]
    found = load_weights(new, wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    card = json.loads((new / CARD).read_text())
    assert card["config"] == {"width": 3} and card["weights"]["dtype"] == dtype
    with pytest.raises(UserError, match="set overwrite"):
        from_orbax(str(old), str(new))
    with pytest.raises(UserError, match="new, which holds weights of this library already"):
        from_orbax(str(new), str(tmp_path / "other"))


def test_damaged_and_missing_exports_by_orbax(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    export_by_orbax(old, "float32")
    with pytest.raises(UserError, match="nowhere, where no exported weights are"):
        from_orbax(str(tmp_path / "nowhere"), str(new))
    card = (old / CARD).read_text()
    (old / CARD).write_text(card.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(UserError, match="old, whose SHA-256 differs from its card; get the"):
        from_orbax(str(old), str(new))
    (old / CARD).write_text(card)
    (old / "weights" / "_METADATA").unlink()
    with pytest.raises(UserError, match="source: got .*old; get the weights again"):
        from_orbax(str(old), str(new))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["old"]
    with pytest.raises(UserError, match="^checkpoint: got .*none.pt; give a .pt file, or"):
        run([str(tmp_path / "none.pt"), str(new)])
