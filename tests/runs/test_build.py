"""From the settings of a run to the sampler that draws, and to the loss that trains."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from lavps_jax.config import cli
from lavps_jax.config.samplers import AnySampler
from lavps_jax.config.settings import (
    AmortizedTask,
    PriorTask,
    SampleConfig,
    SupervisedTask,
    TrainConfig,
    from_json,
    load_preset,
    to_json,
)
from lavps_jax.data import SyntheticData
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    HDiTConfig,
    LevelConfig,
    LocalUNetConfig,
    PureModel,
    SupervisedNetworkConfig,
)
from lavps_jax.networks.tiled import Tiles
from lavps_jax.operators import families
from lavps_jax.runs import build
from lavps_jax.runs.build import build_sampler
from lavps_jax.runs.build_training import build_trainee
from lavps_jax.runs.loading import amortized_start
from lavps_jax.samplers import DAPS, DDNM, LAVPS, MGDM, Inner, OneStep, Sampler, Supervised
from lavps_jax.samplers.starts import BestOf, SupervisedStart

SHAPE = (32, 32, 1)
PRIOR = "pretrained/fashion_mnist/prior"
MOTION_BLUR = "pretrained/fashion_mnist/motion_blur"
PALETTE = "benchmarks/weights/palette"
GENERATOR = "benchmarks/weights/one_step"
TRAINED_ON: Any = {"operator": families.MotionBlur(size=9, intensity=0.9), "sigma_y": 0.05}
KINDS = get_args(AnySampler)
ALONE = [kind for kind in KINDS if kind not in (LAVPS, Supervised, OneStep)]
"""Samplers that need the prior alone."""


def built(sampler: Sampler, **known: Any) -> Any:
    return build_sampler(sampler, Schedule(), SHAPE, **known)


def changed(value: Any) -> Any:
    """Another value of the same kind, which is in range wherever the first is."""
    if isinstance(value, Inner):
        return Inner(value.num_inner_steps + 1, 0.07, "image")
    if isinstance(value, int):
        return value + 1 if value < 5 else value - 1
    return 0.75 * value


def numbers_of(kind: type[Sampler]) -> dict[str, Any]:
    """The settings of a sampler that are numbers, or inner problems."""
    fields = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, int | float | Inner) and not isinstance(value, bool)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_settings_survive_json_and_reach_the_sampler(kind):
    settings = kind(**{name: changed(value) for name, value in numbers_of(kind).items()})
    assert settings != kind() and from_json(to_json(settings)) == settings
    if kind in ALONE:
        for one in (kind(), settings):
            assert built(one) == one and one.cost(Schedule()).network_calls > 0


@pytest.mark.parametrize("kind", ALONE)
def test_what_is_out_of_range_is_refused_before_anything_runs(kind):
    for field, value in numbers_of(kind).items():
        if isinstance(value, Inner):
            continue
        with pytest.raises(UserError, match=field):
            built(kind(**{field: -1}))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "num_steps" in numbers_of(kind)])
def test_more_steps_than_times_are_refused_before_anything_runs(kind):
    if kind is DAPS:  # Its noise levels lie between those of times.
        assert built(DAPS(2000)) == DAPS(2000)
        return
    paths = {LAVPS: {"amortized": MOTION_BLUR, "best_of": True}, Supervised: {"denoiser": PALETTE}}
    with pytest.raises(UserError, match="^num_steps: got 2000; use"):
        built(kind(num_steps=2000, **paths.get(kind, {})))


def test_the_inner_problem_that_is_wrong_is_named():
    for kind in (MGDM, LAVPS):
        for field in ("inner", "inner_low_noise"):
            with pytest.raises(UserError, match=f"^{field}.learning_rate: got nan"):
                kind(**{field: Inner(1, learning_rate=float("nan"))})
    flags = ["configs/fashion_mnist.py", "--sampler.inner.num-inner-steps", "-1"]
    with pytest.raises(UserError, match=r"^inner.num_inner_steps: got -1; use at least 0"):
        cli.parse(flags, SampleConfig)


class OwnSampler(DDNM):
    """A sampler that a preset brings along."""


def test_a_sampler_of_ones_own_passes_through():
    assert built(OwnSampler(9)) == OwnSampler(9) != OwnSampler(8)
    with pytest.raises(UserError, match="sampler: got Schedule; give one of .*or a subclass"):
        built(Schedule())  # type: ignore[arg-type]


def test_mgdm_has_one_set_of_defaults():
    """In LAVPS, and in the presets of the shipped networks."""
    shared = {f.name: getattr(MGDM(), f.name) for f in dataclasses.fields(MGDM)}
    assert LAVPS() == LAVPS(**(shared | {"inner_low_noise": Inner()}))
    preset: Any = load_preset("configs/fashion_mnist.py")
    assert preset.compare_with[0] == MGDM()
    assert preset.sampler == LAVPS(amortized=MOTION_BLUR)


def inner_steps(num_steps: int, **settings: Any) -> list[int]:
    """Of the blocks, noisiest first."""
    inner, low_noise = Inner(1), Inner(7)
    sampler = MGDM(inner=inner, inner_low_noise=low_noise, num_steps=num_steps, **settings)
    return [
        (low_noise if segment.settings else inner).num_inner_steps
        for segment in sampler.plan(Schedule())
        for _ in range(len(segment.rows.count))
    ]


@pytest.mark.parametrize("num_steps", [4, 5, 20, 100, 300])
def test_the_low_noise_end_is_half_of_any_grid(num_steps):
    found = inner_steps(num_steps)
    assert found == inner_steps(num_steps, high_idx=num_steps // 2)
    assert len(found) == num_steps - 3 and found[-1] == 7
    assert found.count(7) == min(num_steps // 2 - 1, num_steps - 3)


# ---- LAVPS and its network ----


@pytest.mark.parametrize(
    "known,settings,compares",
    [
        (TRAINED_ON, {}, False),
        (TRAINED_ON | {"sigma_y": 0.1}, {}, True),
        (TRAINED_ON | {"operator": families.MotionBlur(size=13, intensity=0.9)}, {}, True),
        (TRAINED_ON, {"num_steps": 50}, True),
        (TRAINED_ON, {"grid_power": 2.0}, True),
        ({"sigma_y": 0.05}, {}, True),
        ({}, {}, True),
        ({}, {"best_of": False}, False),
        (TRAINED_ON, {"best_of": True}, True),
    ],
)
def test_starts_are_compared_unless_the_network_was_trained_on_all_of_it(known, settings, compares):
    sampler = built(LAVPS(MOTION_BLUR, **settings), **known)
    assert sampler.best_of is compares
    assert isinstance(sampler.start(low_noise=True), BestOf) is compares


def test_a_network_was_trained_on_what_lies_in_its_ranges(monkeypatch):
    mixed = families.Mixture((families.MotionBlur(9, (0.3, 1.0)), families.RandomPixels(0.1, 0.5)))
    prior = "pretrained/fashion_mnist/prior"
    network = AmortizedNetworkConfig(LocalUNetConfig(in_channels=1, out_channels=1))
    task = AmortizedTask(network, prior, mixed, sigma_y=(0.01, 0.2))
    monkeypatch.setattr(build, "stored_config", lambda path: SimpleNamespace(task=task))
    inside, outside = families.MotionBlur(9, 0.5), families.MotionBlur(9, 0.2)
    assert build.is_trained_on("any", inside, 0.05) and build.is_trained_on("any", mixed, 0.2)
    for other in ((outside, 0.05), (inside, 0.3), (inside, None), (None, 0.1)):
        assert not build.is_trained_on("any", *other)


def test_a_supervised_denoiser_is_a_start_on_any_grid():
    sampler = built(LAVPS(PALETTE, num_steps=50), **TRAINED_ON)
    assert isinstance(sampler.amortized, SupervisedStart) and sampler.best_of is False
    assert sampler.low_noise(Schedule()) == range(1, 25)


def test_another_grid_uses_the_blocks_whose_times_were_trained():
    trained = time_grid(100)[1:50]
    for num_steps in (25, 60, 250):
        sampler = built(LAVPS(MOTION_BLUR, num_steps=num_steps), **TRAINED_ON)
        inside = [
            i
            for i, time in enumerate(time_grid(num_steps))
            if trained[0] <= time <= trained[-1] and i >= 1
        ]
        assert list(sampler.low_noise(Schedule())) == inside and len(inside) > 10
    own = built(LAVPS(MOTION_BLUR, num_steps=25, high_idx=6), **TRAINED_ON)
    assert own.low_noise(Schedule()) == range(1, 6)
    roots = built(LAVPS(MOTION_BLUR, grid_power=2.0), **TRAINED_ON).low_noise(Schedule())
    times = time_grid(100, power=2.0)
    assert trained[0] <= times[roots.start] and times[roots.start - 1] < trained[0]
    assert times[roots.stop - 1] <= trained[-1] < times[roots.stop]
    with pytest.raises(UserError, match="^grid_power: got 2.0; use 1.0, .*best_of=True"):
        built(LAVPS(MOTION_BLUR, grid_power=2.0, best_of=False), **TRAINED_ON)
    with pytest.raises(UserError, match="^num_steps: got 50; use 100, .*best_of=True"):
        built(LAVPS(MOTION_BLUR, num_steps=50, best_of=False), **TRAINED_ON)


def test_lavps_uses_its_network_where_it_was_trained():
    task = AmortizedTask(AmortizedNetworkConfig(BACKBONE), "prior", families.RandomPixels())

    def blocks(task: AmortizedTask, **settings: Any) -> range:
        start = amortized_start(lambda *_: None, task, Schedule())
        sampler = LAVPS(start, best_of=False, **settings)
        sampler.plan(Schedule())
        return sampler.low_noise(Schedule())

    assert blocks(task) == range(1, task.high_idx) == range(1, 50)
    narrow = dataclasses.replace(task, high_idx=30)
    assert blocks(narrow) == range(1, 30) and blocks(narrow, high_idx=15) == range(1, 15)
    with pytest.raises(UserError, match=r"high_idx: got \(1, 31\); stay in \(1, 30\)"):
        blocks(narrow, high_idx=31)
    with pytest.raises(UserError, match=r"high_idx: got \(40, 40\); stay in \(1, 30\)"):
        blocks(narrow, low_idx=40)  # Steps 39 to 30 would run twice.
    with pytest.raises(UserError, match='tau_rule: got previous; use "midpoint", with which'):
        blocks(narrow, tau_rule="previous")


def test_presets_of_published_networks_keep_the_published_settings():
    for data in ("ffhq256", "imagenet256"):
        preset: Any = load_preset(f"configs/{data}.py")
        for one in (preset.sampler, preset.compare_with[0]):
            assert (one.tau_rule, one.high_idx) == ("previous", 30)
            for inner in (one.inner, one.inner_low_noise):
                assert (inner.learning_rate, inner.learning_rate_unit) == (0.03, "image")
        for kind in ("amortized", "invfussion"):
            config = load_preset(f"configs/{data}_{kind}.py")
            start = amortized_start(lambda *_: None, config.task, config.schedule)
            sampler = preset.sampler.replace(amortized=start, best_of=False)
            assert sampler.plan(config.schedule)
            assert sampler.low_noise(config.schedule) == range(1, 30)


@pytest.mark.parametrize(
    "sampler,words",
    [
        (LAVPS(), "sampler.amortized: got nothing; give the folder of an exported amortized net"),
        (Supervised(), "sampler.denoiser: got nothing; give the folder of an exported supervised"),
        (OneStep(), "sampler.generator: got nothing; give the folder of an exported generator"),
        (LAVPS(PRIOR), "sampler.amortized: got .*; give an amortized"),
        (Supervised(MOTION_BLUR), "sampler.denoiser: got .*; give a supervised denoiser"),
        (OneStep(PALETTE), "sampler.generator: got .*; give a generator"),
    ],
)
def test_a_network_that_is_missing_or_of_another_task_is_named(sampler, words):
    with pytest.raises(UserError, match=f"^{words}"):
        built(sampler)


def test_a_network_of_another_schedule_is_refused():
    other = Schedule(beta_max=0.015)
    with pytest.raises(UserError, match="^amortized: got .*; give one for the schedule of the pri"):
        build_sampler(LAVPS(MOTION_BLUR), other, SHAPE, **TRAINED_ON)
    with pytest.raises(UserError, match="^amortized: got .*; give one for the schedule of the pri"):
        build_sampler(LAVPS(PALETTE), other, SHAPE, **TRAINED_ON)


@pytest.mark.parametrize("sampler", [LAVPS(MOTION_BLUR), Supervised(PALETTE), OneStep(GENERATOR)])
def test_images_of_another_shape_are_refused(sampler):
    with pytest.raises(UserError, match="^channels of the images: got 3"):
        build_sampler(sampler, Schedule(), (32, 32, 3))


def test_a_generator_has_its_noise_level_and_takes_no_tiles():
    sampler = built(OneStep(GENERATOR, start_sigma=7.0))
    assert isinstance(sampler.generator, SupervisedDenoiser) and sampler.start_sigma == 2.5
    with pytest.raises(UserError, match="^tile: got 32; leave it out"):
        built(OneStep(GENERATOR), tiles=Tiles(32, 8))


# ---- Losses ----

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
        (AmortizedTask(AmortizedNetworkConfig(BACKBONE), PRIOR, families.RandomPixels()), 2),
        (
            AmortizedTask(
                AmortizedNetworkConfig(BACKBONE), PRIOR, families.RandomPixels(), states="chain"
            ),
            2,
        ),
    ],
)
def test_how_networks_compute_is_said_to_all_of_them(task, count):
    data = SyntheticData()
    config = TrainConfig(task, data, data, "run", compute_dtype="bfloat16", remat="layers")
    trainee = build_trainee(config, SHAPE)
    found = [*networks_in(trainee.loss_fn), *networks_in(trainee.frozen)]
    assert len(found) == count
    assert {(one.compute_dtype, one.remat) for one in found} == {("bfloat16", "layers")}
