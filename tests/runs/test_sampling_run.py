"""Sampling runs in this process: LAVPS and the supervised baseline, end to end."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from lavps_jax.config.samplers import AnySampler
from lavps_jax.config.settings import (
    AmortizedTask,
    OneStepTask,
    OptimizerConfig,
    PriorTask,
    SampleConfig,
    SupervisedTask,
    TrainConfig,
    to_json,
)
from lavps_jax.data import FolderData, SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    PureModel,
    SupervisedNetworkConfig,
    split,
)
from lavps_jax.networks.tiled import Tiles
from lavps_jax.operators import families
from lavps_jax.runs import training as training_run
from lavps_jax.runs.build import build_sampler
from lavps_jax.runs.loading import load_prior
from lavps_jax.runs.measurements import Simulation
from lavps_jax.runs.prepare import _names
from lavps_jax.runs.sampling import run_sampling
from lavps_jax.samplers import (
    DDIM,
    DDNM,
    DDRM,
    DPS,
    LAVPS,
    MGDM,
    Inner,
    OneStep,
    PiGDM,
    REDDiff,
    Supervised,
)

NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


def amortized_task(prior, **changes) -> AmortizedTask:
    """A start for the operator that runs here have by default, on a small grid."""
    network, known = AmortizedNetworkConfig(NETWORK), families.RandomPixels(0.4, 0.6)
    return AmortizedTask(network, prior, known, num_steps=12, high_idx=6, **changes)


def train(run_dir, task, num_train_steps) -> str:
    """Folder of the exported network."""
    steps = num_train_steps
    config = TrainConfig(
        task,
        train_data=SyntheticData(64, (8, 8, 1)),
        validation_data=SyntheticData(8, (8, 8, 1), seed=1),
        run_dir=str(run_dir),
        batch_size=16,
        num_train_steps=steps,
        optimizer=OptimizerConfig(peak_lr=5e-3, warmup_steps=5),
        log_every=steps,
        validate_every=steps,
        checkpoint_every=steps,
    )
    return str(training_run.run_training(config, devices=jax.devices()[:1]))


def untrained(folder, task, change=lambda weights: weights) -> str:
    """Folder of the exported network as it is before training; compiles nothing."""
    config = TrainConfig(task, SyntheticData(), SyntheticData(), run_dir="none")
    weights = split(task.network.build(nnx.Rngs(0)))[1]
    export_weights(folder, change(weights), {"config": to_json(config)})
    return str(folder)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return train(tmp_path_factory.mktemp("prior") / "run", PriorTask(NETWORK), 60)


def sample(out, prior, sampler, **changes):
    config = SampleConfig(
        prior=prior,
        data=SyntheticData(8, (8, 8, 1), seed=2),
        operator=families.RandomPixels(0.4, 0.6),
        sampler=sampler,
        out_dir=str(out),
        num_images=3,
        num_particles=2,
    )
    folder = run_sampling(dataclasses.replace(config, **changes))
    return json.loads((folder / "metrics.json").read_text())


def test_lavps_with_a_network_that_says_nothing_is_mgdm(prior, tmp_path):
    # Before training the network returns d_mu = d_rho = 0.
    task = amortized_task(prior, tau_rule="midpoint")
    amortized = untrained(tmp_path / "silent", task)
    shared = {"num_steps": 12, "high_idx": 6, "tau_rule": "midpoint",
              "inner_low_noise": Inner(2)}  # fmt: skip
    lavps = LAVPS(amortized=amortized, **shared)
    metrics = sample(tmp_path / "out", prior, lavps, compare_with=(MGDM(**shared),))
    mgdm = metrics["compared"][0]
    assert (metrics["sampler"], mgdm["sampler"]) == ("lavps", "mgdm")
    for one, other in zip(metrics["per_image"], mgdm["per_image"], strict=True):
        assert one["psnr"] == pytest.approx(other["psnr"], abs=1e-3)
    # Five blocks of two particles are amortized, with one call of the amortized network each. The
    # operator is the one it was trained on: nothing is compared.
    assert metrics["mean"]["amortized_calls"] == 2 * 5
    for key in ("network_calls", "vjps"):
        assert metrics["mean"][key] == mgdm["mean"][key]


def test_an_unknown_operator_or_noise_makes_lavps_compare_its_starts(prior, tmp_path, capsys):
    task = amortized_task(prior, tau_rule="previous")
    lavps = LAVPS(amortized=untrained(tmp_path / "silent", task), num_steps=12, high_idx=6,
                        tau_rule="previous")  # fmt: skip
    schedule = load_prior(prior).schedule

    def calls(sampler, **measured):
        return build_sampler(sampler, schedule, (8, 8, 1), **measured).cost(schedule)[0]

    known = calls(lavps, operator=families.RandomPixels(0.4, 0.6), sigma_y=0.05)
    # Two losses in each of five blocks.
    assert calls(lavps, operator=families.RandomPixels(0.3, 0.6), sigma_y=0.05) == known + 2 * 5
    assert calls(lavps, operator=families.RandomPixels(0.4, 0.6), sigma_y=0.1) == known + 2 * 5
    assert calls(lavps) == known + 2 * 5
    assert calls(dataclasses.replace(lavps, best_of=False)) == known
    mixed = dataclasses.replace(lavps, tau_rule="mix", best_of=False)
    assert calls(dataclasses.replace(mixed, num_mixed_steps=4)) == known
    with pytest.raises(UserError, match='tau_rule: got mix; use "previous".*or high_idx = 5'):
        calls(dataclasses.replace(mixed, num_mixed_steps=5))
    sample(tmp_path / "out", prior, lavps, sigma_y=0.1, num_images=1, num_particles=1)
    assert "lavps: its network was trained on another operator" in capsys.readouterr().out


def test_starts_are_compared_where_a_class_is_asked_for(tmp_path, perturb, capsys, monkeypatch):
    network = dataclasses.replace(NETWORK, num_classes=3)
    prior = untrained(tmp_path / "prior", PriorTask(network), perturb)
    task = AmortizedTask(
        AmortizedNetworkConfig(network),
        prior,
        families.RandomPixels(0.4, 0.6),
        num_steps=12,
        high_idx=6,
    )
    lavps = LAVPS(amortized=untrained(tmp_path / "silent", task), num_steps=12, high_idx=6)
    monkeypatch.setattr("lavps_jax.runs.sampling.restore_batches", lambda *_: 1 / 0)
    for label, compared in ((None, False), (2, True)):
        with pytest.raises(ZeroDivisionError):
            sample(tmp_path / "out", prior, lavps, class_label=label)
        assert ("starts are compared" in capsys.readouterr().out) == compared


def test_images_larger_than_those_of_training_are_noted(prior, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lavps_jax.runs.sampling.restore_batches", lambda *_: 1 / 0)
    for side, tile, noted in ((8, None, False), (16, None, True), (16, 8, False)):
        with pytest.raises(ZeroDivisionError):
            sample(tmp_path / "out", prior, DPS(), tile=tile, tile_overlap=2,
                   data=SyntheticData(3, (side, side, 1)))  # fmt: skip
        said = capsys.readouterr().out.replace("\n", " ")
        assert ("trained on images" in said) == noted
        assert ("of 8 pixels, these are 16 x 16: --tile 8" in said) == noted


def test_samples_of_arrays_are_written_batch_by_batch(prior, tmp_path):
    y = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "y.npz", y=y)
    sample(tmp_path / "out", prior, DPS(num_steps=4), operator=families.Identity(),
           observations=str(tmp_path / "y.npz"), batch_size=2)  # fmt: skip
    with np.load(tmp_path / "out" / "restored" / "dps.npz") as arrays:
        names, samples = arrays["names"], arrays["samples"]
    assert samples.shape == (3, 2, 8, 8, 1) and samples.dtype == np.float32
    for name, some in zip(names, samples, strict=True):
        for p, x in enumerate(some):
            with Image.open(tmp_path / "out" / "images" / name / f"dps_sample_{p:02d}.png") as png:
                shown = np.asarray(png) / 127.5 - 1
            np.testing.assert_allclose(np.clip(x[..., 0], -1, 1), shown, atol=0.005)


def test_images_of_similar_names_have_folders_of_their_own(prior, tmp_path):
    source = SyntheticData(2, (8, 8, 1)).open()
    for index, name in enumerate(("a.b.png", "a_b.png")):
        Image.fromarray(source[index][..., 0]).save(tmp_path / name)
    sampler = DPS(num_steps=4)
    sample(tmp_path / "out", prior, sampler, data=FolderData(str(tmp_path)), num_images=2)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2


def test_the_class_reaches_the_prior(prior, tmp_path, perturb):
    network = dataclasses.replace(NETWORK, num_classes=3)
    with_classes = untrained(tmp_path / "prior", PriorTask(network), perturb)
    found = [
        sample(tmp_path / f"{label}", with_classes, DPS(num_steps=4), class_label=label)
        for label in (None, 2)
    ]
    assert found[0]["mean"]["psnr"] != found[1]["mean"]["psnr"]
    for folder, label, words in (
        (with_classes, 3, "class_label: got 3; use 0 to 2"),
        (with_classes, "data", "class_label: got data; give a number"),
        (prior, 0, "class_label: got 0; leave it out"),
    ):
        with pytest.raises(UserError, match=words):
            sample(tmp_path / "out", folder, DPS(num_steps=4), class_label=label)


def test_results_do_not_depend_on_the_batch_size(prior, tmp_path):
    sampler = DPS(num_steps=4)
    scores = [
        [row["psnr"] for row in sample(tmp_path / f"{size}", prior, sampler,
                                       batch_size=size)["per_image"]]
        for size in (2, 3)
    ]  # fmt: skip
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)


def models_of(sampler) -> list[PureModel]:
    """All networks that a sampler evaluates."""
    if isinstance(sampler, PureModel):
        return [sampler]
    if not dataclasses.is_dataclass(sampler):
        return []
    fields = [getattr(sampler, one.name) for one in dataclasses.fields(sampler)]
    return [model for field in fields for model in models_of(field)]


@pytest.mark.parametrize("kind", ["amortized", "conditional start", "conditional", "one step"])
def test_half_precision_reaches_every_network(prior, tmp_path, kind):
    known = families.RandomPixels(0.4, 0.6)
    supervised = SupervisedTask(SupervisedNetworkConfig(NETWORK), known)
    task, sampler_of = {
        "amortized": (
            AmortizedTask(AmortizedNetworkConfig(NETWORK), prior, known, num_steps=12, high_idx=6),
            lambda path: LAVPS(amortized=path, num_steps=12, high_idx=6),
        ),
        "conditional start": (supervised, lambda path: LAVPS(amortized=path)),
        "conditional": (supervised, lambda path: Supervised(denoiser=path)),
        "one step": (
            OneStepTask(SupervisedNetworkConfig(NETWORK), "none", prior, known),
            lambda path: OneStep(generator=path),
        ),
    }[kind]
    path = untrained(tmp_path / "network", task)
    tiles = None if kind == "one step" else Tiles(8, 4)
    denoiser = load_prior(prior, tiles=tiles, compute_dtype="bfloat16")
    sampler = build_sampler(
        sampler_of(path), denoiser.schedule, (16, 16, 1), tiles=tiles, compute_dtype="bfloat16"
    )
    for networks in (denoiser, sampler):
        models = models_of(networks)
        assert len(models) == 1 and models[0].compute_dtype == "bfloat16"
        dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(networks) if hasattr(leaf, "dtype")}
        assert dtypes == {"bfloat16", "float32"}


def test_networks_compute_in_half_precision_where_asked(prior, tmp_path):
    sampler = DPS(num_steps=4)
    whole, half = (
        np.array([row["psnr"] for row in sample(tmp_path / dtype, prior, sampler,
                                                compute_dtype=dtype)["per_image"]])
        for dtype in ("float32", "bfloat16")
    )  # fmt: skip
    assert 0 < np.abs(half - whole).max() < 0.5
    with pytest.raises(UserError, match="compute_dtype: got 'bf16'; use one of 'float32'"):
        sample(tmp_path / "bf16", prior, sampler, compute_dtype="bf16")


@pytest.mark.parametrize("pivot", [False, True])
def test_the_supervised_baseline_sees_the_measurement(prior, tmp_path, pivot):
    network = HDiTConfig(1, 1, 2, (LevelConfig(32, 1, GlobalAttention(16)),), 32, 1)
    network = SupervisedNetworkConfig(network, pivot=pivot)
    task = SupervisedTask(network, families.Identity(), sigma_y=0.05)
    denoiser = train(tmp_path / "run", task, 400)
    sampler = Supervised(denoiser, num_steps=20)
    metrics = sample(tmp_path / "out", prior, sampler, operator=families.Identity(), num_images=8)
    names = [row["name"] for row in metrics["per_image"]]
    psnr = np.array([row["psnr"] for row in metrics["per_image"]])
    # The pictures differ by far more: ignoring y would give the mean picture at the best.
    images = np.stack([SyntheticData(8, (8, 8, 1), seed=2).open()[i] for i in range(8)]) / 255.0
    ignorant = -10 * np.log10(np.mean((images - images.mean(0)) ** 2))
    assert len(set(names)) == 8 and psnr.mean() > ignorant + 4
    # As a start it brings y into blocks that nothing is fitted in.
    blind = MGDM(inner=Inner(0), inner_low_noise=Inner(0), num_steps=12, high_idx=11)
    lavps = LAVPS(**vars(blind) | {"amortized": denoiser})
    found = sample(tmp_path / "start", prior, lavps, operator=families.Identity(), num_images=8,
                   compare_with=(blind,))  # fmt: skip
    assert found["mean"]["network_calls"] == found["compared"][0]["mean"]["network_calls"] + 2 * 9
    assert found["mean"]["psnr"] > found["compared"][0]["mean"]["psnr"] + 4


def test_methods_of_others_with_a_network_and_the_observation_as_it_was_measured(prior, tmp_path):
    others = (DDRM(num_steps=4), REDDiff(num_steps=4), DDIM(num_steps=4))
    sampler = PiGDM(num_steps=4)
    metrics = sample(tmp_path / "out", prior, sampler, operator=families.SuperResolution(2),
                     compare_with=others, num_images=1)  # fmt: skip
    found = [metrics, *metrics["compared"]]
    assert [one["sampler"] for one in found] == ["pigdm", "ddrm", "reddiff", "ddim"]
    assert len({one["mean"]["psnr"] for one in found}) == 4
    assert [one["mean"]["vjps"] for one in found] == [2 * 2, 0, 0, 0]
    assert [one["mean"]["network_calls"] for one in found] == [2 * 3] * 4
    picture = tmp_path / "out" / "images" / "synthetic-00000" / "observation.png"
    with Image.open(picture) as opened:
        assert opened.size == (4, 4)


def test_every_method_has_a_name_of_its_own():
    names = _names([kind() for kind in get_args(AnySampler)])
    assert len(set(names)) == len(names) and not any("_" in name for name in names)


def test_a_sampler_that_cannot_take_the_operator_is_refused_before_any_runs(
    prior, tmp_path, monkeypatch
):
    monkeypatch.setattr("lavps_jax.runs.sampling.restore_batches", lambda *_: pytest.fail("it ran"))
    for operator, words in (
        (
            families.GaussianBlur(3, 1.0),
            "operator: got Blur; use PiGDM, MGDM or LAVPS: .* singular values",
        ),
        (
            families.HighDynamicRange(),
            "operator: got Clipping; use MGDM, LAVPS or DPS: DDNM takes linear",
        ),
    ):
        with pytest.raises(UserError, match=words):
            sample(tmp_path / "out", prior, MGDM(num_steps=5, high_idx=2),
                   operator=operator, compare_with=(DDNM(num_steps=5),))  # fmt: skip
        assert not list(tmp_path.iterdir())


def test_a_prior_is_no_amortized_network(prior, tmp_path):
    with pytest.raises(UserError, match=r"sampler.amortized"):
        sample(tmp_path / "out", prior, LAVPS(amortized=prior))
    assert not list(tmp_path.iterdir())


def base_config(**changes):
    data, operator = SyntheticData(64, (8, 8, 1)), families.RandomPixels(0.4, 0.6)
    config = SampleConfig("", data, operator, MGDM(), "", num_images=64, batch_size=64)
    return dataclasses.replace(config, **changes)


def test_operators_are_new_for_every_image_only_if_stochastic():
    masks = np.asarray(Simulation(base_config()).batch(0).problems.operator.mask)
    assert len(np.unique(masks.reshape(64, -1), axis=0)) == 64
    fixed = base_config(stochastic=False)
    masks = np.asarray(Simulation(fixed).batch(0).problems.operator.mask)
    assert len(np.unique(masks.reshape(64, -1), axis=0)) == 1


def test_samplers_of_one_kind_get_names_of_their_own(prior, tmp_path):
    one, two = DPS(num_steps=4), DPS(num_steps=4, step_size=0.5)
    metrics = sample(tmp_path / "out", prior, one, compare_with=(two,), num_images=1)
    assert (metrics["sampler"], metrics["compared"][0]["sampler"]) == ("dps", "dps_2")
    files = {path.name for path in (tmp_path / "out" / "images" / "synthetic-00000").iterdir()}
    assert {"dps_mean.png", "dps_2_mean.png"} <= files


def test_an_amortized_network_is_used_on_its_own_grid_only(prior, tmp_path):
    task = amortized_task(prior, tau_rule="midpoint")
    amortized = untrained(tmp_path / "silent", task)
    for wrong, words in (
        (LAVPS(amortized=amortized, num_steps=20, best_of=False), "num_steps: got 20; use 12"),
        (LAVPS(amortized=amortized, num_steps=12, high_idx=8), "high_idx"),
        (
            LAVPS(amortized=amortized, num_steps=12, high_idx=6, tau_rule="previous"),
            'tau_rule: got previous; use "midpoint"',
        ),
    ):
        with pytest.raises(UserError, match=words):
            sample(tmp_path / "out", prior, wrong)
