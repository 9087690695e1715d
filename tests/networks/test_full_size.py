"""The published networks at full size, with random weights, run on a CPU in 8 GB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from lavps_jax.config.settings import load_preset
from lavps_jax.diffusion.conditioning import as_measurement, estimate
from lavps_jax.networks import AmortizedNetworkConfig, split
from lavps_jax.operators import SuperResolution
from lavps_jax.problems.problem import simulate

network = load_preset(sys.argv[1]).task.network
model, weights = split(nnx.eval_shape(lambda: network.build(nnx.Rngs(0))))
generator = np.random.default_rng(0)

def fill(leaf):
    values = generator.standard_normal(leaf.shape, np.float32)
    values *= 0.5 / leaf.shape[0] ** 0.5
    # Temperatures of attention are vectors, and have a square root.
    return jnp.asarray(np.abs(values) if values.ndim == 1 else values)

weights = jax.tree.map(fill, weights)
x = jnp.asarray(generator.uniform(-1, 1, (256, 256, 3)), jnp.float32)
problem = simulate(jax.random.key(0), x, SuperResolution(4, x_shape=x.shape), 0.05)

@jax.jit
def run(weights, x, problem):
    if not isinstance(network, AmortizedNetworkConfig):
        return (model(weights, x, jnp.zeros(1)),)
    seen = as_measurement(problem, "published") if network.backbone.sees_measurement else None
    sigma = jnp.float32(1.0)
    return model(weights, x, x, estimate(problem), sigma, sigma, measurement=seen)

for image in run(weights, x, problem):
    image = np.asarray(image)
    assert image.shape == (256, 256, 3) and np.isfinite(image).all() and image.std() > 1e-3
flops = run.lower(weights, x, problem).cost_analysis()["flops"]
count = sum(leaf.size for leaf in jax.tree.leaves(weights))
# Not ru_maxrss: that of a new process begins with the one of its parent.
peak = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(count, flops, int(peak) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("data", ["ffhq256", "imagenet256"])
@pytest.mark.parametrize("kind", ["prior", "amortized", "invfussion"])
def test_a_forward_pass_fits(data, kind):
    preset = f"configs/{data}_{kind}.py"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, preset], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, flops, peak = map(float, done.stdout.split())
    print(f"{preset}: {count / 1e6:.1f} M numbers, {flops / 1e9:.0f} GFLOP, {peak / 1e9:.2f} GB")
    assert peak < 8e9
