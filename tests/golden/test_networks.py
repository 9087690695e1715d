"""The networks and their preconditioning against the published numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import cases

from lavps_jax.diffusion.bridges import bridge_coefficients
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.samplers.variational import Block

ALPHA_BAR = Schedule().alpha_bar


@pytest.mark.parametrize("case", cases("hdit_tiny", "(.+)_c_noise"))
def test_prior_network(golden, prior, case):
    stored = golden("hdit_tiny")
    c_noise = jnp.asarray(stored[f"{case}_c_noise"])[:, None]
    evaluate = jax.jit(jax.vmap(prior.model, (None, 0, 0)))
    stored.close(f"{case}_out", evaluate(prior.weights, stored.image(f"{case}_x"), c_noise))


def test_preconditioning(golden, prior):
    stored = golden("hdit_tiny")
    evaluate = jax.jit(jax.vmap(NetworkDenoiser.at_sigma, (None, 0, 0)))
    out = evaluate(prior, stored.image("pre_x"), jnp.asarray(stored["pre_sigma"]))
    stored.close("pre_out", out)


def test_clean_image_and_noise_prediction(golden, prior):
    stored = golden("hdit_tiny")
    denoise = jax.jit(jax.vmap(NetworkDenoiser.__call__, (None, 0, None)))
    for case, t in enumerate(stored["eps_t"]):
        x_t = stored.image("eps_x")[case]
        x_0 = denoise(prior, x_t, t)
        stored.close("eps_x0", x_0, case)
        signal, noise = np.float32(ALPHA_BAR[t] ** 0.5), np.float32((1 - ALPHA_BAR[t]) ** 0.5)
        stored.close("eps_out", (x_t - signal * x_0) / noise, case)
    each = jax.jit(jax.vmap(NetworkDenoiser.__call__, (None, 0, 0)))
    times = jnp.asarray(stored["epsb_t"])
    stored.close("epsb_x0", each(prior, stored.image("epsb_x"), times))


def test_derivative_of_the_clean_image(golden, prior):
    stored = golden("hdit_tiny")

    @jax.jit
    def derivative(x_t, cotangent, t):
        return jax.vjp(lambda x: prior(x, t), x_t)[1](cotangent)[0]

    for t in stored["vjp_t"]:  # Images and times are those of eps_x.
        x_t = stored.image("eps_x")[list(stored["eps_t"]).index(t)]
        out = jax.vmap(derivative, (0, 0, None))(x_t, stored.image("vjp_cot"), t)
        stored.close(f"vjp_t{t}", out)


def test_class_conditional_network(golden):
    stored = golden("hdit_tiny_class")
    model, weights = stored.network(stored.backbone, "unet.")
    labels, x = jnp.asarray(stored["labels"]), stored.image("raw_x")
    c_noise = jnp.asarray(stored["raw_c_noise"])[:, None]

    def evaluate(x, c_noise, label):
        return model(weights, x, c_noise, label=label)

    conditional = jax.jit(jax.vmap(evaluate))(x, c_noise, labels)
    stored.close("raw_out", conditional)
    unconditional = jax.jit(jax.vmap(lambda x, c: model(weights, x, c)))(x, c_noise)
    for scale in cases("hdit_tiny_class", r"raw_out_cfg(\d+(?:p\d+)?)"):
        guided = unconditional + float(scale.replace("p", ".")) * (conditional - unconditional)
        stored.close(f"raw_out_cfg{scale}", guided)
    prior = NetworkDenoiser(weights, model)
    inputs = stored.image("pre_x"), jnp.asarray(stored["pre_sigma"])
    for key, given in (("pre_out", labels), ("pre_out_nolabel", None)):
        evaluate = jax.jit(jax.vmap(NetworkDenoiser.at_sigma, (None, 0, 0, 0)))
        stored.close(key, evaluate(prior, *inputs, given))
    t = stored["eps_t"]
    x_0 = jax.jit(jax.vmap(NetworkDenoiser.__call__, (None, 0, None, 0)))(prior, x, t, labels)
    stored.close("eps_x0", x_0)
    signal, noise = np.float32(ALPHA_BAR[t] ** 0.5), np.float32((1 - ALPHA_BAR[t]) ** 0.5)
    stored.close("eps_out", (x - signal * x_0) / noise)


@pytest.mark.parametrize("task", cases("amortized_palette", "(.+)_vmean"))
def test_amortized_network(amortized, task):
    stored, start = amortized

    @jax.jit
    @jax.vmap
    def evaluate(problem, x_0, x_t, mean, std, t, tau):
        block = Block(x_0, x_t, mean, std, t, tau)
        return start(problem, start.prepare(problem), block, x_0, None)

    times = [stored["t"], stored["tau"]]
    task, shared = task.removesuffix("_shared"), "_shared" * task.endswith("_shared")
    if shared:  # All images at the times of the first.
        times = [time[:1].repeat(len(time)) for time in times]
    x_0, x_t = stored.image("x_0"), stored.image("x_t")
    c = bridge_coefficients(ALPHA_BAR, 0, *times[::-1], 1.0)
    c_l, c_s, std = (jnp.asarray(v, jnp.float32) for v in c)
    mean = c_l[:, None, None, None] * x_t + c_s[:, None, None, None] * x_0
    if not shared:
        stored.close("mean_prior", mean)
        stored.close("log_std_prior", np.log(std)[:, None, None, None] + np.zeros(x_0.shape))
    problems = stored.problems(f"{task}_y", "img")
    mu, rho = evaluate(problems, x_0, x_t, mean, std, *map(jnp.asarray, times))
    stored.close(f"{task}{shared}_vmean", mu)
    stored.close(f"{task}{shared}_vlog_std", rho)
