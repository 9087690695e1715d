"""Draws unconditional samples of an exported prior and writes them as one sheet.

Command: python tools/sample_prior.py --prior pretrained/fashion_mnist/prior --out sheet.png
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.config import cli
from lavps_jax.config.settings import PriorTask
from lavps_jax.errors import UserError
from lavps_jax.io.storage import on_disk
from lavps_jax.operators import Identity
from lavps_jax.problems.likelihoods import make_problem
from lavps_jax.runs.build import load_network, load_prior
from lavps_jax.runs.pictures import save_png
from lavps_jax.samplers import DDIM, make_sample_fn


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
    save_png(out, np.concatenate(np.concatenate(rows, axis=1), axis=1))
    print(out)


if __name__ == "__main__":
    cli.main(main)
