"""Draws unconditional samples of an exported prior and writes them as one sheet.

Command: python tools/sample_prior.py --prior pretrained/fashion_mnist/prior --out sheet.png
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.config import cli
from lavps_jax.errors import UserError
from lavps_jax.io.storage import on_disk
from lavps_jax.operators import Identity
from lavps_jax.problems.problem import Problem
from lavps_jax.runs.loading import load_prior, network_shape
from lavps_jax.runs.pictures import save_png
from lavps_jax.samplers import DDIM, sample


@dataclass(frozen=True)
class Config:
    """Which prior, and what to draw."""

    prior: str
    """Folder of the exported prior."""
    out: str
    """PNG to write, which must not exist."""
    size: int = 32
    """Side of the images in pixels."""
    num_rows: int = 8
    """Rows and columns of the sheet."""
    num_steps: int = 100
    """Steps of DDIM with eta = 1."""
    seed: int = 0


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python tools/sample_prior.py")
    out = on_disk(config.out, "out")
    if out.exists():
        raise UserError("out", out, "choose a new name, this one exists")
    x_shape = (config.size, config.size, network_shape(config.prior).channels)
    # DDIM of a prior does not look at the measurement.
    problem = Problem(jnp.zeros(x_shape), Identity(x_shape=x_shape), 1.0)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    prior, sampler = load_prior(config.prior), DDIM(num_steps=config.num_steps)
    x_0 = sample(key, sampler, prior, problem, num_particles=config.num_rows**2).x_0
    rows = np.asarray(x_0).reshape(config.num_rows, config.num_rows, *x_shape)
    save_png(out, np.concatenate(np.concatenate(rows, axis=1), axis=1))
    print(out)


if __name__ == "__main__":
    cli.main(main)
