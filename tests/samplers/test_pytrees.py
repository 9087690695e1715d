"""Samplers, priors and problems are pytrees: what varies is traced, what decides is static."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.operators import CircularBlur, Identity, Inpainting, nonlinear_operator
from lavps_jax.problems.noise import Custom, Gaussian, PoissonGaussian
from lavps_jax.problems.problem import (
    Problem,
    homoscedastic,
    log_likelihood,
    residual_chi2,
    simulate,
)
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
    OneStep,
    PiGDM,
    REDDiff,
    Supervised,
    sample,
)
from lavps_jax.samplers.starts import Amortized

SHAPE = (4, 3, 1)
KEY = jax.random.key(0)
TRACES = []


class Counted(GaussianMixture):
    """A prior that counts how often it is traced."""

    def __call__(self, x_t, t, label=None):
        TRACES.append(1)
        return super().__call__(x_t, t)


def residual(weights, x_0, x_t, x_pinv, sigma_t, sigma_tau, **others):
    return weights * (x_pinv - x_0), jnp.full(x_0.shape, -0.1) * weights


def corrected(weights, z, x_pinv, c_noise, **others):
    return weights * x_pinv


MEANS = 0.5 * jax.random.normal(jax.random.key(1), (2, *SHAPE))
PRIOR = Counted(MEANS, jnp.log(jnp.array([0.4, 0.6])), jnp.float32(0.3))
X_0 = MEANS[0] + 0.1
START = Amortized(jnp.float32(0.2), residual)  # type: ignore[arg-type]
NETWORK = SupervisedDenoiser(jnp.float32(0.2), corrected)  # type: ignore[arg-type]
# Each with other numbers.
SAMPLERS = {
    "ddim": (DDIM(num_steps=6), {"eta": 0.3}),
    "dps": (DPS(num_steps=6, step_size=0.3), {"step_size": 0.2, "eta": 0.5}),
    "mgdm": (MGDM(num_steps=6), {"eta": 0.3, "inner": Inner(1, 0.2)}),
    "lavps": (LAVPS(START, num_steps=6), {"amortized": START.replace(weights=jnp.float32(0.4))}),
    "pigdm": (PiGDM(num_steps=6), {"eta": 0.5}),
    "ddnm": (DDNM(num_steps=6), {"eta": 0.5}),
    "ddrm": (DDRM(num_steps=6), {"eta": 0.5, "eta_b": 0.9}),
    "diffpir": (DiffPIR(num_steps=6), {"strength": 1.0, "zeta": 0.5}),
    "reddiff": (REDDiff(num_steps=6), {"strength": 0.1, "learning_rate": 0.05}),
    "daps": (DAPS(4, 2, 3), {"step_size": 0.5, "step_size_ratio": 0.5}),
    "ding": (DING(num_steps=6), {"eta": 0.5}),
    "fastdips": (FastDIPS(num_steps=6), {"penalty": 100.0, "radius": 0.1}),
    "guessandguide": (
        GuessAndGuide(num_steps=6, num_guesses=2, num_inner_steps=3),
        {"learning_rate": 0.05, "eta": 0.5},
    ),
    "mgps": (MGPS(num_steps=6, num_refined_steps=3), {"learning_rate": 0.05}),
    "supervised": (Supervised(NETWORK, num_steps=6), {"eta": 0.5}),
    "onestep": (OneStep(NETWORK), {"start_sigma": 2.0}),
}
POSTERIOR = [name for name in SAMPLERS if name not in ("ddim", "supervised", "onestep")]
LIKELIHOOD = ("mgdm", "lavps", "mgps", "daps", "guessandguide", "reddiff")
MASK = jnp.ones(SHAPE).at[1:3, 1].set(0.0)


def problem_of(seed: int = 2, sigma_y: float = 0.2) -> Problem:
    return simulate(jax.random.key(seed), X_0, Inpainting(MASK, x_shape=SHAPE), sigma_y)


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(jnp.broadcast_arrays(*leaves)), *trees)


@pytest.mark.parametrize("name", SAMPLERS)
def test_other_numbers_weights_and_measurements_run_the_same_program(name):
    sampler, changes = SAMPLERS[name]
    first = sample(KEY, sampler, PRIOR, problem_of(), num_particles=2).x_0
    count = len(TRACES)
    for given in (
        (KEY, sampler.replace(), PRIOR, problem_of()),
        (KEY, sampler.replace(**changes), PRIOR, problem_of()),
        (jax.random.key(3), sampler, PRIOR.replace(means=-MEANS), problem_of(3, 0.1)),
    ):
        last = sample(*given, num_particles=2).x_0
        assert len(TRACES) == count
    assert np.abs(last - first).max() > 1e-3
    changed = sample(KEY, sampler.replace(**changes), PRIOR, problem_of(), num_particles=2).x_0
    assert np.abs(changed - first).max() > 1e-4, "the number is not used"
    assert name in ("supervised", "onestep") or count > 0


def test_a_stack_runs_the_same_program_again():
    sampler, changes = SAMPLERS["dps"]
    sample(KEY, sampler, PRIOR, stack(problem_of(2), problem_of(3)))
    count = len(TRACES)
    other = stack(problem_of(4, 0.3), problem_of(5, 0.2))
    sample(jax.random.key(1), sampler.replace(**changes), PRIOR, other)
    assert len(TRACES) == count


@pytest.mark.parametrize(
    "samplers",
    [
        [DPS(num_steps=6, step_size=size) for size in (0.0, 0.2, 0.5)],
        [LAVPS(START, num_steps=6, inner=Inner(1, rate)) for rate in (0.1, 0.3, 0.6)],
        [
            LAVPS(START.replace(weights=jnp.float32(weight)), num_steps=6, best_of=False)
            for weight in (0.0, 0.3, 0.6)
        ],
        [DDIM(num_steps=6, eta=eta) for eta in (0.0, 0.4, 1.0)],
    ],
    ids=["dps", "lavps", "weights of lavps", "ddim"],
)
def test_several_settings_are_one_program(samplers):
    """`jax.vmap` over a stack of samplers is a run of each."""

    def run(sampler):
        return sample(KEY, sampler, PRIOR, problem_of(), num_particles=2).x_0

    alone = np.stack([run(sampler) for sampler in samplers])
    together = jax.vmap(run)(stack(*samplers))
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    assert min(np.abs(alone[0] - alone[1]).max(), np.abs(alone[1] - alone[2]).max()) > 1e-3


def test_the_derivative_in_a_step_size_is_that_of_finite_differences():
    with jax.enable_x64(True):
        prior, x_0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (PRIOR, X_0))
        problem = simulate(jax.random.key(2), x_0, Identity(x_shape=SHAPE), 0.1)

        @jax.jit
        def brightness(step_size):
            sampler = DPS(num_steps=6, step_size=step_size)
            return jnp.sum(sample(jax.random.key(0), sampler, prior, problem).x_0 ** 2)

        found = jax.jit(jax.grad(brightness))(0.3)
        expected = (brightness(0.3 + 1e-5) - brightness(0.3 - 1e-5)) / 2e-5
    assert found.dtype == np.float64 and abs(float(expected)) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["dps", "lavps"])
def test_a_run_without_compilation_is_the_same(name):
    sampler = SAMPLERS[name][0].replace(num_steps=4)
    compiled = sample(KEY, sampler, PRIOR, problem_of()).x_0
    with jax.disable_jit():
        plain = sample(KEY, sampler, PRIOR, problem_of()).x_0
    np.testing.assert_allclose(plain, compiled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dps", "lavps", "daps"])
def test_a_stack_is_one_run_of_each_with_folded_keys(name):
    sampler, each = SAMPLERS[name][0], [problem_of(2), problem_of(3, 0.2), problem_of(4, 0.3)]
    together = sample(KEY, sampler, PRIOR, stack(*each), num_particles=2)
    for b, problem in enumerate(each):
        key = jax.random.fold_in(KEY, b)
        alone = sample(key, sampler, PRIOR, problem, num_particles=2)
        np.testing.assert_allclose(together.x_0[b], alone.x_0, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(together.is_finite[b], alone.is_finite)


def brighter(data, x):
    return x + 0.2 * x**2


CURVED = nonlinear_operator(brighter, SHAPE)
BLUR = CircularBlur(jnp.array([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]]), x_shape=SHAPE)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        *((name, Inpainting(MASK, x_shape=SHAPE)) for name in POSTERIOR),
        ("ddrm", Identity(x_shape=SHAPE)),
        ("pigdm", BLUR),
        ("lavps", BLUR),
        ("dps", CURVED),
        ("daps", CURVED),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_a_constant_noise_map_is_the_number(name, operator):
    problem = simulate(jax.random.key(2), X_0, operator, 0.2)
    even = Problem(problem.y, operator, jnp.full(problem.y.shape, 0.2))
    number, with_map = (
        sample(KEY, SAMPLERS[name][0], PRIOR, p, num_particles=2).x_0 for p in (problem, even)
    )
    np.testing.assert_allclose(with_map, number, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", POSTERIOR)
def test_where_a_noise_map_is_infinite_nothing_is_measured(name):
    elsewhere = jnp.ones(SHAPE).at[0, 0].set(0.0)
    both = Inpainting(MASK * elsewhere, x_shape=SHAPE)
    problem = simulate(jax.random.key(2), X_0, both, 0.2)
    hidden = jnp.where(MASK > 0, problem.y, 7.0)
    noise = Gaussian(jnp.where(MASK > 0, 0.2, jnp.inf))
    masked, with_map = (
        sample(KEY, SAMPLERS[name][0], PRIOR, p, num_particles=2).x_0
        for p in (problem, Problem(hidden, Inpainting(elsewhere, x_shape=SHAPE), noise))
    )
    np.testing.assert_allclose(with_map, masked, rtol=0, atol=1e-4)


@pytest.mark.parametrize("operator", [Identity(x_shape=SHAPE), BLUR, CURVED])
def test_weights_of_measurements_keep_the_likelihood_of_a_noise_map(operator):
    sigma = jax.random.uniform(jax.random.key(5), SHAPE, minval=0.1, maxval=0.9)
    problem = simulate(jax.random.key(2), X_0, operator, sigma.at[0, 0].set(jnp.inf))
    even, x = homoscedastic(problem), MEANS[1]
    assert jnp.ndim(even.noise.sigma) == 0
    square = ((problem.y - operator.forward(x)) / problem.noise.sigma) ** 2
    for one in (problem, even):
        np.testing.assert_allclose(log_likelihood(one, x), -square.sum() / 2, rtol=1e-5)
        np.testing.assert_allclose(residual_chi2(one, x), square.sum(), rtol=1e-5)
    seen = np.asarray(sigma)[np.asarray(sigma.at[0, 0].set(jnp.inf)) < 1]
    np.testing.assert_allclose(even.sigma_y, np.mean(seen**-2.0) ** -0.5, rtol=1e-5)


@pytest.mark.parametrize(
    "sigma",
    [
        jnp.full((3, 4, 1), 0.1),
        jnp.full(SHAPE[:2], 0.1),
        jnp.full((2, *SHAPE), 0.1),
        jnp.full(SHAPE, 0.1).at[0, 0].set(0.0),
        jnp.full(SHAPE, 0.1).at[0, 0].set(-0.1),
        jnp.full(SHAPE, 0.1).at[0, 0].set(jnp.nan),
        jnp.full(SHAPE, jnp.inf),
    ],
)
def test_noise_maps_that_cannot_be_are_refused(sigma):
    operator = Identity(x_shape=SHAPE)
    for make in (
        lambda: Problem(X_0, operator, sigma),
        lambda: simulate(KEY, X_0, operator, Gaussian(sigma)),
    ):
        with pytest.raises(UserError, match="^sigma: got .*; give [^\n]*$"):
            make()


PHOTONS = PoissonGaussian(gain=0.02, sigma=0.05)


def test_counted_and_read_out_photons_have_the_moments_of_their_likelihood():
    x = jnp.linspace(-0.9, 0.9, 12).reshape(SHAPE)
    ys = jax.vmap(lambda key: PHOTONS.draw(key, x))(jax.random.split(KEY, 20_000))
    variance = 0.02 * (np.asarray(x) + 1) + 0.05**2
    np.testing.assert_allclose(PHOTONS.variance(x), variance, rtol=1e-5)
    assert (np.abs(ys.mean(0) - x) < 5 * np.sqrt(variance / 20_000)).all()
    np.testing.assert_allclose(ys.var(0), variance, rtol=0.06)
    # The score of the law that made them is zero in the mean, that of another one is not.
    scores = jax.vmap(jax.grad(PHOTONS.log_prob, 1), (0, None))
    for prediction, is_right in ((x, True), (x + 0.05, False)):
        found = np.asarray(scores(ys, prediction))
        errors = found.mean(0) / (found.std(0) / np.sqrt(20_000))
        assert (np.abs(errors) < 5).all() if is_right else (np.abs(errors) > 10).all()
    chi2 = jax.vmap(lambda y: PHOTONS.residual_chi2(y, x, jnp.ones(SHAPE)))(ys)
    np.testing.assert_allclose(chi2.mean(), 12, rtol=0.02)


@pytest.mark.parametrize("name", LIKELIHOOD)
def test_samplers_that_take_likelihoods_meet_counted_and_read_out_photons(name):
    many = {"num_langevin_steps": 60} if name == "daps" else {"num_steps": 40}
    problem = simulate(jax.random.key(2), X_0, Identity(x_shape=SHAPE), PHOTONS)
    x_0 = sample(KEY, SAMPLERS[name][0].replace(**many), PRIOR, problem, num_particles=8).x_0
    free = sample(KEY, DDIM(num_steps=40), PRIOR, problem, num_particles=8).x_0
    found, expected = (
        np.median(jax.vmap(lambda x: residual_chi2(problem, x))(one)) for one in (x_0, free)
    )
    assert found < 0.4 * expected


def grey(data, y, prediction):
    return -jnp.sum(jnp.abs(y - prediction))


@pytest.mark.parametrize(
    ("sampler", "problem", "others"),
    [
        (DDRM(), simulate(KEY, X_0, CURVED, 0.1), [MGDM(), LAVPS(START), DPS()]),
        (PiGDM(), simulate(KEY, X_0, CURVED, 0.1), [MGDM(), LAVPS(START), DPS()]),
        (
            DDNM(),
            simulate(KEY, X_0, BLUR, jnp.full(SHAPE, 0.1)),
            [PiGDM(), MGDM(), LAVPS(START)],
        ),
        (DPS(), Problem(X_0, Identity(x_shape=SHAPE), Custom(grey, 0.1)), [MGDM(), LAVPS(START)]),
    ],
)
def test_a_sampler_that_does_not_fit_names_those_that_do(sampler, problem, others):
    names = [type(other).__name__ for other in others]
    words = f"use {', '.join(names[:-1])} or {names[-1]}: {type(sampler).__name__} "
    with pytest.raises(UserError, match=words):
        sample(KEY, sampler, PRIOR, problem)
    for other in others:
        other.check(homoscedastic(problem))
