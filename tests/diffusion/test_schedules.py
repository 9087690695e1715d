"""Schedule and bridge: ranges, and the laws of the bridge."""

from __future__ import annotations

import numpy as np
import pytest

from lavps_jax.diffusion.bridges import bridge_coefficients
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.errors import UserError

TABLE = Schedule().alpha_bar


def test_kinds_of_schedules():
    t = np.arange(1001) / 1000
    cosine = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    table = Schedule(kind="cosine").alpha_bar
    np.testing.assert_allclose(table[:-1], cosine[:-1] / cosine[0], rtol=1e-6)
    assert table[-1] == np.float32(1e-6)  # The last beta is cut, and so is this.
    trained = Schedule(4000, kind="cosine", least_alpha_bar=0.0).alpha_bar
    np.testing.assert_allclose(trained[4:-1:4], table[1:-1], rtol=1e-6)
    assert trained[-1] == np.float32(trained[-2] * 1e-3) < 1e-9
    betas = (np.sqrt(0.0015) + (np.sqrt(0.0195) - np.sqrt(0.0015)) * np.arange(1000) / 999) ** 2
    table = Schedule(1000, 0.0015, 0.0195, "scaled_linear").alpha_bar
    np.testing.assert_allclose(table[1:], np.cumprod(1 - betas), rtol=1e-6)


@pytest.mark.parametrize("num_steps", [10, 12, 100, 124, 220, 500, 1000])
def test_time_grid_spans_all_times(num_steps):
    times = time_grid(num_steps)
    assert times[0] == 0 and times[-1] == 999 and np.all(np.diff(times) > 0)
    for power in (0.5, 2.0, 4.0):
        times = time_grid(num_steps, power=power)
        assert times[0] == 0 and times[-1] == 999 and np.all(np.diff(times) > 0)


def test_powers_of_an_even_grid():
    roots = np.sqrt(999) * np.arange(28) / 27
    np.testing.assert_array_equal(time_grid(28, power=2.0), np.floor(roots**2 + 1e-9))
    # Of 100 times the first roots are closer than one: 0, .1, .4, .9, ...
    np.testing.assert_array_equal(time_grid(100, power=2.0)[:6], range(6))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("s,t,l", [(0, 1, 2), (0, 10, 20), (10, 300, 999), (500, 501, 1000)])
def test_bridge_keeps_the_marginals(s, t, l, eta):  # noqa: E741
    # x_l given x_s has mean sqrt(a_sl) x_s and variance 1 - a_sl; the bridge must give x_t its own.
    c = bridge_coefficients(TABLE, s, t, l, eta)
    a_sl, a_st = TABLE[l] / TABLE[s], TABLE[t] / TABLE[s]
    np.testing.assert_allclose(c.c_l * np.sqrt(a_sl) + c.c_s, np.sqrt(a_st), rtol=1e-12)
    np.testing.assert_allclose(c.c_l**2 * (1 - a_sl) + c.std**2, 1 - a_st, rtol=1e-9)


def test_bridge_to_its_own_start_is_the_start():
    c = bridge_coefficients(TABLE, 0, 0, 30, 1.0)
    assert (c.c_l, c.c_s, c.std) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("make", [lambda: time_grid(1), lambda: time_grid(1001),
                                  lambda: Schedule(beta_min=0.1, beta_max=0.01),
                                  lambda: Schedule(num_times=4000, kind="cosine"),
                                  lambda: Schedule(least_alpha_bar=-1.0)])  # fmt: skip
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_times_out_of_order_are_refused():
    with pytest.raises(ValueError, match="bridge times"):
        bridge_coefficients(TABLE, 5, 3, 10, 1.0)
