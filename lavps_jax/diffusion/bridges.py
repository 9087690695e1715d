"""Noising, and bridges between times of the diffusion. Method section 3."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.schedules import Schedule


class BridgeCoefficients(NamedTuple):
    """q(x_t | x_s, x_l) = N(c_l x_l + c_s x_s, std^2 I): float64 on the host, float32 in a run."""

    c_l: Any
    c_s: Any
    std: Any


def bridge_coefficients(
    alpha_bar: np.ndarray,
    s: np.ndarray | int,
    t: np.ndarray | int,
    l: np.ndarray | int,  # noqa: E741
    eta: float | Float[Array, ""],
) -> BridgeCoefficients:
    """Coefficients of the bridge between times s < t < l.

    Implements method section 3 (DDIM family: Song et al. 2021, arXiv:2010.02502). With
    a(u, v) = alpha_bar[v] / alpha_bar[u]:
    std = eta sqrt((1 - a(t, l)) (1 - a(s, t)) / (1 - a(s, l))),
    c_l = sqrt((1 - a(s, t) - std^2) / (1 - a(s, l))), c_s = sqrt(a(s, t)) - c_l sqrt(a(s, l)).

    Written so that eta enters sums of positive terms alone, r = (1 - a(t, l)) / (1 - a(s, l)):
    c_l^2 = (1 - a(s, t)) / (1 - a(s, l)) ((1 - eta^2) r + (1 - r)),
    c_s = sqrt(a(s, t)) r (1 + eta^2 (1 - r)) / (1 + c_l sqrt(a(t, l))),
    where 1 - r = a(t, l) (1 - a(s, t)) / (1 - a(s, l)). No digits are lost near t = 0, in float32
    either, which eta brings along where it is traced.

    Args:
      alpha_bar: float64 (T + 1,).
      s, t, l: integer times, s <= t < l elementwise, broadcastable; t = s gives x_s itself.
      eta: stochasticity in [0, 1].

    Returns:
      Coefficients of the broadcast shape, float64 unless eta is an array of JAX.

    Raises:
      ValueError: if the times are not ordered.
    """
    s, t, l = np.broadcast_arrays(s, t, l)  # noqa: E741
    if not (np.all(s <= t) and np.all(t < l)):
        raise ValueError(f"bridge times: got s={s}, t={t}, l={l}; need s <= t < l")
    xp = jnp if isinstance(eta, jax.Array) else np
    a_st, a_tl = alpha_bar[t] / alpha_bar[s], alpha_bar[l] / alpha_bar[t]
    noise_sl = 1 - alpha_bar[l] / alpha_bar[s]
    share = (1 - a_st) / noise_sl
    r, rest = (1 - a_tl) / noise_sl, a_tl * share
    std = eta * np.sqrt(r * (1 - a_st))
    c_l = np.sqrt(share) * xp.sqrt((1 - eta**2) * r + rest)
    c_s = np.sqrt(a_st) * r * (1 + eta**2 * rest) / (1 + c_l * np.sqrt(a_tl))
    return BridgeCoefficients(c_l, c_s, std)


def bridge_draw(eps: Array, coefficients: Any, x_l: Array, x_s: Array) -> Array:
    """A draw of q(x_t | x_s, x_l) = N(c_l x_l + c_s x_s, std^2 I) from standard normal eps."""
    return coefficients.c_l * x_l + coefficients.c_s * x_s + coefficients.std * eps


def add_noise(eps: Array, x_0: Array, t: Int[Array, ""], schedule: Schedule) -> Array:
    """x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps, of the shape of x_0."""
    signal = jnp.asarray(schedule.alpha_bar**0.5, x_0.dtype)[t]
    noise = jnp.asarray((1 - schedule.alpha_bar) ** 0.5, x_0.dtype)[t]
    return signal * x_0 + noise * eps


def levels(schedule: Schedule, t: Int[Array, ""], dtype: Any) -> tuple[Array, Array]:
    """(sqrt(alpha_bar[t]), sigma_t), float ()."""
    sqrt_alpha_bar = jnp.asarray(schedule.alpha_bar**0.5, dtype)[t]
    return sqrt_alpha_bar, jnp.asarray(schedule.sigma, dtype)[t]


def bridges_between(
    alpha_bar: np.ndarray, low: np.ndarray, high: np.ndarray, eta: float | Float[Array, ""]
) -> BridgeCoefficients:
    """Bridges q(x_low | x_0, x_high), one for each pair; of equal times the identity.

    Args:
      alpha_bar: float64 (T + 1,).
      low, high: times, low <= high elementwise, of one shape.
      eta: stochasticity in [0, 1].
    """
    moves = low < high
    # Any bridge will do where nothing moves: it is not used.
    bridges = bridge_coefficients(
        alpha_bar, 0, np.where(moves, low, 0), np.where(moves, high, 1), eta
    )
    xp = jnp if isinstance(eta, jax.Array) else np
    pairs = zip(bridges, (1.0, 0.0, 0.0), strict=True)
    return BridgeCoefficients(*(xp.where(moves, moving, stay) for moving, stay in pairs))
