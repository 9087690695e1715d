"""LAVPS on mixtures: its networks, and the perfect supervised denoiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import lavps_mixture
from benchmarks.mixtures.problems import as_problem, draw_case, posterior, posterior_mixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.samplers import LAVPS


@pytest.mark.slow
def test_a_network_learns_what_one_gradient_step_misses(monkeypatch):
    monkeypatch.setattr(lavps_mixture, "NUM_TRAIN_STEPS", 300)
    zero_shot, known, elsewhere = names = (
        "MGDM K=1, lr 0.1", "LAVPS K=0", "LAVPS K=1, trained elsewhere"
    )  # fmt: skip
    config = lavps_mixture.Config(num_samples=400, methods=names)
    found = lavps_mixture.TrainedProblems(config, 8, 2).measure(0)
    distances = {name: row["distance"] for name, row in found.items()}
    assert distances[known] < 0.2 * distances[zero_shot]
    assert distances[known] < distances["floor"] + 0.3
    # What was learned is what makes the difference, not the network.
    assert distances[elsewhere] > 3 * distances[known]


def test_a_start_is_the_zero_shot_one_until_it_is_trained_and_never_much_wider(perturb):
    config = lavps_mixture.Config(methods=("LAVPS K=0",))
    untrained = lavps_mixture.TrainedProblems(config, 8, 2).untrained
    images = jax.random.normal(jax.random.key(0), (4, 1, 1, 8))

    def found(weights, guidance):
        sigma = jnp.float32(2.0)
        return untrained.model(weights, *images[:3], sigma, 0.9 * sigma, guidance)

    for change in found(untrained.weights, images[3]):
        np.testing.assert_allclose(change, 0, atol=1e-6)
    wild = perturb(untrained.weights)
    (near, _), (far, narrow) = (found(wild, images[3] * size) for size in (1e3, 1e6))
    assert np.abs(far).max() > 100 * np.abs(near).max()  # The shift grows with the guidance.
    assert narrow.max() <= np.log(2) + 1e-6 and narrow.min() < -1


def test_every_row_is_given_the_weights_that_its_name_says(monkeypatch):
    case = draw_case(np.random.default_rng(3), 8, 2)
    target = posterior(case)

    def learned(rng_key, start, prior, problem, num_steps):
        assert np.allclose(prior.log_weights, case.log_weights)  # The prior is always right.
        return start.replace(weights=np.allclose(problem.sigma_y, case.sigma_y))

    monkeypatch.setattr(lavps_mixture, "train", learned)
    found = lavps_mixture.TrainedProblems(lavps_mixture.Config(), 8, 2).samplers(0, case, target)
    lavps = {name: one.amortized for name, one in found.items() if isinstance(one, LAVPS)}
    phi = {name: getattr(start, "weights", None) for name, start in lavps.items()}
    assert {name for name, one in phi.items() if one is True} == {
        "LAVPS K=0", "LAVPS K=1", "LAVPS K=3"
    }  # fmt: skip
    assert {name for name, one in phi.items() if one is False} == {
        "LAVPS K=1, trained elsewhere", "LAVPS K=1, trained elsewhere, better of two starts"
    }  # fmt: skip
    assert found.keys() - lavps.keys() >= {"MGDM K=1, lr 0.1"}
    _, basis = lavps["conditional start, K=0"].denoiser.weights
    np.testing.assert_allclose(basis, target.basis, atol=1e-6)
    # What no row needs is not trained.
    monkeypatch.setattr(lavps_mixture, "train", None)
    few = lavps_mixture.Config(methods=("conditional start, K=1",))
    assert [*lavps_mixture.TrainedProblems(few, 8, 2).samplers(0, case, target)] == [*few.methods]


def test_the_perfect_denoiser_is_the_mean_given_state_and_measurement():
    rng = np.random.default_rng(3)
    case = draw_case(rng, 6, 2)
    target = posterior(case)
    weights = posterior_mixture(target), jnp.asarray(target.basis, jnp.float32)
    t = 250
    a2 = Schedule().alpha_bar[t]
    x_t = np.sqrt(a2) * case.means[7] + np.sqrt(1 - a2) * rng.standard_normal(6)
    denoiser = lavps_mixture.PerfectDenoiser(weights)
    image = jnp.asarray(x_t, jnp.float32)[None, None]
    predict = jax.jit(lavps_mixture.PerfectDenoiser.__call__)
    found = predict(denoiser, image, as_problem(case), (), jnp.asarray(t))[0, 0]
    # x_0 of every component of the prior given y and x_t at once: products of Gaussians.
    precision = np.eye(6) + case.a.T @ case.a / case.sigma_y**2 + a2 / (1 - a2) * np.eye(6)
    pull = case.a.T @ case.y / case.sigma_y**2 + np.sqrt(a2) / (1 - a2) * x_t
    means = np.linalg.solve(precision, (case.means + pull).T).T
    seen = np.vstack([case.a / case.sigma_y, np.sqrt(a2 / (1 - a2)) * np.eye(6)])
    data = np.concatenate([case.y / case.sigma_y, x_t / np.sqrt(1 - a2)])
    residual = data - case.means @ seen.T
    evidence = np.linalg.solve(np.eye(8) + seen @ seen.T, residual.T).T
    log_weights = case.log_weights - np.sum(residual * evidence, axis=1) / 2
    shares = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    np.testing.assert_allclose(found, shares @ means, rtol=1e-4, atol=1e-4)
