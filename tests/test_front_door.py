"""What `import lavps_jax` gives, and what it costs; the sampler that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lavps_jax as lavps
from lavps_jax.diffusion import GaussianMixture
from lavps_jax.errors import UserError
from lavps_jax.operators import Identity

ROOT = Path(__file__).parents[1]


def test_names_of_the_front_door():
    for name in lavps.__all__:
        assert getattr(lavps, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", lavps.__version__)


def test_importing_loads_no_data_sets_and_no_plots():
    code = "import sys, lavps_jax; print([m for m in %r if m in sys.modules])"
    heavy = ["tensorflow_datasets", "matplotlib", "tensorflow", "torch", "orbax.checkpoint"]
    done = subprocess.run(
        [sys.executable, "-c", code % heavy], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Flax itself imports a part of Orbax.
    assert set(re.findall(r"[\w.]+", done.stdout)) <= {"orbax.checkpoint"}


def test_shipped_networks_by_name():
    prior = lavps.load_prior("fashion_mnist")
    start = lavps.load_amortized("fashion_mnist/motion_blur")
    assert prior.schedule == start.schedule  # type: ignore[union-attr]
    for load, name in ((lavps.load_prior, "fashion"), (lavps.load_amortized, "fashion_mnist/blur")):
        with pytest.raises(UserError, match=f"got {name}.*; .* one of .*fashion_mnist/motion_blur"):
            load(name)


def test_the_sampler_of_contributing_runs():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    module: dict = {"__name__": __name__}
    exec(compile(code, "CONTRIBUTING.md", "exec"), module)
    shape = (4, 4, 1)
    prior = GaussianMixture(jnp.zeros((1, *shape)), jnp.zeros(1), jnp.float32(0.5))
    x_0 = 0.5 * jax.random.normal(jax.random.key(0), shape)
    problem = lavps.simulate(jax.random.key(1), x_0, Identity(x_shape=shape), lavps.Gaussian(0.05))
    sampler = module["MySampler"](num_steps=30, step_size=0.5)
    x = lavps.sample(jax.random.key(2), sampler, prior, problem, num_particles=4).x_0
    assert np.abs(np.asarray(x) - np.asarray(x_0)).mean() < 0.5 * np.abs(x_0).mean()
