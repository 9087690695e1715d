"""Every setting of a sampler's configuration reaches the sampler, and its defaults are the same."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest

from lavps_jax.config.samplers import ZeroShotConfig
from lavps_jax.config.settings import (
    AmortizedTask,
    InnerConfig,
    LAVPSConfig,
    MGDMConfig,
    PriorTask,
    SupervisedTask,
    TrainConfig,
    from_json,
    load_preset,
    to_json,
)
from lavps_jax.data import FolderData, ShippedData, SyntheticData, TfdsData
from lavps_jax.diffusion.denoisers import EDMDenoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    PureModel,
    SupervisedNetworkConfig,
)
from lavps_jax.operators import families
from lavps_jax.operators.families.base import Family
from lavps_jax.runs.build import build_mgdm, check_image_shape, check_tile, on_trained_blocks
from lavps_jax.runs.build_training import build_loss
from lavps_jax.runs.build_zero_shot import build_zero_shot, inner_problem
from lavps_jax.samplers import DDNM, MGDM, Inner
from lavps_jax.samplers.starts import ZeroShot

PRIOR = EDMDenoiser(None, Schedule(beta_max=0.015))  # type: ignore[arg-type]


def changed(value: Any) -> Any:
    """Another value of the same kind, which is in range wherever the first is."""
    if isinstance(value, InnerConfig):
        return InnerConfig(value.num_inner_steps + 1, 0.07, "image")
    if isinstance(value, int):
        return value + 1 if value < 5 else value - 1
    return 0.75 * value


def test_remedies_name_the_settings_that_the_source_has():
    network = HDiTConfig(3, 3, 2, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)
    for source, shape, settings in (
        ({"data": FolderData("x")}, (4, 4, 1), r" \(data.channels\)$"),
        ({"train_data": SyntheticData(1)}, (4, 4, 1), r" \(train_data.image_shape\)$"),
        ({"data": TfdsData()}, (4, 4, 1), "expects 3$"),
        ({}, (4, 4, 1), "expects 3$"),
        ({"data": FolderData("x")}, (5, 4, 3), r" \(data.size\)$"),
        ({"data": TfdsData()}, (5, 4, 3), r" \(data.size, data.pad_to\)$"),
        ({"data": ShippedData()}, (5, 4, 3), r" \(data.pad_to\)$"),
    ):
        with pytest.raises(UserError, match=settings):
            check_image_shape(network, shape, **source)


def test_a_tile_that_does_not_fit_is_not_blamed_on_the_overlap():
    with pytest.raises(UserError, match="tile: got 7; give a multiple of 4 that is at least 8"):
        check_tile(7, 4, 8)


def test_the_inner_problem_that_is_wrong_is_named():
    wrong = InnerConfig(1, learning_rate=float("nan"))
    for field in ("inner", "inner_low_noise"):
        with pytest.raises(UserError, match=f"^sampler.{field}.learning_rate: got nan"):
            MGDMConfig(**{field: wrong})


@dataclasses.dataclass(frozen=True)
class OwnSampler:
    """A sampler's configuration that a preset brings along."""

    num_steps: int = 7

    def build(self, prior):
        return DDNM(prior, self.num_steps, schedule=prior.schedule)


def test_a_configuration_of_ones_own_builds_its_sampler():
    assert build_zero_shot(OwnSampler(9), PRIOR) == DDNM(PRIOR, 9, schedule=PRIOR.schedule)
    with pytest.raises(UserError, match="sampler: got Schedule; use one of .*or give its class"):
        build_zero_shot(Schedule(), PRIOR)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", get_args(ZeroShotConfig))
def test_settings_reach_the_sampler(kind):
    default = kind()
    values = {f.name: changed(getattr(default, f.name)) for f in dataclasses.fields(kind)}
    config = kind(**values)
    assert from_json(to_json(config)) == config
    for one in (default, config):
        sampler: Any = build_zero_shot(one, PRIOR)
        assert sampler.denoise_fn is PRIOR and sampler.schedule == PRIOR.schedule
        for name in values:
            value = getattr(one, name)
            if isinstance(value, InnerConfig):
                value = inner_problem(value, ZeroShot())
            assert getattr(sampler, name) == value, name
            if one is default:  # The defaults are written down twice.
                assert getattr(type(sampler)(PRIOR, schedule=PRIOR.schedule), name) == value, name
        assert sampler.cost().network_calls > 0


def test_mgdm_has_one_set_of_defaults():
    """In Python, on the command line, and in the presets of the shipped networks."""
    assert build_mgdm(MGDMConfig(), PRIOR, ZeroShot()) == MGDM(PRIOR, schedule=PRIOR.schedule)
    shared: Any = {f.name: getattr(MGDMConfig(), f.name) for f in dataclasses.fields(MGDMConfig)}
    assert LAVPSConfig() == LAVPSConfig(**(shared | {"inner_low_noise": InnerConfig()}))
    preset: Any = load_preset("configs/fashion_mnist.py")
    assert preset.compare_with[0] == MGDMConfig()
    assert preset.sampler == LAVPSConfig(amortized="pretrained/fashion_mnist/motion_blur")


def inner_steps(num_steps: int, **settings: Any) -> list[int]:
    """Of the blocks, noisiest first."""
    settings |= {"num_steps": num_steps, "schedule": PRIOR.schedule}
    plan = MGDM(PRIOR, Inner(1), Inner(7), **settings).plan()
    return [
        segment.settings.num_inner_steps for segment in plan for _ in range(len(segment.rows.count))
    ]


@pytest.mark.parametrize("num_steps", [4, 5, 20, 100, 300])
def test_the_low_noise_end_is_half_of_any_grid(num_steps):
    found = inner_steps(num_steps)
    assert found == inner_steps(num_steps, high_idx=num_steps // 2)
    assert len(found) == num_steps - 3 and found[-1] == 7
    assert found.count(7) == min(num_steps // 2 - 1, num_steps - 3)


def test_lavps_uses_its_network_where_it_was_trained():
    task = AmortizedTask(AmortizedNetworkConfig(BACKBONE), "prior", families.RandomPixels())
    assert on_trained_blocks(LAVPSConfig(), task).high_idx == task.high_idx == 50
    narrow = dataclasses.replace(task, high_idx=30)
    assert on_trained_blocks(LAVPSConfig(), narrow).high_idx == 30
    assert on_trained_blocks(LAVPSConfig(high_idx=15), narrow).high_idx == 15
    with pytest.raises(UserError, match=r"high_idx: got \(1, 31\); stay in \(1, 30\)"):
        on_trained_blocks(LAVPSConfig(high_idx=31), narrow)


def test_presets_of_published_networks_keep_the_published_settings():
    for data in ("ffhq256", "imagenet256"):
        preset: Any = load_preset(f"configs/{data}.py")
        for one in (preset.sampler, preset.compare_with[0]):
            assert (one.tau_rule, one.high_idx) == ("previous", 30)
            for inner in (one.inner, one.inner_low_noise):
                assert (inner.learning_rate, inner.learning_rate_unit) == (0.03, "image")
        for kind in ("amortized", "invfussion"):
            task = load_preset(f"configs/{data}_{kind}.py").task
            assert on_trained_blocks(preset.sampler, task) == preset.sampler


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


@pytest.mark.parametrize("kind", get_args(ZeroShotConfig))
def test_what_is_out_of_range_is_refused_before_anything_runs(kind):
    for field in dataclasses.fields(kind):
        value = getattr(kind(), field.name)
        if isinstance(value, InnerConfig):
            continue
        with pytest.raises(UserError, match=field.name):
            build_zero_shot(kind(**{field.name: -1}), PRIOR).plan()


BACKBONE = HDiTConfig(levels=(LevelConfig(64, 1),))


def networks_in(value: Any) -> list[PureModel]:
    if isinstance(value, PureModel):
        return [value]
    if not dataclasses.is_dataclass(value):
        return []
    fields = (getattr(value, field.name) for field in dataclasses.fields(value))
    return [model for field in fields for model in networks_in(field)]


@pytest.mark.parametrize(
    "task,count",
    [
        (PriorTask(BACKBONE), 1),
        (SupervisedTask(SupervisedNetworkConfig(BACKBONE), families.RandomPixels()), 1),
        (AmortizedTask(AmortizedNetworkConfig(BACKBONE), "prior", families.RandomPixels()), 2),
        (
            AmortizedTask(
                AmortizedNetworkConfig(BACKBONE), "prior", families.RandomPixels(), states="chain"
            ),
            2,
        ),
    ],
)
def test_how_networks_compute_is_said_to_all_of_them(task, count):
    data = SyntheticData()
    config = TrainConfig(task, data, data, "run", compute_dtype="bfloat16", remat="layers")
    model: Any = PureModel(None)  # type: ignore[arg-type]
    found = networks_in(build_loss(config, model, EDMDenoiser(model)))
    assert len(found) == count
    assert {(one.compute_dtype, one.remat) for one in found} == {("bfloat16", "layers")}
