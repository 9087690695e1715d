"""Draws unconditional samples of an exported prior and writes them as one sheet.

Command: python tools/sample_prior.py --prior pretrained/fashion_mnist/prior --out sheet.png
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax import cli
from lavps_jax.build import load_network, load_prior
from lavps_jax.config import PriorTask
from lavps_jax.likelihoods import make_problem
from lavps_jax.operators import Identity
from lavps_jax.pictures import save_png
from lavps_jax.samplers import DDIM, make_sample_fn


@dataclass(frozen=True)
class Config:
    """Which prior, and what to draw."""

    prior: str
    """Folder of the exported prior."""
    out: str
    """PNG to write."""
    size: int = 32
    """Side of the images in pixels."""
    num_rows: int = 8
    """Rows and columns of the sheet."""
    num_steps: int = 100
    """Steps of DDIM with eta = 1."""
    seed: int = 0


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python tools/sample_prior.py")
    denoiser, theta = load_prior(config.prior)
    task = load_network(config.prior)[2].task
    assert isinstance(task, PriorTask)
    x_shape = (config.size, config.size, task.network.in_channels)
    sampler = DDIM(denoiser, num_steps=config.num_steps, schedule=denoiser.schedule)
    # DDIM of a prior does not look at the measurement.
    problem = make_problem(jnp.zeros(x_shape), Identity(x_shape=x_shape), 1.0)
    sample_fn = make_sample_fn(sampler, num_particles=config.num_rows**2)
    problems = jax.tree.map(lambda leaf: leaf[None], problem)
    key, index = jax.random.key(config.seed), jnp.zeros(1, jnp.int32)
    x_0 = np.asarray(sample_fn(key, index, {"theta": theta}, problems, sampler.plan()).x_0[0])
    rows = x_0.reshape(config.num_rows, config.num_rows, *x_shape)
    save_png(config.out, np.concatenate(np.concatenate(rows, axis=1), axis=1))
    print(config.out)


if __name__ == "__main__":
    cli.main(main)
