"""Schedule and bridge against the published numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import Golden, cases

from lavps_jax.diffusion.bridges import (
    BridgeCoefficients,
    add_noise,
    bridge_coefficients,
    bridge_draw,
)
from lavps_jax.diffusion.schedules import Schedule, time_grid

BRIDGE = Golden("bridge")
TABLE = Schedule().alpha_bar


def float32(coefficients: BridgeCoefficients) -> BridgeCoefficients:
    return BridgeCoefficients(*(jnp.asarray(c, jnp.float32) for c in coefficients))


def test_table_and_grids_are_equal_bit_for_bit(golden):
    schedule = golden("schedule")
    np.testing.assert_array_equal(TABLE, schedule["acp_f8"])
    for count in cases("schedule", r"timesteps_(\d+)"):
        np.testing.assert_array_equal(time_grid(int(count)), schedule[f"timesteps_{count}"])


def _exact_c_l(s: int, t: int, l: int, eta: float) -> float:  # noqa: E741
    """sqrt((1 - a(s, t) - std^2) / (1 - a(s, l))), of which only the root is rounded."""
    at_s, at_t, at_l = (Fraction(float(TABLE[time])) for time in (s, t, l))
    a_st, a_tl, a_sl = at_t / at_s, at_l / at_t, at_l / at_s
    variance = Fraction(float(eta)) ** 2 * (1 - a_tl) * (1 - a_st) / (1 - a_sl)
    return math.sqrt((1 - a_st - variance) / (1 - a_sl))


@pytest.mark.parametrize("case", range(len(BRIDGE["eta"])))
def test_bridge(case):
    s, t, l = (int(BRIDGE[key][case]) for key in ("s", "t", "ell"))  # noqa: E741
    c = bridge_coefficients(TABLE, s, t, l, float(BRIDGE["eta"][case]))
    # The published difference of 1 - a(s, t) and std^2 has lost digits of the smallest c_l, 6e-7.
    np.testing.assert_allclose(c.c_l, BRIDGE["coeff_xell"][case], rtol=1e-13, atol=2e-14)
    np.testing.assert_allclose(c.c_l, _exact_c_l(s, t, l, BRIDGE["eta"][case]), rtol=1e-14)
    np.testing.assert_allclose(c.c_s, BRIDGE["coeff_xs"][case], rtol=1e-13)
    np.testing.assert_allclose(c.std, BRIDGE["std_f8"][case], rtol=1e-13)
    BRIDGE.close("std", np.float32(c.std), case)
    x_l, x_s, noise = (BRIDGE.image(key)[case] for key in ("x_ell", "x_s", "noise"))
    BRIDGE.close("mean", bridge_draw(jnp.zeros_like(noise), float32(c), x_l, x_s), case)
    BRIDGE.close("sample", bridge_draw(noise, float32(c), x_l, x_s), case)


def test_bridge_with_times_of_its_own_for_each_image():
    c = bridge_coefficients(TABLE, 0, BRIDGE["batch_t"], BRIDGE["batch_ell"], 1.0)
    x_l, x_s = BRIDGE.image("batch_x_ell"), BRIDGE.image("batch_x_s")
    mean = jax.vmap(bridge_draw)(jnp.zeros_like(x_l), float32(c), x_l, x_s)
    BRIDGE.close("batch_mean", mean)
    BRIDGE.close("batch_std", np.float32(c.std))


@pytest.mark.parametrize("case", range(len(BRIDGE["ddim_eta"])))
def test_ddim_step_is_the_bridge_to_the_prediction(case):
    t, t_prev = int(BRIDGE["ddim_t"][case]), int(BRIDGE["ddim_t_prev"][case])
    c = bridge_coefficients(TABLE, 0, t_prev, t, float(BRIDGE["ddim_eta"][case]))
    noise, x_t, x_0 = (BRIDGE.image(f"ddim_{key}")[case] for key in ("noise", "x", "x0_pred"))
    BRIDGE.close("ddim_out", bridge_draw(noise, float32(c), x_t, x_0), case)


def test_forward_process():
    noise, x_0, t = BRIDGE.image("marg_noise"), BRIDGE.image("marg_x0"), BRIDGE["marg_t"]
    x_t = jax.vmap(lambda eps, x, t: add_noise(eps, x, t, Schedule()))(noise, x_0, jnp.asarray(t))
    BRIDGE.close("marg_out", x_t)
