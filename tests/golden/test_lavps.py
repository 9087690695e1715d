"""The published run of LAVPS, replayed with its noise: each step alone, then all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from golden_runs import (
    batch_of_one,
    draws_of,
    in_float64,
    inner_problem,
    mgdm_of,
    noise_of,
    noise_of_hidden_entries,
    rows_of,
)

from lavps_jax.samplers.mgdm_rows import make_block
from lavps_jax.samplers.starts import Amortized, ZeroShot
from lavps_jax.samplers.variational import block_loss


def test_lavps(golden, prior, palette):
    """The published comparison gives each start a draw of its own, here both get the same: the
    losses of both starts are compared with the published ones, and the winner's draw is used."""
    stored, (_, network) = golden("traj_lavps"), palette
    problem = jax.tree.map(lambda leaf: leaf[0], stored.problems("y", "img"))
    hidden = noise_of_hidden_entries(batch_of_one(problem)[0])
    samplers = [mgdm_of(stored, network), mgdm_of(stored)]
    steps = [jax.jit(type(sampler).step) for sampler in samplers]
    solvers = [inner_problem(prior, start) for start in (network, ZeroShot())]
    rows = [list(rows_of(sampler)) for sampler in samplers]

    def compare(networks, problem, state, row, bridge, eps):
        """The losses of both starts, (2,)."""
        (prior, network), row = networks, row.choose(jnp.zeros((), eps.dtype))
        x_t = row.bridge.c_l * state.x_t + row.bridge.c_s * state.x_0 + row.bridge.std * bridge
        block = make_block(row, state.x_0, x_t)

        def loss_fn(mu, rho, eps):
            return block_loss(mu, rho, eps, prior, problem, block)

        prepared = network.prepare(problem)
        starts = (one(problem, prepared, block, eps[0], loss_fn) for one in (network, ZeroShot()))
        return jnp.stack([loss_fn(*one, e) for one, e in zip(starts, eps, strict=True)])

    compare_exactly = in_float64(compare, (prior, network))
    eps = stored.image("initial_noise")[0]
    whole = state = jax.jit(type(samplers[0]).init)(samplers[0], eps, prior, problem)
    stored.close("init_x0", state.x_0, 0)
    repeats = samplers[0].num_gibbs
    winners = stored["step_best_idx"].reshape(-1, repeats)
    assert len(winners) == len(rows[0])
    for k, best in enumerate(winners[:, 0]):
        assert set(winners[k]) == {best}, "the repetitions of a step take other starts"
        first, last = k * repeats, (k + 1) * repeats - 1
        # Outside the amortized range (-1) both samplers are the same program.
        winner, noise = int(best != 0), noise_of(stored, k)
        segment, row = rows[winner][k]
        assert isinstance(samplers[winner].start(segment.settings), Amortized) == (best == 0)
        if best >= 0:
            compared = [draws for _, draws in draws_of(stored, k) if len(draws) == 2]
            draws = compared[0]
            one = batch_of_one(problem, state, row, noise.bridge, draws)
            losses = compare_exactly(*one)[0]
            stored.close("step_bestof_losses", losses + hidden, first)
            assert int(np.argmin(losses)) == best
            loss_eps = noise.gibbs.loss_eps.at[:, 0].set(
                jnp.stack([one[winner] for one in compared])
            )
            noise = noise._replace(gibbs=noise.gibbs._replace(loss_eps=loss_eps))
        losses, x_tau = solvers[winner](*batch_of_one(problem, state, row, noise))
        stored.close("step_losses", losses[0] + hidden, (first, slice(losses.shape[1])))
        stored.close("step_x_tau", x_tau, first)
        for start in (state, whole):
            new = steps[winner](samplers[winner], noise, start, prior, problem, segment, row)
            stored.close("step_x_0", new.x_0, (last, 0))
            stored.close("step_x_t", new.x_t, (last, 0))
        whole = new
        x_t, x_0 = (stored.image(f"step_x_{name}")[last, 0] for name in ("t", "0"))
        state = state._replace(x_t=x_t, x_0=x_0)
    stored.close("final_x0", samplers[0].finish(whole, prior, problem), 0)
