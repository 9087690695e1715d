"""Loading exported networks: what does not fit is refused in one line."""

from __future__ import annotations

import dataclasses
import json

import pytest
from flax import nnx

from lavps_jax.config.settings import (
    PriorTask,
    SupervisedTask,
    TrainConfig,
    from_json,
    to_json,
)
from lavps_jax.data import FolderData, SyntheticData, TfdsData
from lavps_jax.diffusion.parameterisations import EDM, VE, VP, Flow
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    SupervisedNetworkConfig,
    split,
)
from lavps_jax.networks.tiled import Tiles
from lavps_jax.operators.families.base import Family
from lavps_jax.runs.build_training import build_trainee
from lavps_jax.runs.loading import (
    check_image_shape,
    check_tile,
    load_amortized,
    load_generator,
    load_prior,
    load_supervised,
)
from lavps_jax.samplers.starts import Amortized, SupervisedStart, TrainedBlocks

PRIOR = "pretrained/fashion_mnist/prior"
MOTION_BLUR = "pretrained/fashion_mnist/motion_blur"
PALETTE = "benchmarks/weights/palette"
GENERATOR = "benchmarks/weights/one_step"


def test_remedies_name_the_settings_that_the_source_has():
    network = HDiTConfig(3, 3, 2, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)
    for source, shape, settings in (
        ({"data": FolderData("x")}, (4, 4, 1), r" \(data.channels\)$"),
        ({"train_data": SyntheticData(1)}, (4, 4, 1), r" \(train_data.image_shape\)$"),
        ({"data": TfdsData()}, (4, 4, 1), "expects 3$"),
        ({}, (4, 4, 1), "expects 3$"),
        ({"data": FolderData("x")}, (5, 4, 3), r" \(data.size, data.crop\)$"),
        ({"data": TfdsData()}, (5, 4, 3), r" \(data.size, data.pad_to\)$"),
    ):
        with pytest.raises(UserError, match=settings):
            check_image_shape(network, shape, **source)


def test_a_tile_that_does_not_fit_is_not_blamed_on_the_overlap():
    with pytest.raises(UserError, match="tile: got 7; give a multiple of 4 that is at least 8"):
        check_tile(7, 4, 8)


@pytest.mark.parametrize(
    "load,path,words",
    [
        (load_prior, MOTION_BLUR, "prior: got .*; give a prior; this was trained as AmortizedTask"),
        (load_amortized, PRIOR, "sampler.amortized: got .*; give an amortized network or a super"),
        (load_supervised, PRIOR, "sampler.denoiser: got .*; give a supervised denoiser"),
        (load_generator, PALETTE, "sampler.generator: got .*; give a generator"),
    ],
)
def test_networks_of_another_task_are_refused(load, path, words):
    with pytest.raises(UserError, match=f"^{words}"):
        load(path)


@pytest.mark.parametrize(
    "load,path",
    [
        (load_prior, PRIOR),
        (load_amortized, MOTION_BLUR),
        (load_amortized, PALETTE),
        (load_supervised, PALETTE),
        (load_generator, GENERATOR),
    ],
)
def test_images_of_another_shape_are_refused(load, path):
    with pytest.raises(UserError, match="^channels of the images: got 3; the network expects 1"):
        load(path, (32, 32, 3))
    with pytest.raises(UserError, match="^size of the images: got 31x32; use sides that are mult"):
        load(path, (31, 32, 1))


def test_tiles_that_no_network_takes_are_refused():
    for load, path in ((load_prior, PRIOR), (load_amortized, MOTION_BLUR)):
        with pytest.raises(UserError, match="^tile: got 31; give a multiple of"):
            load(path, (64, 64, 1), Tiles(31, 4))


def test_a_start_says_what_it_was_trained_on_and_shipped_networks_have_names():
    start = load_amortized("fashion_mnist/motion_blur")
    assert isinstance(start, Amortized)
    assert start.trained == TrainedBlocks(100, 1, 50, "midpoint")
    assert isinstance(load_amortized(PALETTE), SupervisedStart)
    assert load_prior("fashion_mnist").schedule == start.schedule


@dataclasses.dataclass(frozen=True)
class Own(Family):
    size: int = 3


def test_a_card_may_name_a_family_of_the_users_own():
    """A network that was trained on it must be readable where its code is not."""
    network = SupervisedNetworkConfig(HDiTConfig(levels=(LevelConfig(64, 1),)))
    task = SupervisedTask(network, Own(5))  # type: ignore[arg-type]
    read = from_json(json.loads(json.dumps(to_json(task))))
    assert read.network == task.network and read.operator != task.operator
    with pytest.raises(UserError, match="operator: got Own; define it in the preset"):
        read.operator.draw(None, (8, 8, 1))


TINY = HDiTConfig(1, 1, 2, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)


def trained(**settings) -> TrainConfig:
    data = SyntheticData(1)
    return TrainConfig(PriorTask(TINY, **settings), data, data, "run")


@pytest.mark.parametrize(
    "parameterisation",
    [EDM(0.6), VP("v", Schedule(kind="cosine"), clip=True), VE("score", "sigma"), Flow(1000.0)],
)
def test_converted_weights_are_the_prior_that_their_card_says(parameterisation, tmp_path):
    config = dataclasses.replace(
        trained(parameterisation=parameterisation), schedule=Schedule(kind="scaled_linear")
    )
    weights = split(TINY.build(nnx.Rngs(0)))[1]
    export_weights(tmp_path / "weights", weights, {"config": to_json(config)})
    prior = load_prior(str(tmp_path / "weights"))
    assert prior.parameterisation == parameterisation and prior.schedule == config.schedule
    with pytest.raises(UserError, match="^task.parameterisation: got .*; use EDM()"):
        build_trainee(config, (32, 32, 1))


def test_a_card_from_before_parameterisations_is_of_edm():
    config = trained()
    stored = to_json(config)
    del stored["task"]["parameterisation"], stored["schedule"]["kind"]
    assert from_json(stored) == config and config.task.parameterisation == EDM()
