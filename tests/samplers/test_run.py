"""Invariances of a run, and posteriors that are known exactly."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.config.settings import InnerConfig, LAVPSConfig, OptimizerConfig
from lavps_jax.diffusion.denoisers import GaussianMixture, GaussianMixtureDenoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.networks import AmortizedNetworkConfig, UNetConfig
from lavps_jax.operators import from_matrix, nonlinear_operator
from lavps_jax.problems.likelihoods import make_problem
from lavps_jax.runs.restoring import check_finite
from lavps_jax.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    DING,
    DPS,
    MGDM,
    MGPS,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    Inner,
    PiGDM,
    REDDiff,
    make_sample_fn,
    sample,
)
from lavps_jax.samplers.stepwise import Given, Turn, compile_steps

SHAPE = (4, 1, 1)
DENOISER = GaussianMixtureDenoiser()
SAMPLERS = {
    "ddim": DDIM(DENOISER, num_steps=12),
    "dps": DPS(DENOISER, num_steps=12, step_size=0.2),
    "mgdm": MGDM(DENOISER, Inner(1), Inner(2), num_steps=12, high_idx=4),
    "mgdm_gibbs_ddim": MGDM(
        DENOISER, Inner(1), Inner(2), 2, 4, 12, num_gibbs=2, num_ddim_steps=4, tau_rule="midpoint"
    ),
    "pigdm": PiGDM(DENOISER, num_steps=12),
    "ddnm": DDNM(DENOISER, num_steps=12, travel_length=3, num_travels=2),
    "ddrm": DDRM(DENOISER, num_steps=12),
    "diffpir": DiffPIR(DENOISER, num_steps=12),
    "reddiff": REDDiff(DENOISER, num_steps=12),
    "daps": DAPS(DENOISER, 5, 2, 3, step_size=0.1),
    "ding": DING(DENOISER, num_steps=12),
    "fastdips": FastDIPS(DENOISER, num_steps=12),
    "guessandguide": GuessAndGuide(DENOISER, num_steps=12, num_guesses=2),
    "mgps": MGPS(DENOISER, 1, 2, 1, 3, num_steps=11),
}


def problems(num: int):
    matrices = np.asarray(jax.random.normal(jax.random.key(3), (num, 2, 4)))
    operators = [from_matrix(matrix, SHAPE) for matrix in matrices]
    ys = jax.random.normal(jax.random.key(4), (num, 2))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)
    return jax.vmap(lambda operator, y: make_problem(y, operator, 0.3))(stacked, ys)


def gaussian(mean: float = 0.0, std: float = 1.0):
    return {"theta": GaussianMixture(jnp.full((1, *SHAPE), mean), jnp.zeros(1), jnp.float32(std))}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_result_does_not_depend_on_batch_order_or_particles(name):
    sampler, params, key = SAMPLERS[name], gaussian(), jax.random.key(0)
    plan, stacked, index = sampler.plan(), problems(3), jnp.array([5, 2, 9])
    run = make_sample_fn(sampler, num_particles=3)
    all_x_0 = run(key, index, params, stacked, plan).x_0
    assert np.ptp(np.asarray(all_x_0)) > 0.1
    order = jnp.array([2, 0, 1])
    permuted = run(key, index[order], params, jax.tree.map(lambda a: a[order], stacked), plan)
    np.testing.assert_allclose(permuted.x_0, all_x_0[order], rtol=0, atol=1e-5)
    one = jax.tree.map(lambda a: a[1:2], stacked)
    fewer = make_sample_fn(sampler, num_particles=2)(key, index[1:2], params, one, plan)
    np.testing.assert_allclose(fewer.x_0[0], all_x_0[1, :2], rtol=0, atol=1e-5)


def test_ddim_samples_the_prior():
    # One Gaussian: with eta = 1 on the full grid DDIM is exact up to its time steps.
    sampler = DDIM(DENOISER, num_steps=1000, eta=1.0)
    run = make_sample_fn(sampler, num_particles=2000)
    out = run(jax.random.key(0), jnp.arange(1), gaussian(0.7, 0.5), problems(1), sampler.plan())
    x_0 = np.asarray(out.x_0[0]).reshape(2000, 4)
    np.testing.assert_allclose(x_0.mean(0), 0.7, atol=4 * 0.5 / np.sqrt(2000))
    np.testing.assert_allclose(x_0.std(0), 0.5, rtol=0.08)


def test_mgdm_is_near_the_posterior():
    """MGDM is approximate: this bounds its gap, and shows that the prior would not pass."""
    params, stacked = gaussian(), problems(1)
    sampler = MGDM(DENOISER, Inner(5), Inner(10), num_steps=100)
    out = make_sample_fn(sampler, num_particles=1000)(
        jax.random.key(1), jnp.arange(1), params, stacked, sampler.plan()
    )
    assert bool(out.is_finite.all()) and out.is_finite.shape == (1, 1000, 97)
    factor = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), stacked.operator.matrix)
    matrix = factor.left * factor.values @ factor.right.T
    covariance = np.linalg.inv(np.eye(4) + matrix.T @ matrix / 0.09)
    mean = covariance @ matrix.T @ np.asarray(stacked.y[0]) / 0.09
    gap = np.asarray(out.x_0[0]).reshape(1000, 4).mean(0) - mean
    # In the measured directions, in units of the prior's spread.
    measured = np.linalg.svd(matrix)[2][:2]
    assert np.abs(measured @ gap).max() < 0.15
    # The prior's mean, zero, misses that bound three times over.
    assert np.abs(measured @ mean).max() > 3 * 0.15


def test_learning_rate_in_units_of_the_block_prior():
    for unit in ("image", "prior_std"):
        inner = Inner(1, 0.2, learning_rate_unit=unit)
        sampler = MGDM(DENOISER, inner, inner, num_steps=12, high_idx=5)
        rows = jax.tree.map(
            lambda *leaves: np.concatenate(leaves), *(s.rows.rows for s in sampler.plan())
        )
        assert np.ptp(rows.prior.std) > 0.1
        s = rows.prior.std if unit == "prior_std" else 1.0
        np.testing.assert_allclose(rows.learning_rate, 0.2 * s * np.ones((9, 1)), rtol=1e-6)


def test_a_misspelt_choice_is_not_ignored():
    for make, field in (
        (lambda: Inner(learning_rate_unit="prior-std"), "learning_rate_unit"),  # type: ignore[arg-type]
        (lambda: MGDM(DENOISER, tau_rule="mid"), "tau_rule"),  # type: ignore[arg-type]
        (lambda: InnerConfig(learning_rate_unit="prior-std"), "learning_rate_unit"),  # type: ignore[arg-type]
        (lambda: LAVPSConfig(tau_rule="mid"), "tau_rule"),  # type: ignore[arg-type]
        (lambda: OptimizerConfig(schedule="cosin"), "schedule"),  # type: ignore[arg-type]
        (lambda: AmortizedNetworkConfig(UNetConfig(), mean_unit="prior-std"), "mean_unit"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=f"{field}: got .*; use one of '"):
            make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"problems": lambda one: jax.tree.map(lambda leaf: leaf[0], one)},
            "problems: got sigma_y",
        ),
        ({"problems": lambda one: [one]}, "problems: got list"),
        ({"rng_key": lambda key: 0}, "rng_key: got int32.*jax.random.key"),
        ({"rng_key": lambda key: jax.random.split(key, 2)}, "rng_key: got .*shape"),
        ({"params": lambda params: {}}, "params: got no weights theta"),
        ({"index": lambda index: index[0]}, "index: got int32 of shape"),
        ({"index": lambda index: index[:1]}, r"index: .*array of shape \(2,\)"),
        ({"index": lambda index: index.astype(float)}, "index: got float"),
        ({"plan": lambda plan: ()}, "plan: got 0 segments"),
        ({"plan": lambda plan: SAMPLERS["diffpir"].plan()}, "plan: .*give plan"),
    ],
)
def test_wrong_arguments_are_told_in_words(changes, message):
    sampler = SAMPLERS["ddim"]
    given = {
        "rng_key": jax.random.key(0),
        "index": jnp.arange(2),
        "params": gaussian(),
        "problems": problems(2),
        "plan": sampler.plan(),
    }
    given |= {name: change(given[name]) for name, change in changes.items()}
    with pytest.raises(UserError, match=message):
        make_sample_fn(sampler, num_particles=1)(*given.values())


def test_arguments_of_one_measurement_are_told_in_words():
    sampler, stacked = SAMPLERS["ddim"], problems(2)
    plan, one = sampler.plan(), jax.tree.map(lambda leaf: leaf[0], stacked)
    for key, problem, num, message in (
        (0, one, 1, "rng_key: got int32"),
        (jax.random.key(0), stacked, 1, "problem: got sigma_y of shape"),
        (jax.random.key(0), one.replace(y=one.y[None]), 1, r"y: got shape \(1, 2\)"),
        (jax.random.key(0), one, 0, "num_particles: got 0"),
        (jax.random.key(0), one, 1.5, "num_particles: got 1.5"),
    ):
        with pytest.raises(UserError, match=message):
            sample(key, sampler, gaussian(), problem, plan, num_particles=num)
    with pytest.raises(UserError, match="y: got shape .*jax.vmap"):
        make_problem(one.y[None], one.operator, 0.3)
    with pytest.raises(UserError, match="sigma_y: got nan"):
        make_problem(one.y, one.operator, float("nan"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_schedule_is_the_denoisers(name):
    sampler = type(SAMPLERS[name])
    with pytest.raises(UserError, match="schedule.beta_max: got 0.03; lower it"):
        Schedule(beta_max=0.03)
    other = Schedule(beta_max=0.01)
    denoiser = GaussianMixtureDenoiser(schedule=other)
    assert sampler(denoiser, schedule=other).plan()
    with pytest.raises(UserError, match="schedule: got .*; use that of the denoiser"):
        sampler(denoiser)


@pytest.mark.parametrize("name", SAMPLERS)
def test_cost_counts_the_denoiser_calls(name):
    calls = []

    class Counting(GaussianMixtureDenoiser):
        def __call__(self, theta, x_t, t):
            jax.debug.callback(lambda: calls.append(1))
            return super().__call__(theta, x_t, t)

    sampler = dataclasses.replace(SAMPLERS[name], denoise_fn=Counting())
    run = make_sample_fn(sampler, num_particles=1)
    jax.block_until_ready(
        run(jax.random.key(0), jnp.arange(1), gaussian(), problems(1), sampler.plan())
    )
    jax.effects_barrier()
    assert len(calls) == sampler.cost().network_calls


@pytest.mark.parametrize("name", ["dps", "mgdm"])
def test_eight_devices_give_what_one_gives(name):
    sampler, params, key = SAMPLERS[name], gaussian(), jax.random.key(0)
    plan, stacked, index = sampler.plan(), problems(8), jnp.arange(8)
    run = make_sample_fn(sampler, num_particles=2)
    alone = run(key, index, params, stacked, plan).x_0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    together = run(key, *jax.device_put((index,), spread), params,
                   jax.device_put(stacked, spread), plan).x_0  # fmt: skip
    assert len(together.sharding.device_set) == 8
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_new_numbers_do_not_compile_again():
    traces = []

    class Tracing(GaussianMixtureDenoiser):
        def __call__(self, theta, x_t, t):
            traces.append(1)
            return super().__call__(theta, x_t, t)

    sampler = dataclasses.replace(SAMPLERS["mgdm"], denoise_fn=Tracing())
    run = make_sample_fn(sampler, num_particles=1)
    run(jax.random.key(0), jnp.arange(2), gaussian(), problems(2), sampler.plan())
    count = len(traces)
    assert count > 0
    shifted = jax.tree.map(lambda a: a + 0.1, problems(2))
    run(jax.random.key(1), jnp.array([7, 3]), gaussian(0.3, 0.7), shifted, sampler.plan())
    assert len(traces) == count


def squash(data, x):
    return jnp.tanh(data * x)


@pytest.mark.parametrize(
    "sampler",
    [
        DPS(DENOISER, num_steps=40, step_size=0.2),
        MGDM(DENOISER, Inner(5, 0.1), Inner(5, 0.1), num_steps=40),
    ],
)
def test_operators_that_are_not_linear(sampler):
    operator = nonlinear_operator(squash, SHAPE, jnp.float32(2.0))
    y = jnp.tanh(2 * jnp.array([0.8, -0.5, 0.1, -1.2])).reshape(SHAPE)
    problem = make_problem(y, operator, 0.2)
    stacked = jax.tree.map(lambda a: a[None], problem)
    run = make_sample_fn(sampler, num_particles=200)
    x_0 = run(jax.random.key(0), jnp.arange(1), gaussian(), stacked, sampler.plan()).x_0[0]
    residual = np.mean((np.tanh(2 * np.asarray(x_0)) - np.asarray(y)) ** 2)
    assert residual < 0.3 * np.mean((np.tanh(2 * np.random.default_rng(0).standard_normal(
        (200, *SHAPE))) - np.asarray(y)) ** 2)  # fmt: skip


# One segment, several, and a memory of its own.
@pytest.mark.parametrize("name", ["dps", "mgdm_gibbs_ddim", "reddiff", "mgps"])
def test_pieces_make_the_same_numbers(name):
    sampler, params, key = SAMPLERS[name], gaussian(), jax.random.key(0)
    plan, stacked, index = sampler.plan(), problems(3), jnp.array([5, 2, 9])
    whole = make_sample_fn(sampler, num_particles=2)(key, index, params, stacked, plan)
    given = Given(key, index, params, stacked, plan)
    with ThreadPoolExecutor() as pool:
        (programs,) = compile_steps(sampler, 2, [given], pool)
    *turns, last = programs.run(given, lambda: 1)
    num_steps = whole.is_finite.shape[-1]
    assert [turn.end for turn in turns] == list(range(1, num_steps + 1))
    assert last.end == num_steps + 1
    for end, finite_steps in turns:
        np.testing.assert_array_equal(finite_steps, np.full((3, 2), end))
    np.testing.assert_array_equal(last.result, whole.x_0)
    # Nothing that was given is used up, and the length of the pieces does not matter.
    *turns, last = programs.run(given, iter([2, 1, *[3] * num_steps]).__next__)
    assert len(turns) < num_steps
    np.testing.assert_array_equal(last.result, whole.x_0)


@dataclass(frozen=True)
class Breaks(DPS):
    """DPS whose fourth step goes wrong for some particles, and which stays wrong."""

    def step(self, noise, state, params, problem, segment, row):
        state = super().step(noise, state, params, problem, segment, row)
        broken = (row.t == segment.rows.t[3]) & (noise.sum() > 0)
        return state._replace(x_t=jnp.where(broken, jnp.nan, state.x_t))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_pieces_tell_the_first_step_that_is_not_finite(size):
    sampler, params, key = Breaks(DENOISER, num_steps=9), gaussian(), jax.random.key(0)
    plan, stacked, index = sampler.plan(), problems(3), jnp.array([5, 2, 9])
    run = make_sample_fn(sampler, num_particles=4)
    broken = ~np.asarray(run(key, index, params, stacked, plan).is_finite).all(-1)
    assert 0 < broken.sum() < broken.size
    with ThreadPoolExecutor() as pool:
        (programs,) = compile_steps(sampler, 4, [Given(key, index, params, stacked, plan)], pool)
    turns = [
        Turn(end, np.asarray(result))
        for end, result in programs.run(Given(key, index, params, stacked, plan), lambda: size)
    ]
    first = next(turn for turn in turns if turn.end > 3)
    np.testing.assert_array_equal(first.result, np.where(broken, 3, first.end))
    image, particle = np.argwhere(broken)[0]
    with pytest.raises(UserError, match=f"dps, {'abc'[image]}, particle {particle}, step 3"):
        check_finite(turns, "dps", "abc")
    check_finite([Turn(8, np.full((3, 4), 8)), Turn(9, np.zeros((3, 4, *SHAPE)))], "dps", "abc")
    spoilt = np.zeros((3, 4, *SHAPE))
    spoilt[1, 2, 0] = np.inf
    with pytest.raises(UserError, match="dps, b, particle 2, step 8"):
        check_finite([Turn(8, np.full((3, 4), 8)), Turn(9, spoilt)], "dps", "abc")
