"""Samplers against posteriors that are known exactly (`mixtures/problems.py`).

The score of the prior is exact, so that what remains is the error of the sampler. Every row gives,
per problem, the sliced Wasserstein distance to exact samples, the coverage of intervals, and the
error of the weights of the modes.

Rows that bound what can be reached: "floor" compares two sets of exact samples, and "exact
posterior denoiser" runs DDIM with E[x_0 | x_t, y] itself. Where the chain starts at N(0, I) even
the latter does not quite reach the former, because the noised mixture is wider at the last time (by
up to 0.9 standard deviations for d = 80, 2.9 for d = 800). At d = 800 all chains start from the
noised mixture itself, of the posterior for the exact denoiser and of the prior for the others (DDRM
too, which elsewhere begins near y). RED-diff is no chain, and begins at A^+ y.

Problems that the file of results holds already are not run again; delete it to start anew. It may
be carried to another machine: what each size was measured on is kept. The report lies beside it, as
.md, .html and .svg.

Command: python -m benchmarks.gaussian_mixture
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.mixtures.problems import (
    Case,
    Posterior,
    as_problem,
    draw_case,
    exact_samples,
    posterior,
    posterior_mixture,
    prior_mixture,
    scores,
)
from benchmarks.mixtures.tables import WIDE, Config, MixtureTable
from lavps_jax.config import cli
from lavps_jax.diffusion.schedules import Schedule
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
    Sampler,
    sample,
)
from lavps_jax.samplers.base import State

TITLE = "Samplers against posteriors that are known exactly"
ABOUT = """\
Mixtures of 25 Gaussians in d dimensions, measured linearly in d_y, with exact scores: what \
remains is the error of the sampler. Columns are d, d_y; entries are means over {counts} random \
problems of {samples} samples each, with their 95 % intervals (studentized bootstrap). "floor" \
compares two sets of exact samples, "exact posterior denoiser" is DDIM with E[x_0 | x_t, y] \
itself, and "prior samples" know nothing of y. From d = 800 on chains start from the noised \
mixture. Settings are the defaults of docs/samplers.md, but for what a row says; for MGDM, whose \
learning rates are in units of x and whose tau is t_prev, as published, where a row does not say \
otherwise; and for MGPS, whose fits were tuned to mixtures: benchmarks/gaussian_mixture.py. \
LAVPS, which needs a network, has a table of its own: known_posteriors_lavps.md."""


def mgdm(num_inner_steps: int, learning_rate: float, **settings: Any) -> MGDM:
    """MGDM with the same inner problem at every step; tau is t_prev unless a setting differs."""
    inner = Inner(num_inner_steps, learning_rate, "image")
    return MGDM(inner=inner, inner_low_noise=inner, **{"tau_rule": "previous", **settings})


SAMPLERS: Mapping[str, Sampler] = {
    f"MGDM K={steps}, lr {rate:g}": mgdm(steps, rate)
    for steps, rate in ((1, 0.1), (3, 0.1), (5, 0.03), (5, 0.1))
} | {
    "MGDM K=5, lr 0.1, tau half of t_prev": mgdm(5, 0.1, tau_rule="midpoint"),
    "MGDM K=5, lr 0.1, tau uniform": mgdm(5, 0.1, tau_rule="uniform"),
    "MGDM K=5, lr 0.1, 2 repetitions": mgdm(5, 0.1, num_gibbs=2),
    "DPS, step size 0.2": DPS(step_size=0.2),
    "DPS, step size 2": DPS(),
    "PiGDM": PiGDM(),
    "DDNM": DDNM(),
    "DDRM": DDRM(),
    "DDRM, 101 steps": DDRM(num_steps=101),
    "DiffPIR": DiffPIR(),
    "RED-diff": REDDiff(),
    "DAPS": DAPS(),
    "MGPS": MGPS(num_first=10, learning_rate=0.1, estimate_from=2.0),
    "DING": DING(),
    "FAST-DIPS": FastDIPS(),
    "Guess & Guide": GuessAndGuide(),
}
EXACT: Mapping[str, Sampler] = {
    f"exact posterior denoiser, {steps} steps": DDIM(num_steps=steps) for steps in (20, 100)
}
METHODS: Mapping[str, Sampler] = {**EXACT, "prior samples": DDIM(), **SAMPLERS}


def from_marginal(sampler: Sampler) -> Sampler:
    """The same sampler, started from the noised mixture instead of N(0, I).

    The component of a chain is drawn with a key made of the bits of its noise.
    """
    if isinstance(sampler, REDDiff):
        return sampler

    class FromMarginal(type(sampler)):
        def init(self, eps, prior: Any, problem):
            alpha_bar = float(prior.schedule.alpha_bar[-2])
            if isinstance(self, DAPS):  # It begins at a level of noise, not at the last time.
                alpha_bar = 1 / (1 + self.sigma_max**2)
            bits = jax.lax.bitcast_convert_type(eps[0, 0], jnp.uint32)
            chosen = jax.random.categorical(jax.random.key(jnp.sum(bits)), prior.log_weights)
            std = jnp.sqrt(alpha_bar * prior.std**2 + 1 - alpha_bar)
            x_t = alpha_bar**0.5 * prior.means[chosen] + std * eps
            if isinstance(self, DDRM):
                return State(x_t, jnp.zeros_like(x_t))
            return super().init(x_t, prior, problem)

    return FromMarginal(**vars(sampler))  # type: ignore[return-value]


class Problems:
    """Random problems of one size, and the methods on them."""

    def __init__(self, config: Config, d: int, d_y: int, methods: Mapping[str, Sampler] = METHODS):
        self.config, self.d, self.d_y = config, d, d_y
        self.methods = {name: methods[name] for name in config.methods or methods}
        if d >= WIDE:
            self.methods = {name: from_marginal(one) for name, one in self.methods.items()}

    def measure(self, number: int) -> dict[str, dict[str, float]]:
        """Scores of every row on one problem."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.d, self.d_y, number])
        case = draw_case(rng, self.d, self.d_y)
        target = posterior(case)
        truth = exact_samples(rng, target, config.num_samples)
        slices = int(rng.integers(2**32))
        again = exact_samples(rng, target, config.num_samples)
        found = {"floor": scores(again, target, truth, config.num_slices, slices)}
        prior, exact, problem = prior_mixture(case), posterior_mixture(target), as_problem(case)
        for name, sampler in self.samplers(number, case, target).items():
            key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
            key = jax.random.fold_in(key, number)
            known = exact if name in EXACT else prior
            out = sample(key, sampler, known, problem, num_particles=config.num_samples)
            samples = np.asarray(out.x_0[:, 0, 0], np.float64)
            if name in EXACT:  # Those are in the posterior's basis.
                samples = samples @ target.basis.T
            found[name] = scores(samples, target, truth, config.num_slices, slices)
        return found

    def samplers(self, number: int, case: Case, target: Posterior) -> Mapping[str, Sampler]:
        """The methods, with what they know of one problem besides the prior."""
        return self.methods


COSTS = {name: one.cost(Schedule()) for name, one in METHODS.items()}
TABLE = MixtureTable(TITLE, ABOUT, COSTS, Problems)


def main(config: Config) -> None:
    TABLE.measure(config)
    TABLE.report(Path(config.out))


if __name__ == "__main__":
    prog = "python -m benchmarks.gaussian_mixture"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
