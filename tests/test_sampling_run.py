"""Sampling runs in this process: LAVPS and the supervised baseline, end to end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lavps_jax.config import (
    AmortizedTask,
    ConditionalConfig,
    ConditionalTask,
    InnerConfig,
    LAVPSConfig,
    MGDMConfig,
    OptimizerConfig,
    PriorTask,
    SampleConfig,
    TrainConfig,
)
from lavps_jax.data import SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.networks import (
    ConditionalDenoiserConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    PaletteConfig,
)
from lavps_jax.operators import Denoise, RandomPixels
from lavps_jax.sampling_run import run_sampling
from lavps_jax.training_run import run_training

NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


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
    return str(run_training(config))


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return train(tmp_path_factory.mktemp("prior") / "run", PriorTask(NETWORK), 60)


def sample(out, prior, sampler, **changes):
    config = SampleConfig(
        prior=prior,
        data=SyntheticData(8, (8, 8, 1), seed=2),
        operator=RandomPixels(0.4, 0.6),
        sampler=sampler,
        out_dir=str(out),
        num_images=3,
        num_particles=2,
    )
    folder = run_sampling(dataclasses.replace(config, **changes))
    return json.loads((folder / "metrics.json").read_text())


def test_lavps_with_a_network_that_says_nothing_is_mgdm(prior, tmp_path):
    # One step at learning rate zero: the network still returns d_mu = d_rho = 0.
    task = AmortizedTask(PaletteConfig(NETWORK), prior, RandomPixels(0.4, 0.6), num_steps=12,
                         high_idx=6)  # fmt: skip
    amortized = train(tmp_path / "run", task, 1)
    shared = {"num_steps": 12, "high_idx": 6, "inner_low_noise": InnerConfig(2)}
    lavps = LAVPSConfig(amortized=amortized, **shared)
    metrics = sample(tmp_path / "out", prior, lavps, compare_with=(MGDMConfig(**shared),))
    mgdm = metrics["compared"][0]
    assert (metrics["sampler"], mgdm["sampler"]) == ("lavps", "mgdm")
    for one, other in zip(metrics["per_image"], mgdm["per_image"], strict=True):
        assert one["psnr"] == pytest.approx(other["psnr"], abs=1e-3)
    # Five blocks of two steps each are amortized, with two comparisons and one network call.
    assert metrics["mean"]["network_calls"] - mgdm["mean"]["network_calls"] == 2 * 5 * 2
    assert metrics["mean"]["amortized_calls"] == 2 * 5
    assert metrics["mean"]["vjps"] == mgdm["mean"]["vjps"]


def test_results_do_not_depend_on_the_batch_size(prior, tmp_path):
    sampler = MGDMConfig(num_steps=8, high_idx=3)
    scores = [
        [row["psnr"] for row in sample(tmp_path / f"{size}", prior, sampler,
                                       batch_size=size)["per_image"]]
        for size in (1, 2, 3)
    ]  # fmt: skip
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-3)


def test_the_supervised_baseline_sees_the_measurement(prior, tmp_path):
    network = HDiTConfig(1, 1, 2, (LevelConfig(32, 1, GlobalAttention(16)),), 32, 1)
    task = ConditionalTask(ConditionalDenoiserConfig(network), Denoise(), sigma_y=0.05)
    denoiser = train(tmp_path / "run", task, 400)
    sampler = ConditionalConfig(denoiser, num_steps=20)
    metrics = sample(tmp_path / "out", prior, sampler, operator=Denoise(), num_images=8)
    names = [row["name"] for row in metrics["per_image"]]
    psnr = np.array([row["psnr"] for row in metrics["per_image"]])
    # The pictures differ by far more: ignoring y would give the mean picture at the best.
    images = np.stack([SyntheticData(8, (8, 8, 1), seed=2).open()[i] for i in range(8)]) / 255.0
    ignorant = -10 * np.log10(np.mean((images - images.mean(0)) ** 2))
    assert len(set(names)) == 8 and psnr.mean() > ignorant + 4


def test_a_prior_is_no_amortized_network(prior, tmp_path):
    with pytest.raises(UserError, match=r"sampler.amortized"):
        sample(tmp_path / "out", prior, LAVPSConfig(amortized=prior))
    assert not list(tmp_path.iterdir())
