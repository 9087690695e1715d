"""A user's own network as a prior: functions, Flax modules, batches and mistakes."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.diffusion.given_networks import denoiser_from
from lavps_jax.diffusion.parameterisations import EDM, VE, VP, Flow
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError

X = jax.random.normal(jax.random.key(0), (4, 3, 2))
T = jnp.int32(300)
KERNEL = jax.random.normal(jax.random.key(1), (2, 2))


def network(weights, x, time):
    return x @ weights + time / 1000


class OwnNNX(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(KERNEL)

    def __call__(self, x, time):
        return x @ self.kernel[...] + time / 1000


class OwnLinen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x, time):
        return x @ self.param("kernel", flax.linen.initializers.normal(), (2, 2)) + time / 1000


def expected():
    """x_0 from the noise that `network` predicts of the time 299, as published networks count."""
    schedule = Schedule()
    a, s = (np.sqrt(one[300]) for one in (schedule.alpha_bar, 1 - schedule.alpha_bar))
    return (X - s * network(KERNEL, X, 299.0)) / a


def test_functions_and_flax_modules_are_the_same_prior():
    def of_a_batch(weights, x, time):
        assert x.shape == (1, *X.shape) and time.shape == (1,)
        return network(weights, x, time[:, None, None, None])

    priors = [
        denoiser_from(lambda x, time: network(KERNEL, x, time)),
        denoiser_from(network, "eps", weights=KERNEL),
        denoiser_from(of_a_batch, "eps", weights=KERNEL, batched=True),
        denoiser_from(OwnNNX()),
        denoiser_from(OwnLinen().apply, weights={"params": {"kernel": KERNEL}}),
    ]
    for prior in priors:
        found = jax.jit(type(prior).__call__)(prior, X, T)
        np.testing.assert_allclose(found, expected(), rtol=1e-4, atol=1e-4)
    for prior in priors[1:]:  # Their arrays are leaves: derivatives reach them.
        slope = jax.grad(lambda prior: jnp.sum(prior(X, T)))(prior)
        (found,) = jax.tree.leaves(slope)
        a, s = (np.sqrt(one[300]) for one in (prior.schedule.alpha_bar, 1 - Schedule().alpha_bar))
        by_hand = -s / a * np.tile(np.sum(X, (0, 1))[:, None], (1, 2))
        np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_modules_of_equal_structure_share_a_program():
    first, second = (jax.tree.structure(denoiser_from(OwnNNX())) for _ in range(2))
    assert first == second and hash(first) == hash(second)


def test_the_class_of_a_problem_is_handed_on():
    def of_a_class(x, time, label=None):
        return jnp.zeros_like(x) if label is None else jnp.full_like(x, label[..., 1].sum())

    label = jnp.array([0.0, 2.0])
    for batched in (False, True):
        prior = denoiser_from(of_a_class, "x_0", batched=batched)
        assert jnp.all(prior(X, T) == 0) and jnp.all(prior(X, T, label) == 2)


def test_words_name_parameterisations_with_the_schedule_of_the_network():
    cosine = Schedule(kind="cosine")
    for word, wanted in (("v", VP("v", cosine)), ("flow", Flow()), ("edm", EDM()), (VE(), VE())):
        prior = denoiser_from(network, word, schedule=cosine)
        assert (prior.parameterisation, prior.schedule) == (wanted, cosine)
    assert denoiser_from(network, VP("v", cosine)).schedule == cosine
    assert denoiser_from(network).parameterisation == VP("eps", Schedule())


def test_mistakes_are_told_in_one_line():
    with pytest.raises(UserError, match=r"^parameterisation: got 'noise'; use 'eps', 'v'[^\n]*$"):
        denoiser_from(network, "noise")
    with pytest.raises(UserError, match="^network: got a ArrayImpl; give a function"):
        denoiser_from(KERNEL)  # type: ignore[arg-type]
    for wrong in (lambda x, time: x[..., :1], lambda x, time: jnp.moveaxis(x, -1, 0)):
        with pytest.raises(UserError, match="^output of the network: got shape .*; give float"):
            denoiser_from(wrong)(X, T)


def test_a_module_is_put_in_evaluation_mode():
    class Dropping(OwnNNX):
        def __init__(self):
            super().__init__()
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x, time):
            return self.dropout(super().__call__(x, time))

    np.testing.assert_allclose(denoiser_from(Dropping())(X, T), expected(), rtol=1e-4, atol=1e-4)


def test_an_object_without_weights_is_evaluated_as_it_is_now():
    class Scaled:
        scale = 1.0

        def __call__(self, x, time):
            return self.scale * x

    prior = denoiser_from(own := Scaled(), "x_0")
    np.testing.assert_allclose(2 * prior(X, T), [setattr(own, "scale", 2.0), prior(X, T)][1])


@pytest.mark.parametrize("output", [None, (X, X), X.astype(complex)])
def test_an_output_that_is_no_array_of_floats_is_told(output):
    with pytest.raises(UserError, match="^output of the network: got a .*; give one array of fl"):
        denoiser_from(lambda x, time: output)(X, T)
