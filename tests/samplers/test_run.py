"""Invariances of a run, and posteriors that are known exactly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.config.settings import OptimizerConfig
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.networks import AmortizedNetworkConfig, UNetConfig
from lavps_jax.operators import from_matrix, nonlinear_operator
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    DING,
    DPS,
    LAVPS,
    MGDM,
    MGPS,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    Inner,
    PiGDM,
    REDDiff,
    sample,
)
from lavps_jax.samplers.starts import Amortized
from lavps_jax.samplers.stepwise import Given, compile_steps

SHAPE = (4, 1, 1)
SAMPLERS = {
    "ddim": DDIM(num_steps=12),
    "dps": DPS(num_steps=12, step_size=0.2),
    "mgdm": MGDM(inner_low_noise=Inner(2), num_steps=12, high_idx=4),
    "mgdm_gibbs_ddim": MGDM(
        inner_low_noise=Inner(2),
        low_idx=2,
        high_idx=4,
        num_steps=12,
        num_gibbs=2,
        num_ddim_steps=4,
    ),
    "pigdm": PiGDM(num_steps=12),
    "ddnm": DDNM(num_steps=12, travel_length=3, num_travels=2),
    "ddrm": DDRM(num_steps=12),
    "diffpir": DiffPIR(num_steps=12),
    "reddiff": REDDiff(num_steps=12),
    "daps": DAPS(5, 2, 3, step_size=0.1),
    "ding": DING(num_steps=12),
    "fastdips": FastDIPS(num_steps=12),
    "guessandguide": GuessAndGuide(num_steps=12, num_guesses=2),
    "mgps": MGPS(11, 1, 2, 1, 3),
}


def problems(num: int):
    matrices = np.asarray(jax.random.normal(jax.random.key(3), (num, 2, 4)))
    operators = [from_matrix(matrix, SHAPE) for matrix in matrices]
    ys = jax.random.normal(jax.random.key(4), (num, 2))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)
    return jax.vmap(lambda operator, y: Problem(y, operator, 0.3))(stacked, ys)


def one_problem():
    return jax.tree.map(lambda leaf: leaf[0], problems(1))


def keys(*indices: int):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.array(indices))


def gaussian(mean: float = 0.0, std: float = 1.0, kind=GaussianMixture):
    return kind(jnp.full((1, *SHAPE), mean), jnp.zeros(1), jnp.float32(std))


class Counting(GaussianMixture):
    """A prior that counts its calls as the program runs."""

    calls: ClassVar[list[int]] = []

    def __call__(self, x_t, t, label=None):
        jax.debug.callback(lambda: self.calls.append(1))
        return super().__call__(x_t, t)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_result_does_not_depend_on_batch_order_or_particles_and_its_cost_is_counted(name):
    sampler, prior, stacked, rng_keys = SAMPLERS[name], gaussian(), problems(3), keys(5, 2, 9)
    all_x_0 = sample(rng_keys, sampler, prior, stacked, num_particles=3).x_0
    assert np.ptp(np.asarray(all_x_0)) > 0.1
    order = jnp.array([2, 0, 1])
    permuted = jax.tree.map(lambda leaf: leaf[order], (rng_keys, stacked))
    x_0 = sample(permuted[0], sampler, prior, permuted[1], num_particles=3).x_0
    np.testing.assert_allclose(x_0, all_x_0[order], rtol=0, atol=1e-5)
    one = jax.tree.map(lambda leaf: leaf[1], stacked)
    Counting.calls.clear()
    fewer = sample(rng_keys[1], sampler, gaussian(kind=Counting), one, num_particles=2)
    np.testing.assert_allclose(fewer.x_0, all_x_0[1, :2], rtol=0, atol=1e-5)
    jax.effects_barrier()
    # One call is of both particles.
    assert len(Counting.calls) == sampler.cost(Schedule()).network_calls


def test_ddim_samples_the_prior():
    # One Gaussian: with eta = 1 on the full grid DDIM is exact up to its time steps.
    sampler, prior = DDIM(num_steps=1000, eta=1.0), gaussian(0.7, 0.5)
    out = sample(keys(0)[0], sampler, prior, one_problem(), num_particles=2000)
    x_0 = np.asarray(out.x_0).reshape(2000, 4)
    np.testing.assert_allclose(x_0.mean(0), 0.7, atol=4 * 0.5 / np.sqrt(2000))
    np.testing.assert_allclose(x_0.std(0), 0.5, rtol=0.08)


def test_mgdm_is_near_the_posterior():
    """MGDM is approximate: this bounds its gap, and shows that the prior would not pass."""
    problem, sampler = one_problem(), MGDM(inner=Inner(5), num_steps=100)
    out = sample(jax.random.key(1), sampler, gaussian(), problem, num_particles=1000)
    assert bool(out.is_finite.all()) and out.is_finite.shape == (1000, 97)
    factor = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), problem.operator.matrix)
    matrix = factor.left * factor.values @ factor.right.T
    covariance = np.linalg.inv(np.eye(4) + matrix.T @ matrix / 0.09)
    mean = covariance @ matrix.T @ np.asarray(problem.y) / 0.09
    gap = np.asarray(out.x_0).reshape(1000, 4).mean(0) - mean
    # In the measured directions, in units of the prior's spread.
    measured = np.linalg.svd(matrix)[2][:2]
    assert np.abs(measured @ gap).max() < 0.15
    # The prior's mean, zero, misses that bound three times over.
    assert np.abs(measured @ mean).max() > 3 * 0.15


def test_learning_rate_in_units_of_the_block_prior():
    for unit in ("image", "prior_std"):
        inner = Inner(1, 0.2, learning_rate_unit=unit)
        sampler = MGDM(inner=inner, inner_low_noise=inner, num_steps=12, high_idx=5)
        each = [segment.rows.choices for segment in sampler.plan(Schedule())]
        rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)
        assert np.ptp(rows.prior.std) > 0.1
        s = rows.prior.std if unit == "prior_std" else 1.0
        np.testing.assert_allclose(rows.learning_rate, 0.2 * s * np.ones((9, 1)), rtol=1e-6)


def test_a_misspelt_choice_is_not_ignored():
    for make, field in (
        (lambda: Inner(learning_rate_unit="prior-std"), "learning_rate_unit"),  # type: ignore[arg-type]
        (lambda: MGDM(tau_rule="mid"), "tau_rule"),  # type: ignore[arg-type]
        (lambda: LAVPS(tau_rule="mid"), "tau_rule"),  # type: ignore[arg-type]
        (lambda: OptimizerConfig(schedule="cosin"), "schedule"),  # type: ignore[arg-type]
        (lambda: AmortizedNetworkConfig(UNetConfig(), mean_unit="prior-std"), "mean_unit"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=f"{field}: got .*; use one of '"):
            make()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sampler", lambda _: DPS, "sampler: got type; give one of"),
        ("prior", lambda _: {}, "prior: got dict; give a denoiser"),
        ("problem", lambda one: [one], "problem: got list; give a Problem"),
        (
            "problem",
            lambda _: problems(2),
            r"rng_key: got shape \(3,\); give one key, or 2 of them",
        ),
        ("problem", lambda _: one_problem(), r"rng_key: got shape \(3,\); give one key, for one"),
        ("problem", lambda one: one.replace(y=one.y[:2]), "problem: got leaves with .* on axis 0"),
        ("problem", lambda one: one.replace(y=one.y[None]), r"problem: got y of shape \(1, 3, 2\)"),
        ("rng_key", lambda _: 0, "rng_key: got int32 .*jax.random.key"),
        ("num_particles", lambda _: 0, "num_particles: got 0"),
        ("num_particles", lambda _: 1.5, "num_particles: got 1.5"),
    ],
)
def test_wrong_arguments_are_told_in_words(name, change, message):
    given = {
        "rng_key": keys(5, 2, 9),
        "sampler": SAMPLERS["ddim"],
        "prior": gaussian(),
        "problem": problems(3),
        "num_particles": 1,
    }
    with pytest.raises(UserError, match=f"^{message}"):
        sample(**given | {name: change(given[name])})


def test_impossible_problems_are_told_in_words():
    one = one_problem()
    with pytest.raises(UserError, match="y: got shape .*jax.vmap"):
        Problem(one.y[None], one.operator, 0.3)
    with pytest.raises(UserError, match="sigma: got nan"):
        Problem(one.y, one.operator, float("nan"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_schedule_is_the_denoisers(name):
    with pytest.raises(UserError, match="schedule.beta_max: got 0.03; lower it"):
        Schedule(beta_max=0.03)
    plans = [SAMPLERS[name].plan(schedule) for schedule in (Schedule(), Schedule(beta_max=0.01))]
    leaves = map(jax.tree.leaves, plans)
    assert not all(np.array_equal(one, other) for one, other in zip(*leaves, strict=True))


def test_a_start_for_another_schedule_is_refused():
    start = Amortized(None, lambda *_: None, Schedule(beta_max=0.01))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="amortized: got Schedule.*0.01.*; give one for the sched"):
        sample(keys(0)[0], LAVPS(start), gaussian(), one_problem())


@pytest.mark.parametrize("name", ["dps", "mgdm"])
def test_eight_devices_give_what_one_gives(name):
    sampler, prior, given = SAMPLERS[name], gaussian(), (keys(*range(8)), problems(8))
    alone = sample(given[0], sampler, prior, given[1], num_particles=2).x_0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rng_keys, stacked = jax.device_put(given, spread)
    together = sample(rng_keys, sampler, prior, stacked, num_particles=2).x_0
    assert len(together.sharding.device_set) == 8
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def squash(data, x):
    return jnp.tanh(data * x)


@pytest.mark.parametrize(
    "sampler",
    [
        DPS(num_steps=40, step_size=0.2),
        MGDM(inner=Inner(5, 0.1), inner_low_noise=Inner(5, 0.1), num_steps=40),
    ],
)
def test_operators_that_are_not_linear(sampler):
    operator = nonlinear_operator(squash, SHAPE, jnp.float32(2.0))
    y = jnp.tanh(2 * jnp.array([0.8, -0.5, 0.1, -1.2])).reshape(SHAPE)
    problem = Problem(y, operator, 0.2)
    x_0 = sample(keys(0)[0], sampler, gaussian(), problem, num_particles=200).x_0
    residual = np.mean((np.tanh(2 * np.asarray(x_0)) - np.asarray(y)) ** 2)
    assert residual < 0.3 * np.mean((np.tanh(2 * np.random.default_rng(0).standard_normal(
        (200, *SHAPE))) - np.asarray(y)) ** 2)  # fmt: skip


# One segment, several, and a memory of its own.
@pytest.mark.parametrize("name", ["dps", "mgdm_gibbs_ddim", "reddiff", "mgps"])
def test_pieces_make_the_same_numbers(name):
    sampler, prior = SAMPLERS[name], gaussian()
    given = Given(keys(5, 2, 9), sampler, prior, problems(3), sampler.plan(prior.schedule))
    whole = sample(*given[:-1], num_particles=2)
    with ThreadPoolExecutor() as pool:
        (programs,) = compile_steps(2, [given], pool)
    *pieces, last = programs.run(given, lambda: 1)
    num_steps = whole.is_finite.shape[-1]
    assert [piece.end for piece in pieces] == list(range(1, num_steps + 1))
    assert last.end == num_steps + 1
    for end, finite_steps in pieces:
        np.testing.assert_array_equal(finite_steps, np.full((3, 2), end))
    np.testing.assert_array_equal(last.result, whole.x_0)
    # Nothing that was given is used up, and the length of the pieces does not matter.
    *pieces, last = programs.run(given, iter([2, 1, *[3] * num_steps]).__next__)
    assert len(pieces) < num_steps
    np.testing.assert_array_equal(last.result, whole.x_0)


class Breaks(DPS):
    """DPS whose fourth step goes wrong for some particles, and which stays wrong."""

    def step(self, noise, state, prior, problem, segment, row):
        state = super().step(noise, state, prior, problem, segment, row)
        broken = (row.t == segment.rows.t[3]) & (noise.sum() > 0)
        return state._replace(x_t=jnp.where(broken, jnp.nan, state.x_t))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_pieces_tell_the_first_step_that_is_not_finite(size):
    sampler, prior = Breaks(num_steps=9), gaussian()
    given = Given(keys(5, 2, 9), sampler, prior, problems(3), sampler.plan(prior.schedule))
    broken = ~np.asarray(sample(*given[:-1], num_particles=4).is_finite).all(-1)
    assert 0 < broken.sum() < broken.size
    with ThreadPoolExecutor() as pool:
        (programs,) = compile_steps(4, [given], pool)
    first = next(turn for turn in programs.run(given, lambda: size) if turn.end > 3)
    np.testing.assert_array_equal(first.result, np.where(broken, 3, first.end))
