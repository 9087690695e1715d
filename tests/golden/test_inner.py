"""Negative ELBO, its gradients, inner fits and training losses against the published numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from golden_files import Golden, cases
from golden_runs import in_float64, noise_of_hidden_entries

from lavps_jax.diffusion.bridges import add_noise, bridge_coefficients
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.io.published import published_name
from lavps_jax.operators import families
from lavps_jax.problems.problem import log_likelihood
from lavps_jax.samplers.starts import ZeroShot
from lavps_jax.samplers.variational import Block, block_loss, draw, fit
from lavps_jax.training.amortized import AmortizedLoss

SCHEDULE = Schedule()
ELBO = Golden("elbo")
CASES = cases("elbo", "(.+)_mc")


TASKS = [case for case in cases("elbo", "(.+)_y") if not case.startswith("train_")]


def task_of(case):
    """The task that a case of the negative ELBO is of: sr4 of sr40."""
    (task,) = (task for task in TASKS if case.startswith(task))
    return task


def make_blocks(x_0, x_t, t, tau):
    """One block per image; times are integers (B,)."""
    c = bridge_coefficients(SCHEDULE.alpha_bar, 0, np.asarray(tau), np.asarray(t), 1.0)
    c_l, c_s, std = (jnp.asarray(v, jnp.float32) for v in c)
    wide = (slice(None), None, None, None)
    return Block(x_0, x_t, c_l[wide] * x_t + c_s[wide] * x_0, std, jnp.asarray(t), jnp.asarray(tau))


@pytest.fixture(scope="module")
def elbo(prior):
    """(mu, rho, eps, problems, blocks) -> (losses (B,), gradients of their sum), compiled once."""
    return _elbo(prior)


def _elbo(prior):
    def losses(mu, rho, eps, problem, block):
        each = jax.vmap(lambda *one: block_loss(*one[:3], prior, *one[3:]))
        value = each(mu, rho, eps, problem, block)
        return value.sum(), value

    evaluate = jax.jit(jax.grad(losses, argnums=(0, 1), has_aux=True))
    return lambda *inputs: evaluate(*inputs)[::-1]


@pytest.fixture(scope="module")
def losses_in_float64(prior):
    """A function of problems, blocks, mu, rho and eps: negative ELBOs (B,)."""

    def loss(prior, problem, block, *images):
        return block_loss(*images, prior, problem, block)

    return in_float64(loss, prior)


@pytest.mark.parametrize("case", [case for case in CASES if ELBO[f"{case}_mc"] == 1])
def test_negative_elbo_and_gradients(prior, elbo, losses_in_float64, case):
    stored = ELBO
    problems = stored.problems(f"{task_of(case)}_y", "img")
    times = (np.full(len(problems.y), stored[f"{case}_{key}"]) for key in ("t", "tau"))
    blocks = make_blocks(stored.image(f"{case}_x_0"), stored.image(f"{case}_x_t"), *times)
    mu, rho, eps = (stored.image(f"{case}_{key}") for key in ("vmean", "vlog_std", "eps"))
    losses, (by_mu, by_rho) = elbo(mu, rho, eps, problems, blocks)
    stored.close(f"{case}_std_prior", blocks.prior_std[0])
    stored.close(f"{case}_grad_vmean", by_mu)
    stored.close(f"{case}_grad_vlog_std", by_rho)
    exact = losses_in_float64(problems, blocks, mu, rho, eps)
    np.testing.assert_allclose(losses, exact, rtol=1e-6)
    hidden = noise_of_hidden_entries(problems)
    stored.close(f"{case}_loss", (exact + hidden).sum())

    def potential(prior, problem, x_tau, tau):
        return log_likelihood(problem, prior(x_tau, tau))

    found = in_float64(potential, prior)(problems, draw(eps, mu, rho), blocks.tau)
    stored.close(f"{case}_logpot", found - hidden)


@pytest.mark.parametrize("case", [case for case in CASES if ELBO[f"{case}_mc"] == 2])
def test_negative_elbo_of_two_draws(elbo, case):
    """The mean over the draws; the sum of rho is counted once, which the mean does too."""
    stored = ELBO
    problems = stored.problems(f"{task_of(case)}_y", "img")
    problem = jax.tree.map(lambda leaf: leaf[:1].repeat(2, 0), problems)
    times = (np.full(2, stored[f"{case}_t"]), np.full(2, stored[f"{case}_tau"]))
    images = (stored.image(f"{case}_{key}") for key in ("x_0", "x_t", "vmean", "vlog_std"))
    x_0, x_t, mu, rho = (image[:1].repeat(2, 0) for image in images)
    block = make_blocks(x_0, x_t, *times)
    losses, gradients = elbo(mu, rho, stored.image(f"{case}_eps"), problem, block)
    stored.close(f"{case}_loss", losses.mean())
    stored.close(f"{case}_grad_vmean", gradients[0].mean(0))
    stored.close(f"{case}_grad_vlog_std", gradients[1].mean(0))


@pytest.fixture(scope="module")
def inner_fit(golden, prior):
    """(start, eps (K, ...), problem, block) -> losses and the variables after every step."""
    rate, seen = golden("inner_adam").settings["lr"], []

    @jax.jit
    def run(mu, rho, eps, problem, block):
        def loss_fn(mu, rho, eps):
            jax.debug.callback(lambda *variables: seen.append(variables), mu, rho, ordered=True)
            return block_loss(mu, rho, eps, prior, problem, block)

        return fit(mu, rho, eps, loss_fn, optax.adam(rate))

    def traced(start, eps, problem, block):
        seen.clear()
        mu, rho, losses = run(*start, eps, problem, block)
        jax.effects_barrier()
        rows = [*seen[1:], (mu, rho)]
        return losses, *(np.stack(column) for column in zip(*rows, strict=True))

    return traced


@pytest.mark.parametrize("case", cases("inner_adam", "(.+)_x_tau"))
def test_inner_fit(golden, losses_in_float64, inner_fit, palette, case):
    stored, (_, network) = golden("inner_adam"), palette
    problems = stored.problems(f"{case}_y", f"{case}_img")
    times = (np.full(len(problems.y), stored[f"{case}_{key}"]) for key in ("t", "tau"))
    blocks = make_blocks(stored.image(f"{case}_x_0"), stored.image(f"{case}_x_t"), *times)
    num_steps = stored.settings["n_steps"]
    noise = [stored.image(f"{case}_noise_{i:02d}") for i in range(num_steps + 1)]

    def start_with(start):
        def each(problem, block):
            return start(problem, start.prepare(problem), block, None, None)

        return jax.jit(jax.vmap(each))(problems, blocks)

    starts = [start_with(network), start_with(ZeroShot())]
    start = starts[case == "zeroshot"]
    if case.startswith("bestof"):
        # Each start has a draw of its own; the winner keeps it for its first step.
        draws = [noise[0][i : i + 1] for i in range(2)]
        losses = np.array([losses_in_float64(problems, blocks, *one, eps)[0]
                           for one, eps in zip(starts, draws, strict=True)])  # fmt: skip
        stored.close(f"{case}_bestof_losses", losses)
        best = int(np.argmin(losses))
        assert best == stored[f"{case}_best_idx"] == int(case[-1])
        start, noise[0] = starts[best], noise[0][best : best + 1]
    eps = jnp.stack(noise[:num_steps], axis=1)
    inputs = [*zip(*start, strict=True)], eps, problems, blocks
    results = []
    for i in range(len(eps)):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], inputs[2:])
        results.append(inner_fit(inputs[0][i], eps[i], *one))
    losses, mu, rho = (np.stack(column) for column in zip(*results, strict=True))
    # The loss before each step, where the fit was then.
    count, shape = eps.shape[1], eps.shape[2:]
    before = [
        np.concatenate([np.asarray(first)[:, None], column[:, :-1]], axis=1).reshape(-1, *shape)
        for first, column in zip(start, (mu, rho), strict=True)
    ]
    each = jax.tree.map(lambda leaf: leaf.repeat(count, 0), (problems, blocks))
    exact = losses_in_float64(*each, *before, eps.reshape(-1, *shape))
    exact = exact.reshape(losses.shape)
    np.testing.assert_allclose(losses, exact, rtol=1e-5)
    stored.close(f"{case}_losses", exact.sum(0))
    stored.close(f"{case}_vmean", np.moveaxis(mu, 1, 0))
    stored.close(f"{case}_vlog_std", np.moveaxis(rho, 1, 0))
    stored.close(f"{case}_x_tau", draw(noise[num_steps], mu[:, -1], rho[:, -1]))


def training_loss(start) -> AmortizedLoss:
    nsteps, low, high = (ELBO.settings[key] for key in ("nsteps", "train_low", "train_high"))
    family = families.RandomBox()
    return AmortizedLoss(start, family, ELBO.sigma_y, nsteps, low, high, "previous")


@pytest.mark.parametrize("task", cases("elbo", "train_(.+)_loss"))
def test_training_blocks(prior, elbo, losses_in_float64, palette, task):
    stored, prefix = ELBO, f"train_{task}"
    problems = stored.problems(f"{task}_y", "img")
    clean = jax.vmap(lambda p, x: p.operator.forward(x))(problems, stored.image("img"))
    noise = stored.measurement(f"{prefix}_y_noise", clean.shape[1:])
    y = clean + stored.sigma_y * noise
    np.testing.assert_allclose(y, stored.measurement(f"{prefix}_y", y.shape[1:]), atol=1e-6)
    loss_fn = training_loss(palette[1].replace(weights=None))
    rows = [loss_fn.row(jnp.asarray(i)) for i in stored[f"{prefix}_idx"]]
    t, tau = np.stack([row.t for row in rows]), np.stack([row.tau for row in rows])
    np.testing.assert_array_equal(t, stored[f"{prefix}_t"])
    np.testing.assert_array_equal(tau, stored[f"{prefix}_tau"])
    x_t = jax.vmap(lambda eps, x, t: add_noise(eps, x, t, SCHEDULE))(
        stored.image(f"{prefix}_xt_noise"), stored.image("img"), jnp.asarray(t)
    )
    np.testing.assert_allclose(x_t, stored.image(f"{prefix}_x_t"), atol=1e-6)
    x_0_hat = jax.jit(jax.vmap(lambda *one: prior(*one)))(x_t, jnp.asarray(t))
    stored.close(f"{prefix}_x0_hat", x_0_hat)
    problems = problems.replace(y=y)
    blocks = make_blocks(x_0_hat, x_t, t, tau)
    images = [stored.image(f"{prefix}_{key}") for key in ("vmean", "vlog_std", "eps")]
    losses, (by_mu, by_rho) = elbo(*images, problems, blocks)
    stored.close(f"{prefix}_grad_vmean", by_mu / len(y))
    stored.close(f"{prefix}_grad_vlog_std", by_rho / len(y))
    exact = losses_in_float64(problems, blocks, *images)
    np.testing.assert_allclose(losses, exact, rtol=1e-6)
    stored.close(f"{prefix}_loss", (exact + noise_of_hidden_entries(problems)).mean())


def test_training_loss_and_gradients(amortized, prior):
    stored, start = amortized
    (task,) = cases(stored.name, "train_(.+)_loss")
    loss_fn = training_loss(start.replace(weights=None))
    problems = stored.problems(f"{task}_y", "img")
    blocks = make_blocks(stored.image("x_0"), stored.image("x_t"), stored["t"], stored["tau"])
    eps = stored.image(f"train_{task}_eps")

    def evaluate(networks, problem, block, eps):
        def loss(weights):
            prepared = loss_fn.start.prepare(problem)
            return loss_fn.on_block(weights, networks[0], problem, prepared, block, eps, None)[0]

        return jax.value_and_grad(loss)(networks[1])

    evaluate_exactly = in_float64(evaluate, (prior, start.weights))
    losses, gradients = evaluate_exactly(problems, blocks, eps)
    gradient = jax.tree.map(lambda leaf: leaf.mean(0), gradients)
    stored.close(f"train_{task}_loss", (losses + noise_of_hidden_entries(problems)).mean())
    found = {}
    for path, variable in nnx.to_flat_state(gradient):
        value = np.asarray(variable[...])
        found[published_name(path, "residual_nn.")] = value.T if path[-1] == "kernel" else value
    norms = [np.linalg.norm(found[str(name)]) for name in stored[f"train_{task}_grad_names"]]
    stored.close(f"train_{task}_grad_norms", np.array(norms))
    np.testing.assert_allclose(norms, stored[f"train_{task}_grad_norms"], rtol=1e-4)
    full = [key for key in stored.arrays if key.startswith(f"train_{task}_grad/")]
    assert full
    for key in full:
        expected = stored[key]
        value = found[key.removeprefix(f"train_{task}_grad/")]
        assert value.shape == expected.shape
        stored.close(key, value.ravel(), ...) if value.ndim < 3 else stored.close(key, value)


def test_negative_elbo_under_a_class_prior(golden):
    stored = golden("hdit_tiny_class")
    model, weights = stored.network(stored.backbone, "unet.")
    problem = stored.problems("kl_y", "kl_img")
    problem = problem.replace(label=jnp.asarray(stored["kl_labels"]))
    times = (np.atleast_1d(stored[f"kl_{key}"]) for key in ("t", "tau"))
    block = make_blocks(stored.image("kl_x_0"), stored.image("kl_x_t"), *times)
    problem, block = jax.tree.map(lambda leaf: leaf.repeat(2, 0), (problem, block))
    mu, rho = stored.image("kl_vmean")[:, 0], stored.image("kl_vlog_std")[:, 0]
    elbo = _elbo(NetworkDenoiser(weights, model))
    losses, (by_mu, by_rho) = elbo(mu, rho, stored.image("kl_eps"), problem, block)
    stored.close("kl_loss", losses)
    stored.close("kl_grad_vmean", by_mu)
    stored.close("kl_grad_vlog_std", by_rho)
