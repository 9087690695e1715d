"""Every parameterisation gives the posterior mean that the exact network of a Gaussian knows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.given_networks import denoiser_from
from lavps_jax.diffusion.parameterisations import EDM, VE, VP, Flow
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError

SCHEDULES = {
    "linear": Schedule(),
    "scaled_linear": Schedule(beta_min=0.0015, beta_max=0.0195, kind="scaled_linear"),
    "cosine": Schedule(kind="cosine"),
    "improved": Schedule(4000, kind="cosine", least_alpha_bar=0.0),
}
"""The last is that of Improved DDPM, which no run can have: alpha_bar falls to 1.5e-10."""
TOLERANCE = 1e-9
SHAPE = (3, 2, 2)
MEAN = np.random.default_rng(0).uniform(-0.5, 0.5, SHAPE)
VARIANCE = np.random.default_rng(1).uniform(0.05, 0.5, SHAPE)


def posterior_mean(x, a, s):
    """E[x_0 | x = a x_0 + s eps] of x_0 ~ N(MEAN, diag VARIANCE)."""
    mean, variance = MEAN.astype(x.dtype), VARIANCE.astype(x.dtype)
    return mean + a * variance / (a**2 * variance + s**2) * (x - a * mean)


def predicted(what, x, a, s):
    """What a network that predicts this says of x, and channels that nobody asked for."""
    x_0 = posterior_mean(x, a, s)
    eps = (x - a * x_0) / s
    output = {
        "eps": eps,
        "minus_eps": -eps,
        "score": -eps / s,
        "x_0": x_0,
        "v": a * eps - s * x_0,
        "velocity": eps - x_0,
    }[what]
    return jnp.concatenate([output, 7 + output], axis=-1)


def vp_network(what, schedule, shift=0):
    """A network that learned at times 0 to T - 1, of which 0 is noisy; shift is a mistake."""

    def network(x, time):
        index = jnp.clip(jnp.round(time).astype(int) + shift, 0, schedule.num_times - 1)
        alpha_bar = jnp.asarray(schedule.alpha_bar[1:], x.dtype)[index]
        return predicted(what, x, jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar))

    return network


def edm_network(x, time):
    sigma = jnp.exp(4 * time)
    variance = sigma**2 + 0.25
    z = x * jnp.sqrt(variance)
    output = posterior_mean(z, 1, sigma) - 0.25 / variance * z
    return output * jnp.sqrt(variance) / (0.5 * sigma)


def ve_network(what, sigma_of):
    return lambda x, time: predicted(what, x, 1, sigma_of(time))


def errors(network, parameterisation, schedule, dtype):
    """Largest relative error of D(x_t, t) at each of the times 1 to T, float (T,)."""
    prior = denoiser_from(network, parameterisation, schedule=schedule)
    times = np.arange(1, schedule.num_times + 1)
    normal = np.random.default_rng(2).standard_normal((2, len(times), *SHAPE))
    a, s = (np.sqrt(one[times])[:, None, None, None]
            for one in (schedule.alpha_bar, 1 - schedule.alpha_bar))  # fmt: skip
    x_t = a * (MEAN + np.sqrt(VARIANCE) * normal[0]) + s * normal[1]
    with jax.enable_x64(dtype == "float64"):
        found = jax.jit(jax.vmap(prior))(jnp.asarray(x_t, dtype), jnp.asarray(times))
        assert found.dtype == dtype and found.shape == x_t.shape
        error = np.abs(np.asarray(found, np.float64) - posterior_mean(x_t, a, s))
    return error.max((1, 2, 3)) / np.abs(posterior_mean(x_t, a, s)).max((1, 2, 3))


CASES = [
    *((f"vp-{kind}-{what}", vp_network(what, schedule), VP(what, schedule), schedule)
      for kind, schedule in SCHEDULES.items() for what in ("eps", "v", "x_0", "score")),
    *((f"ve-{what}", ve_network(what, lambda time: 2 * jnp.exp(time)), VE(what), Schedule())
      for what in ("eps", "minus_eps", "x_0", "score")),
    ("ve-log_sigma", ve_network("eps", jnp.exp), VE("eps", "log_sigma"), Schedule()),
    ("ve-sigma", ve_network("eps", lambda time: time), VE("eps", "sigma"), Schedule()),
    ("flow", lambda x, time: predicted("velocity", x, 1 - time, time), Flow(), Schedule()),
    ("flow-1000", lambda x, time: predicted("velocity", x, 1 - time / 1000, time / 1000),
     Flow(1000.0), SCHEDULES["cosine"]),
    ("edm", edm_network, EDM(), Schedule()),
]  # fmt: skip


@pytest.mark.parametrize("name,network,parameterisation,schedule", CASES)
def test_the_posterior_mean_of_a_gaussian(name, network, parameterisation, schedule):
    assert errors(network, parameterisation, schedule, "float64").max() < TOLERANCE
    # Of an image that is found as z minus the noise, float32 keeps less the noisier z is.
    rounding = errors(network, parameterisation, schedule, "float32")
    assert np.all(rounding < 5e-6 * (1 + schedule.sigma[1:]))


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("what", ["eps", "v", "x_0", "score"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_time_that_is_one_off_would_be_seen(kind, what, shift):
    schedule = SCHEDULES[kind]
    found = errors(vp_network(what, schedule, shift), VP(what, schedule), schedule, "float64")
    # The network has no time before the first or after the last.
    moved = found[1:] if shift < 0 else found[:-1]
    finer = 1000 / schedule.num_times  # The first times are the closest to each other.
    assert moved.min() > 10 * finer**2 * TOLERANCE and np.median(moved) > 1e-3 * finer


@pytest.mark.parametrize("kind", SCHEDULES)
def test_times_of_the_schedule_are_whole_and_others_lie_between(kind):
    schedule = SCHEDULES[kind]
    told = jax.jit(jax.vmap(lambda sigma: VP(schedule=schedule)(sigma).c_noise))
    sigma = schedule.sigma[1:]
    np.testing.assert_array_equal(told(jnp.float32(sigma)), np.arange(schedule.num_times))
    np.testing.assert_array_equal(
        told(jnp.float32([0, 0.5 * sigma[0], 2 * sigma[-1]])), [0, 0, schedule.num_times - 1]
    )
    share = np.array([0.1, 0.5, 0.9])
    mixed = sigma[:-1, None] ** (1 - share) * sigma[1:, None] ** share
    between = np.asarray(told(jnp.float32(mixed.ravel())))
    assert np.all(np.diff(between) > 0)
    expected = (np.arange(schedule.num_times - 1)[:, None] + share).ravel()
    np.testing.assert_allclose(between, expected, atol=2e-3)


def test_edm_is_bit_equal_to_its_formula():
    """Old numbers stay: c_skip z + c_out F(c_in z, c_noise), in this order of operations."""
    z = 3 * jax.random.normal(jax.random.key(0), (50, *SHAPE))
    sigma = jnp.exp(jax.random.normal(jax.random.key(1), (50,)) * 2)

    def network(weights, x, noise_levels, **_):
        return jnp.tanh(weights * x + noise_levels[0])

    def formula(z, sigma):
        variance = sigma**2 + 0.5**2
        output = network(1.3, 1 / jnp.sqrt(variance) * z, (jnp.log(sigma) / 4)[None])
        return 0.5**2 / variance * z + sigma * 0.5 / jnp.sqrt(variance) * output

    prior = NetworkDenoiser(1.3, network)
    for transform in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
        found, expected = transform(prior.at_sigma)(z, sigma), transform(formula)(z, sigma)
        np.testing.assert_array_equal(found, expected)


def test_clipping_cuts_the_image_alone():
    x = jnp.linspace(-2, 2, 12).reshape(SHAPE)
    free, cut = (
        denoiser_from(lambda x, time: x, VP("x_0", clip=clip))(x, jnp.int32(10))
        for clip in (False, True)
    )
    assert jnp.abs(free).max() > 1.9
    np.testing.assert_array_equal(cut, jnp.clip(free, -1, 1))


@pytest.mark.parametrize("make", [lambda: VP("noise"), lambda: VE(noise="t"), lambda: EDM(0.0),  # type: ignore
                                  lambda: Flow(-1.0), lambda: Schedule(kind="sqrt")])  # type: ignore # fmt: skip
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"^[^\n]*; use [^\n]*$"):
        make()


def test_the_time_has_the_right_derivative_on_the_grid():
    sigma = jnp.asarray(Schedule().sigma, jnp.float32)
    slope = jax.vmap(jax.grad(lambda one: VP()(one).c_noise))
    at, right = slope(sigma[2:-1]), slope(1.0001 * sigma[2:-1])
    np.testing.assert_allclose(at, right, rtol=1e-2)
    assert np.isfinite(slope(jnp.asarray([0.0, 1e-5, sigma[1], sigma[-1], 1e4]))).all()
