"""Whole samplers against those of deepinv and azula, with the same network, y, A and noise.

The network is a small ADM of random weights, azula's module there and converted here. Images have
8 x 8 pixels, a run 26 steps and a last prediction, and predictions are cut to [-1, 1]. A difference
is the largest one over the largest value here, in float32. Under "as here" everything is set as it
is here (docs/parity.md); under the other names one setting is left as the other library has it.
"one rounding" is how far a run here moves if all weights and draws do by a unit in the last place.
Where draws are the other library's own, means and standard deviations of 500 runs are compared;
exchanging runs at random tells where these lie in 95 % of cases if both laws are one.

Needs torch, azula and deepinv; measured with 2.13.0, 0.11.1 and 0.5.0.

Command: python -m benchmarks.sampler_parity
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # type: ignore[import-not-found]
import torch.nn.functional as functional  # type: ignore[import-not-found]

from benchmarks.peers import azula_runs, deepinv_runs
from benchmarks.peers.runs import (
    NUM_STEPS,
    SIDE,
    SIGMA_Y,
    Run,
    draws,
    here,
    measured,
    networks,
    to_torch,
)
from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.operators import CircularBlur, Inpainting, LinearOperator, SuperResolution
from lavps_jax.operators.blur import gaussian_kernel
from lavps_jax.samplers import DDRM, DPS, DiffPIR

X_SHAPE = (SIDE, SIDE, 3)
Results = Iterator[tuple[str, dict[str, Any]]]
dps = DPS(num_steps=NUM_STEPS, step_size=0.2)
diffpir = DiffPIR(num_steps=NUM_STEPS)
ddrm = DDRM(num_steps=NUM_STEPS)
NUM_EXCHANGES = 2000
NUM_RUNS, BATCH = 500, 125
WEIGHT = 1.0
"""Of deepinv's DPS."""


@dataclass(frozen=True)
class Config:
    """Where results go."""

    out: str = "docs/results/sampler_parity.json"


class LargeValues(CircularBlur):
    """A blur whose singular values count as zero up to sigma_y, as in deepinv's DDRM."""

    def _singular_values(self, dtype: Any) -> Any:
        values = super()._singular_values(dtype)
        return jnp.where(values > SIGMA_Y / 2, values, 0)  # Of images in [0, 1].


def operators() -> dict[str, tuple[LinearOperator, Callable[[Any], Any]]]:
    """Those here, and as functions of tensors."""
    mask = np.random.default_rng(0).random((SIDE, SIDE, 1)) < 0.5
    hides = Inpainting(jnp.asarray(mask, jnp.float32), x_shape=X_SHAPE)
    seen = to_torch(hides.mask)
    # Its singular values are .2 at least: none is below sigma_y, which is half of that in [0, 1].
    kernel = jnp.asarray([[0, 0.1, 0], [0.1, 0.6, 0.05], [0, 0.15, 0]], jnp.float32)
    weight = torch.tensor(np.asarray(kernel)).expand(3, 1, 3, 3)

    def blurred(x: Any) -> Any:
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), "circular"), weight, groups=3)

    return {
        "inpainting": (hides, lambda x: seen * x),
        "super-resolution": (
            SuperResolution(2, x_shape=X_SHAPE),
            lambda x: functional.avg_pool2d(x, 2),
        ),
        "blur": (CircularBlur(kernel, x_shape=X_SHAPE), blurred),
    }


def difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def differences(theirs: Run, ours: Run) -> dict[str, Any]:
    steps: list[float] = [
        difference(*pair) for pair in zip(theirs.states, ours.states, strict=False)
    ]
    sample = difference(theirs.sample, ours.sample)
    return {"steps 1, 2, 3": steps[:3], "largest of all steps": max(steps), "sample": sample}


def compared(
    ours: Callable[..., Run], prior: NetworkDenoiser, theirs: dict[str, Any]
) -> dict[str, Any]:
    """Runs with one noise: those of `theirs`, by name, and one here with everything rounded."""
    noise, rng = draws(1), np.random.default_rng(2)

    def next_to(x: Any) -> Any:
        towards = rng.choice(np.array([-np.inf, np.inf], np.float32), np.shape(x))
        return jnp.asarray(np.nextafter(np.asarray(x), towards))

    run = ours(noise=noise, prior=prior)
    rounded = ours(noise=next_to(noise), prior=jax.tree.map(next_to, prior))
    runs = {"one rounding": rounded} | {name: other(noise=noise) for name, other in theirs.items()}
    return {name: differences(other, run) for name, other in runs.items()}


def laws(theirs: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """Two sets of samples: how their means and standard deviations differ.

    "means" is the root mean square over values of the differences of the means, "deviations" the
    root mean variance there over that here, with what either is in 95 % of exchanges of runs.
    """
    both = np.concatenate([theirs, ours]).reshape(len(theirs) + len(ours), -1).astype(float)

    def found(order: np.ndarray) -> tuple[float, float]:
        one, other = both[order[: len(theirs)]], both[order[len(theirs) :]]
        means = np.sqrt(np.mean((one.mean(0) - other.mean(0)) ** 2))
        return float(means), float(np.sqrt(one.var(0).mean() / other.var(0).mean()))

    rng = np.random.default_rng(0)
    means, deviations = found(np.arange(len(both)))
    exchanged = np.array([found(rng.permutation(len(both))) for _ in range(NUM_EXCHANGES)])
    low, high = np.quantile(exchanged[:, 1], [0.025, 0.975])
    return {
        "means": means,
        "means, if equal below": float(np.quantile(exchanged[:, 0], 0.95)),
        "deviations": deviations,
        "deviations, if equal": [float(low), float(high)],
    }


def repeated(run: Callable[..., Run]) -> np.ndarray:
    """Samples of another library with its own draws, (NUM_RUNS, C, H, W)."""
    torch.manual_seed(0)
    batches = NUM_RUNS // BATCH
    return np.concatenate([run(noise=None, num_runs=BATCH).sample for _ in range(batches)])


def with_azula(backbone: Any, prior: NetworkDenoiser) -> Results:
    """DPS and DiffPIR, each with its name."""
    azula = azula_runs.denoiser_of(backbone)
    own_index = azula_runs.denoiser_of(backbone, own_index=True)
    own_schedule = azula_runs.denoiser_of(backbone, own_schedule=True)
    for name, (operator, forward) in operators().items():
        problem = measured(operator)
        settings = {"problem": problem, "forward": forward}
        run = partial(azula_runs.dps, step_size=dps.step_size, **settings)
        theirs = {
            "as here": partial(run, azula),
            "network told the next time": partial(run, own_index),
            "last step guided": partial(run, azula, guides_last=True),
            "own schedule": partial(run, own_schedule),
        }
        yield f"DPS, azula, {name}", compared(partial(here, dps, problem), prior, theirs)
        settings |= {"strength": diffpir.strength, "zeta": diffpir.zeta}
        run = partial(azula_runs.diffpir, **settings)
        theirs = {
            "as here": partial(run, azula),
            "network told the next time": partial(run, own_index),
            "zeta for eta": partial(run, azula, own_noise_share=True),
            "one step of GMRES": partial(run, azula, own_solver=True),
            "own schedule": partial(run, own_schedule),
        }
        yield f"DiffPIR, azula, {name}", compared(partial(here, diffpir, problem), prior, theirs)


def with_deepinv(backbone: Any, prior: NetworkDenoiser) -> Results:
    """DPS, DiffPIR and DDRM, each with its name."""
    deepinv = deepinv_runs.denoiser_of(backbone)
    many = draws(2, NUM_RUNS)
    weighted = [dps.replace(step_size=float(w)) for w in deepinv_runs.guidance_weights(WEIGHT)]
    for name in ("inpainting", "blur"):
        problem = measured(operators()[name][0])
        run = partial(deepinv_runs.dps, deepinv, problem=problem, weight=WEIGHT)
        theirs = {
            "as here": run,
            "last step guided": partial(run, guides_last=True),
            "own schedule": partial(run, own_schedule=True),
        }
        yield f"DPS, deepinv, {name}", compared(partial(here, weighted, problem), prior, theirs)
        # Twice the strength is their lambda.
        lambda_ = 2 * diffpir.strength
        run = partial(
            deepinv_runs.diffpir, deepinv, problem=problem, zeta=diffpir.zeta, lambda_=lambda_
        )
        theirs = {
            "as here": run,
            "lambda of the paper": partial(run, lambda_=2 * lambda_),
            "start at A^T y": partial(run, starts_at_y=True),
            "last state for sample": partial(run, predicts=False),
        }
        ours = partial(here, diffpir, problem)
        yield f"DiffPIR, deepinv, {name}", compared(ours, prior, theirs)
        samples = ours(noise=many, prior=prior).sample
        yield f"DiffPIR, deepinv, {name}, own draws", laws(repeated(run), samples)
        run = partial(deepinv_runs.ddrm, deepinv, problem=problem, eta=ddrm.eta)
        theirs = {
            "as here": run,
            "1e-6 added to singular values": partial(run, eps=1e-6),
            "noise over sqrt(2)": partial(run, own_variance=True),
        }
        ours = partial(here, ddrm, problem, part="x_0")
        yield f"DDRM, deepinv, {name}", compared(ours, prior, theirs)
        samples = ours(noise=many, prior=prior).sample
        yield f"DDRM, deepinv, {name}, own draws", laws(repeated(run), samples)
    kernel = gaussian_kernel(5, 1.0)
    problem, every = (
        measured(kind(kernel, x_shape=X_SHAPE)) for kind in (LargeValues, CircularBlur)
    )
    theirs = {
        "as here": partial(deepinv_runs.ddrm, deepinv, problem=problem, eta=ddrm.eta),
        "all singular values": partial(here, ddrm, every, prior, part="x_0"),
    }
    ours = partial(here, ddrm, problem, part="x_0")
    yield "DDRM, deepinv, wider blur", compared(ours, prior, theirs)


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m benchmarks.sampler_parity")
    earlier("out", config.out)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "azula", "deepinv")}
    found: dict[str, Any] = {"versions": versions}
    sides = networks()
    for name, result in chain(with_azula(*sides), with_deepinv(*sides)):
        found[name] = result
        print(name, result, flush=True)
        record(config.out, found)


if __name__ == "__main__":
    cli.main(main)
