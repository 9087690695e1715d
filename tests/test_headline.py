"""The claim of the project, on the shipped networks: LAVPS does with one gradient step at the
low-noise end what MGDM does with ten.

MGDM gets 40 diffusion steps, which take twice the derivatives of LAVPS's 100. The program runs with
the compiler's own flags, as users' programs do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from environments import with_the_compilers_own_flags

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json
import jax
import jax.numpy as jnp
import lavps_jax as lavps
from lavps_jax.metrics.lpips import load_lpips_weights, lpips

prior, x_0 = lavps.load_prior("fashion_mnist"), lavps.data.shipped("fashion_mnist")[16:32]
start = lavps.load_amortized("fashion_mnist/motion_blur")
samplers = {"lavps": lavps.LAVPS(start, best_of=False), "mgdm": lavps.MGDM(num_steps=40)}
blur, perceptual = lavps.operators.families.MotionBlur(9), load_lpips_weights("alexnet")

def pose(key, x_0):
    operator = blur.draw(key, x_0.shape)
    return lavps.simulate(jax.random.fold_in(key, 1), x_0, operator, lavps.Gaussian(0.05))

def score(problem, x_0, x):
    chi2 = lavps.problems.residual_chi2(problem, x) / problem.operator.num_observed()
    return lpips(perceptual, jnp.clip(x, -1, 1), x_0), chi2

problems = jax.vmap(pose)(jax.random.split(jax.random.key(0), 16), x_0)
for name, sampler in samplers.items():
    x = lavps.sample(jax.random.key(1), sampler, prior, problems).x_0[:, 0]
    distance, chi2 = jax.jit(jax.vmap(score))(problems, x_0, x)
    calls = sampler.cost(prior.schedule)
    print(json.dumps([name, float(distance.mean()), float(chi2.mean()), calls.vjps]))
"""


@pytest.mark.slow
def test_lavps_does_with_one_step_what_mgdm_does_with_ten():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env=with_the_compilers_own_flags(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}
    (lpips, chi2, vjps), (of_mgdm, _, of_ten) = scores["lavps"], scores["mgdm"]
    assert lpips < 1.25 * of_mgdm and lpips < 0.05, scores
    assert 0.9 < chi2 < 1.15, scores
    assert vjps < of_ten / 2
