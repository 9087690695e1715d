"""LAVPS against posteriors that are known exactly, with networks trained for the problem.

The problems and scores of `gaussian_mixture`. For every problem a small network learns the starts
of all of MGDM's fits, for its prior, matrix and noise, on measurements drawn from them; a second
one learns those of another matrix and noise, and is then used where it does not belong.

Problems that the file of results holds already are not run again; delete it to start anew.

Command: python -m benchmarks.lavps_mixture
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from benchmarks.gaussian_mixture import METHODS, Problems
from benchmarks.mixtures import tables
from benchmarks.mixtures.problems import (
    Case,
    Posterior,
    UnitMixture,
    as_problem,
    draw_case,
    posterior_mixture,
    prior_mixture,
)
from lavps_jax.config import cli
from lavps_jax.diffusion.bridges import add_noise
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.networks import split
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import static
from lavps_jax.samplers import LAVPS, MGDM, Inner, Sampler
from lavps_jax.samplers.mgdm_rows import make_block
from lavps_jax.samplers.starts import Amortized, SupervisedStart, block_prior
from lavps_jax.samplers.variational import block_loss
from lavps_jax.training.amortized import AmortizedLoss
from lavps_jax.types import PRNGKey, Weights

NUM_TRAIN_STEPS = 1500
BATCH_SIZE = 128
PEAK_LR = 2e-3
WIDTH, DEPTH = 256, 3
"""Of the networks."""
SPREAD = (8.0**2 * 2 + 1) ** 0.5
"""Standard deviation of a coordinate of the prior, if its components had equal weights."""
TITLE = "LAVPS against posteriors that are known exactly"
ABOUT = f"""\
Mixtures of 25 Gaussians in d dimensions, measured linearly in d_y, with exact scores: the \
problems of known_posteriors.md. Columns are d, d_y; entries are means over {{counts}} random \
problems of {{samples}} samples each, with their 95 % intervals (studentized bootstrap). K is the \
number of gradient steps in every fit, of learning rate 0.1 in units of x; Adam's first one moves \
every number by just that, also where the start is right. With K = 0 a block is drawn from what \
the start says. LAVPS starts every fit with a perceptron that was trained for the prior, the \
matrix and the noise of the problem, on up to {NUM_TRAIN_STEPS * BATCH_SIZE:,} blocks of other \
measurements: the most that amortization can know. "Trained elsewhere" was trained for the same \
prior, but another random matrix and noise; it still sees a Gauss-Newton step of the right ones. \
"conditional start" begins at what a perfect supervised denoiser predicts, "exact posterior \
denoiser" is DDIM with it, and "floor" compares two sets of exact samples. Settings: \
benchmarks/lavps_mixture.py."""


@dataclass(frozen=True)
class Config(tables.Config):
    """Which problems to measure."""

    dims: tuple[tuple[int, int], ...] = tuple((d, d_y) for d in (8, 80) for d_y in (1, 2, 4))
    """Pairs (d, d_y)."""
    out: str = "docs/results/known_posteriors_lavps.json"


class StartNetwork(nnx.Module):
    """(d_mu / prior_std, d_rho) from all that an amortized start may see, as one vector.

    A chain may stray further from y than the blocks of training did. So the guidance is brought to
    order one, and d_mu back to its size; and fits are at most twice as wide as the block prior.

    Args:
      d: numbers of an image (1, 1, d).
    """

    def __init__(self, d: int, *, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.first = nnx.Linear(4 * d + 3, WIDTH, rngs=rngs)
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
        size = jnp.sqrt(1 + jnp.mean(guidance**2))
        images = (x_0 / SPREAD, z / jnp.hypot(sigma_t, SPREAD), x_pinv / SPREAD, guidance / size)
        scalars = jnp.log(jnp.stack([sigma_t, sigma_tau, size])) / 2
        h = self.first(jnp.concatenate([*map(jnp.ravel, images), scalars]))
        for block in self.blocks:
            h = h + block(h)
        d_mu, narrower = jnp.split(self.last(h), 2)
        d_rho = jnp.log(2.0) - jax.nn.softplus(narrower)
        return size * d_mu.reshape(x_0.shape), d_rho.reshape(x_0.shape)


def amortized_start(d: int) -> Amortized:
    """A start for images (1, 1, d), without weights."""
    model, _ = split(nnx.eval_shape(lambda: StartNetwork(d, rngs=nnx.Rngs(0))))
    return Amortized(None, model, mean_unit="prior_std", guidance=True)


class Known(NamedTuple):
    """A family of one operator."""

    operator: Any

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Any:
        return self.operator


@partial(jax.jit, static_argnames="num_steps")
def train(
    rng_key: PRNGKey, start: Amortized, prior: UnitMixture, problem: Problem, num_steps: int
) -> Amortized:
    """The start as one that knows the prior, the operator and sigma_y of a problem, not its y.

    The loss is `AmortizedLoss`; every block is weighted by 1 / (d + |loss of the block prior|), at
    a draw of its own. Without weights the noisiest blocks, of the largest residuals, decide alone.
    """
    operator: Any = Known(problem.operator)
    sigma_y: Any = problem.sigma_y  # Any number, though a configuration has a float.
    num_times = MGDM().num_steps
    loss = AmortizedLoss(
        start.replace(weights=None), operator, sigma_y, num_times, 1, num_times - 2, "previous"
    )
    d = prior.means.shape[-1]

    def of_one(weights: Weights, rng_key: PRNGKey) -> Array:
        keys = jax.random.split(rng_key, 4)
        component = jax.random.categorical(keys[0], prior.log_weights)
        x_0, noise, eps, eps_weight = jax.random.normal(keys[1], (4, 1, 1, d))
        x_0 = prior.means[component] + prior.std * x_0
        posed = loss.problem(keys[2], x_0)
        row = loss.row(jax.random.randint(keys[3], (), loss.low_idx, loss.high_idx))
        x_t = add_noise(noise, x_0, row.t, start.schedule)
        block = make_block(row, prior(x_t, row.t), x_t)
        scale = d + jnp.abs(block_loss(*block_prior(block), eps_weight, prior, posed, block))
        prepared = loss.start.prepare(posed)
        return loss.on_block(weights, prior, posed, prepared, block, eps, None)[0] / scale

    def of_batch(weights: Weights, rng_key: PRNGKey) -> Array:
        return jax.vmap(of_one, (None, 0))(weights, jax.random.split(rng_key, BATCH_SIZE)).mean()

    schedule = optax.cosine_decay_schedule(PEAK_LR, num_steps)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    # Where sigma_y is small, a gradient may overflow.
    optimizer = optax.apply_if_finite(clipped, max_consecutive_errors=num_steps)

    def step(carry: tuple[Weights, Any], rng_key: PRNGKey) -> tuple[tuple[Weights, Any], None]:
        weights, state = carry
        update, state = optimizer.update(jax.grad(of_batch)(weights, rng_key), state, weights)
        return (optax.apply_updates(weights, update), state), None

    carry = (start.weights, optimizer.init(start.weights))
    (weights, _), _ = jax.lax.scan(step, carry, jax.random.split(rng_key, num_steps))
    return start.replace(weights=weights)


class PerfectDenoiser(SupervisedDenoiser):
    """E[x_0 | x_t, y] itself.

    Attributes:
      weights: the posterior in its basis, and the basis, float (d, d).
    """

    weights: tuple[GaussianMixture, Array]
    model: Any = static(default=None)

    def prepare(self, problem: Problem) -> tuple[()]:
        return ()

    def __call__(self, x_t, problem, prepared, t):
        posterior, basis = self.weights
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return product(posterior(product(x_t, basis), t), basis.T)


@dataclass(frozen=True)
class Row:
    """LAVPS all along the grid.

    Attributes:
      num_inner_steps: K.
      start: what a network of this very matrix says, one of another matrix and noise, or a
        perfect supervised denoiser.
      best_of: whether it is compared with the zero-shot start in every block.
    """

    num_inner_steps: int
    start: Literal["known", "elsewhere", "perfect"]
    best_of: bool = False

    def sampler(self, start: Amortized | SupervisedStart) -> LAVPS:
        """With this start."""
        return LAVPS(
            start,
            best_of=self.best_of,
            inner_low_noise=Inner(self.num_inner_steps, 0.1, "image"),
            high_idx=LAVPS.num_steps - 2,
            tau_rule="previous",
        )


ROWS: Mapping[str, Row] = {
    "LAVPS K=0": Row(0, "known"),
    "LAVPS K=1": Row(1, "known"),
    "LAVPS K=3": Row(3, "known"),
    "conditional start, K=0": Row(0, "perfect"),
    "conditional start, K=1": Row(1, "perfect"),
    "LAVPS K=1, trained elsewhere": Row(1, "elsewhere"),
    "LAVPS K=1, trained elsewhere, better of two starts": Row(1, "elsewhere", best_of=True),
}


def methods(d: int) -> Mapping[str, Sampler]:
    """All rows, of problems of size d; some are those of `gaussian_mixture`. What a start knows of
    a problem is left out."""
    perfect, amortized = SupervisedStart(PerfectDenoiser(None)), amortized_start(d)  # type: ignore[arg-type]
    zero_shot = (f"MGDM K={steps}, lr 0.1" for steps in (1, 3, 5))
    others = {name: METHODS[name] for name in ("exact posterior denoiser, 100 steps", *zero_shot)}
    return others | {
        name: row.sampler(perfect if row.start == "perfect" else amortized)
        for name, row in ROWS.items()
    }


class TrainedProblems(Problems):
    """Random problems of one size, with networks for each of them, and the methods on them."""

    def __init__(self, config: tables.Config, d: int, d_y: int):
        super().__init__(config, d, d_y, methods(d))
        weights = split(StartNetwork(d, rngs=nnx.Rngs(config.seed)))[1]
        self.untrained = amortized_start(d).replace(weights=weights)

    def samplers(self, number: int, case: Case, target: Posterior) -> Mapping[str, Sampler]:
        kinds = {row.start for name, row in ROWS.items() if name in self.methods}
        starts = {kind: self._start(kind, number, case, target) for kind in kinds}
        return {
            name: one.replace(amortized=starts[ROWS[name].start]) if name in ROWS else one
            for name, one in self.methods.items()
        }

    def _start(
        self, kind: str, number: int, case: Case, target: Posterior
    ) -> Amortized | SupervisedStart:
        if kind == "perfect":
            basis = jnp.asarray(target.basis, jnp.float32)
            return SupervisedStart(PerfectDenoiser((posterior_mixture(target), basis)))
        elsewhere = kind == "elsewhere"
        rng = np.random.default_rng([self.config.seed, self.d, self.d_y, number, 1 + elsewhere])
        learned = draw_case(rng, self.d, self.d_y) if elsewhere else case
        key, prior = jax.random.key(rng.integers(2**32)), prior_mixture(case)
        return train(key, self.untrained, prior, as_problem(learned), NUM_TRAIN_STEPS)


COSTS = {name: one.cost(Schedule()) for name, one in methods(2).items()}
TABLE = tables.MixtureTable(TITLE, ABOUT, COSTS, TrainedProblems)


def main(config: Config) -> None:
    TABLE.measure(config)
    TABLE.report(Path(config.out))


if __name__ == "__main__":
    prog = "python -m benchmarks.lavps_mixture"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
