"""LAVPS against posteriors that are known exactly, with networks trained for the problem.

The problems, rows and scores of `gaussian_mixture`. For every problem a small network learns the
starts of MGDM's inner fits, for its prior and its matrix, on measurements drawn from them; a second
one learns those of another matrix and noise, and is then used where it does not belong. Both are
trained with the published loss, on blocks of the forward process. "conditional start" begins the
fits at what a perfect supervised denoiser predicts.

Problems that the file of results holds already are not run again; delete it to start anew.

Command: python -m benchmarks.lavps_mixture
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from rich.console import Console

from benchmarks import gaussian_mixture
from benchmarks.gaussian_mixture import DENOISER, EXACT, Problems
from benchmarks.mixture_problems import Case, Posterior, as_problem, draw_case, mixture
from benchmarks.mixture_report import write_mixture_report
from lavps_jax import cli
from lavps_jax.amortized_training import AmortizedLoss
from lavps_jax.diffusion import GaussianMixture, GaussianMixtureDenoiser
from lavps_jax.networks import split
from lavps_jax.samplers import MGDM, Inner, Sampler
from lavps_jax.schedules import Schedule
from lavps_jax.starts import Amortized, BestOf, Conditional, Start, ZeroShot
from lavps_jax.types import Params, PRNGKey, Problem, Weights

NUM_TRAIN_STEPS = 1500
BATCH_SIZE = 128
PEAK_LR = 2e-3
WIDTH, DEPTH = 256, 3
"""Of the networks."""
SPREAD = (8.0**2 * 2 + 1) ** 0.5
"""Standard deviation of a coordinate of the prior, if its components had equal weights."""
ELSEWHERE = "network of another matrix"
"""In the names of rows."""
TITLE = "LAVPS against posteriors that are known exactly"
ABOUT = """\
Mixtures of 25 Gaussians in d dimensions, measured linearly in d_y, with exact scores: the \
problems of known_posteriors.md. Columns are d, d_y; entries are means over {counts} random \
problems of {samples} samples each ± their 95 % interval. K is the number of gradient steps in \
every fit, lr their learning rate. The networks of LAVPS are perceptrons, trained for every \
problem anew on measurements of its prior by its matrix, or, where a row says so, by another one: \
benchmarks/lavps_mixture.py. "conditional start" begins at what a perfect supervised denoiser \
predicts, "exact posterior denoiser" is DDIM with it, and "floor" compares two sets of exact \
samples."""


@dataclass(frozen=True)
class Config(gaussian_mixture.Config):
    """Which problems to measure."""

    dims: tuple[tuple[int, int], ...] = tuple((d, d_y) for d in (8, 80) for d_y in (1, 2, 4))
    """Pairs (d, d_y)."""
    out: str = "docs/results/known_posteriors_lavps.json"


class StartNetwork(nnx.Module):
    """(d_mu / prior_std, d_rho) from all that an amortized start may see, as one vector.

    Args:
      d: numbers of an image (1, 1, d).
    """

    def __init__(self, d: int, *, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.first = nnx.Linear(4 * d + 2, WIDTH, rngs=rngs)
        self.blocks = nnx.List(
            nnx.Sequential(
                nnx.LayerNorm(WIDTH, rngs=rngs),
                nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs),
                nnx.silu,
                nnx.Linear(2 * WIDTH, WIDTH, kernel_init=zeros, rngs=rngs),
            )
            for _ in range(DEPTH)
        )
        self.last = nnx.Linear(WIDTH, 2 * d, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        x_0: Float[Array, "1 1 D"],
        z: Float[Array, "1 1 D"],
        x_pinv: Float[Array, "1 1 D"],
        sigma_t: Float[Array, ""],
        sigma_tau: Float[Array, ""],
        guidance: Float[Array, "1 1 D"],
        **_: Any,  # Nothing else that a start may see is there.
    ) -> tuple[Float[Array, "1 1 D"], Float[Array, "1 1 D"]]:
        images = (x_0 / SPREAD, z / jnp.hypot(sigma_t, SPREAD), x_pinv / SPREAD, guidance)
        noise = jnp.log(jnp.stack([sigma_t, sigma_tau])) / 2
        h = self.first(jnp.concatenate([*map(jnp.ravel, images), noise]))
        for block in self.blocks:
            h = h + block(h)
        d_mu, d_rho = jnp.split(self.last(h), 2)
        return d_mu.reshape(x_0.shape), d_rho.reshape(x_0.shape)


class Known(NamedTuple):
    """A family of one operator."""

    operator: Any

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Any:
        return self.operator


@partial(jax.jit, static_argnames="start")
def train(
    rng_key: PRNGKey, weights: Weights, theta: GaussianMixture, problem: Problem, start: Amortized
) -> Weights:
    """Weights of a start that knows the prior, the operator and sigma_y of a problem, not its y.

    Every block counts with the inverse of what the block prior loses on it: otherwise the noisiest
    decide alone, whose squared residuals are the largest.
    """
    operator: Any = Known(problem.operator)
    sigma_y: Any = problem.sigma_y  # Any number, though a configuration has a float.
    loss = AmortizedLoss(
        DENOISER,
        start,
        operator,
        sigma_y,
        num_steps=MGDM(DENOISER).num_steps,
        low_idx=1,
        high_idx=MGDM(DENOISER).num_steps - 2,
    )
    d = theta.means.shape[-1]

    def of_one(weights: Weights, rng_key: PRNGKey) -> Array:
        key_component, key_x_0, key = jax.random.split(rng_key, 3)
        component = jax.random.categorical(key_component, theta.log_weights)
        x_0 = theta.means[component] + theta.std * jax.random.normal(key_x_0, (1, 1, d))
        found, metrics = loss(weights, key, theta, x_0, train=True)
        return found / (d + jnp.abs(metrics["block_loss_at_prior"]))

    def of_batch(weights: Weights, rng_key: PRNGKey) -> Array:
        return jax.vmap(of_one, (None, 0))(weights, jax.random.split(rng_key, BATCH_SIZE)).mean()

    schedule = optax.cosine_decay_schedule(PEAK_LR, NUM_TRAIN_STEPS)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def step(carry: tuple[Weights, Any], rng_key: PRNGKey) -> tuple[tuple[Weights, Any], None]:
        weights, state = carry
        update, state = optimizer.update(jax.grad(of_batch)(weights, rng_key), state, weights)
        return (optax.apply_updates(weights, update), state), None

    keys = jax.random.split(rng_key, NUM_TRAIN_STEPS)
    return jax.lax.scan(step, (weights, optimizer.init(weights)), keys)[0][0]


@dataclass(frozen=True)
class PerfectDenoiser:
    """E[x_0 | x_t, y] itself; its weights are the posterior in its basis, and the basis (d, d)."""

    schedule: Schedule = Schedule()

    def __call__(
        self, weights: tuple[GaussianMixture, Array], x_t: Array, problem: Problem, t: Array
    ) -> Array:
        posterior, basis = weights
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        x_0 = GaussianMixtureDenoiser(self.schedule)(posterior, product(x_t, basis), t)
        return product(x_0, basis.T)


def methods(start: Start) -> Mapping[str, Sampler]:
    """All rows, for an amortized start."""
    zero_shot = ZeroShot()

    def mgdm(num_inner_steps: int, learning_rate: float, start: Start = zero_shot) -> MGDM:
        inner = Inner(num_inner_steps, learning_rate, start)
        return MGDM(DENOISER, inner, inner)

    perfect: Any = PerfectDenoiser()
    exact = "exact posterior denoiser, 100 steps"
    other = f"LAVPS K=1, lr 0.1, {ELSEWHERE}"
    return {
        exact: EXACT[exact],
        "MGDM K=1, lr 0.1": mgdm(1, 0.1),
        "MGDM K=5, lr 0.1": mgdm(5, 0.1),
        "LAVPS K=0": mgdm(0, 0.1, start),
        "LAVPS K=1, lr 0.1": mgdm(1, 0.1, start),
        "LAVPS K=3, lr 0.1": mgdm(3, 0.1, start),
        "conditional start, K=1, lr 0.1": mgdm(1, 0.1, Conditional(perfect)),
        other: mgdm(1, 0.1, start),
        f"{other}, better of two starts": mgdm(1, 0.1, BestOf(start, zero_shot)),
    }


class TrainedProblems(Problems):
    """The methods compiled for problems of one size, with networks for each of them."""

    def __init__(self, config: gaussian_mixture.Config, d: int, d_y: int):
        model, self.untrained = split(StartNetwork(d, rngs=nnx.Rngs(config.seed)))
        self.start = Amortized(model, mean_unit="prior_std", guidance=True)
        super().__init__(config, d, d_y, methods(self.start))

    def params(self, number: int, case: Case, target: Posterior) -> Mapping[str, Params]:
        rng = np.random.default_rng([self.config.seed, self.d, self.d_y, number, 1])
        other = draw_case(rng, self.d, self.d_y)
        theta = mixture(case.means, case.log_weights, np.ones(()))
        keys = jax.random.split(jax.random.key(rng.integers(2**32)))
        known, elsewhere = (
            train(key, self.untrained, theta, as_problem(one), self.start)
            for key, one in zip(keys, (case, other), strict=True)
        )
        exact = mixture(target.means, target.log_weights, target.std[None, None])
        posterior = exact, jnp.asarray(target.basis, jnp.float32)

        def phi(name: str) -> Any:
            if name.startswith("conditional start"):
                return posterior
            return elsewhere if ELSEWHERE in name else known

        params = super().params(number, case, target)
        return {name: {**given, "phi": phi(name)} for name, given in params.items()}


NAMES = tuple(methods(ZeroShot()))


def main(config: Config) -> None:
    gaussian_mixture.measure_all(config, NAMES, TrainedProblems)
    write_report(Path(config.out))
    Console().print(f"report: {Path(config.out).with_suffix('.html')}", soft_wrap=True)


def write_report(found: Path) -> None:
    """As `write_mixture_report`."""
    write_mixture_report(found, TITLE, ABOUT)


if __name__ == "__main__":
    prog = "python -m benchmarks.lavps_mixture"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
