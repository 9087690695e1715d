from __future__ import annotations

import dataclasses
from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jax.flatten_util import ravel_pytree

from lavps_jax.errors import UserError
from lavps_jax.networks import AmortizedNetworkConfig, PureModel, UNetConfig, split, trainable_mask

UNET = UNetConfig(
    block_channels=(4, 8), attention=(False, True), layers_per_block=1, norm_num_groups=2
)


@pytest.fixture(params=["hdit", "unet", "palette"])
def config(request, tiny_config):
    if request.param == "palette":
        return AmortizedNetworkConfig(tiny_config)
    return tiny_config if request.param == "hdit" else UNET


def test_networks_built_apart_are_equal(config):
    first, first_weights = split(config.build(nnx.Rngs(0)))
    second, second_weights = split(config.build(nnx.Rngs(1)))
    assert first == second and hash(first) == hash(second)
    assert jax.tree.structure(first_weights) == jax.tree.structure(second_weights)


def test_settings_that_are_not_there_are_refused():
    graphdef = split(nnx.eval_shape(lambda: UNET.build(nnx.Rngs(0))))[0].graphdef
    for settings in ({"compute_dtype": "float16"}, {"remat": "all"}):
        with pytest.raises(UserError, match=f"^{next(iter(settings))}: got .*; use one of"):
            PureModel(graphdef, **settings)


def test_another_shape_is_another_model(tiny_config):
    other = dataclasses.replace(tiny_config, mapping_depth=2)
    dropped = dataclasses.replace(
        tiny_config, levels=tuple(dataclasses.replace(x, dropout=0.0) for x in tiny_config.levels)
    )
    models = {split(c.build(nnx.Rngs(0)))[0] for c in (tiny_config, other, dropped, UNET)}
    assert len(models) == 4


def test_equal_models_are_traced_once(tiny_config):
    num_traces = 0

    def evaluate(pure_model: PureModel, weights, x):
        nonlocal num_traces
        num_traces += 1
        return pure_model(weights, x, jnp.zeros(1))

    jitted = jax.jit(evaluate, static_argnums=0)
    for seed in range(3):
        pure_model, weights = split(tiny_config.build(nnx.Rngs(seed)))
        jitted(pure_model, weights, jnp.ones((8, 8, 3)))
    assert num_traces == 1


def test_pure_model_equals_the_network(tiny_config, perturb):
    model = tiny_config.build(nnx.Rngs(0))
    pure_model, weights = split(model)
    noisy = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (8, 8, 3))
    out = jax.jit(pure_model)(noisy, x, jnp.array([0.1]))
    nnx.update(model, noisy)
    assert np.abs(out).max() > 0.1
    np.testing.assert_allclose(
        jax.jit(lambda x: model(x, jnp.array([0.1])))(x), out, rtol=1e-4, atol=1e-5
    )


def test_only_fourier_frequencies_are_not_trained(tiny_config, perturb):
    pure_model, weights = split(tiny_config.build(nnx.Rngs(0)))
    weights = perturb(weights)
    mask = trainable_mask(weights)
    assert jax.tree.structure(mask) == jax.tree.structure(weights)

    def loss(weights):
        return jnp.sum(pure_model(weights, jnp.ones((8, 8, 3)), jnp.array([0.1])) ** 2)

    gradient = nnx.to_flat_state(jax.jit(jax.grad(loss))(weights))
    fixed = set()
    for (path, keep), (_, slope) in zip(nnx.to_flat_state(mask), gradient, strict=True):
        if jax.tree.leaves(keep) == [True]:
            assert np.abs(slope[...]).max() > 0, path
        else:
            fixed.add(path)
            np.testing.assert_array_equal(slope[...], 0)
    assert fixed == {("time_emb", "weight"), ("aug_emb", "weight")}


def evaluated(pure_model, config, weights):
    """Some input through a network of any kind, one array."""
    x = jax.random.normal(jax.random.key(0), (16, 16, 3))
    if isinstance(config, AmortizedNetworkConfig):
        sigma = jnp.float32(0.7)
        return jnp.stack(pure_model(weights, x, x[::-1], 0.3 * x, sigma, 0.5 * sigma))
    return pure_model(weights, x, jnp.array([0.1]))


def relative_error(found, wanted):
    return float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))


def in_both_precisions(config, evaluate, perturb):
    whole, weights = split(config.build(nnx.Rngs(0)))
    models = (dataclasses.replace(whole, compute_dtype=one) for one in ("bfloat16", "float32"))
    return [jax.jit(partial(evaluate, model, config))(perturb(weights)) for model in models]


def test_half_precision_is_near(config, perturb):
    half, whole = in_both_precisions(config, evaluated, perturb)
    assert half.dtype == jnp.float32 and 1e-4 < relative_error(half, whole) < 3e-2


def gradient(model, config, weights):
    return jax.grad(lambda weights: jnp.sum(evaluated(model, config, weights) ** 2))(weights)


def test_gradients_of_half_precision_are_near_and_not_half_themselves(tiny_config, perturb):
    found = in_both_precisions(tiny_config, gradient, perturb)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    half, whole = (ravel_pytree(one)[0] for one in found)
    assert 1e-4 < relative_error(half, whole) < 5e-2


def equations(jaxpr):
    """All that is computed."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def in_half(evaluate, config):
    """What `evaluate` computes in half precision, by name."""
    model, weights = split(config.build(nnx.Rngs(0)))
    model = dataclasses.replace(model, compute_dtype="bfloat16")
    found = defaultdict(list)
    for one in equations(jax.make_jaxpr(partial(evaluate, model, config))(weights).jaxpr):
        found[one.primitive.name].append(one)
    return found


def dtypes(equation):
    return {str(one.aval.dtype) for one in equation.invars}


def test_half_precision_is_that_of_every_product_of_tokens(config):
    """One array of float32 would make all that follows wide, with nothing gained."""
    found = in_half(evaluated, config)
    products = [(len(one.outvars[0].aval.shape), one) for one in found["dot_general"]]
    tokens = [dtypes(one) for ndim, one in products if ndim >= 2]
    assert len(tokens) > 9 and all(one == {"bfloat16"} for one in tokens)
    # But not those of the noise levels, of which neighbours are closer than that.
    assert any("float32" in dtypes(one) for ndim, one in products if ndim == 1)
    # Nor norms and softmax.
    sensitive = [dtypes(one) for name in ("square", "rsqrt", "exp") for one in found[name]]
    assert len(sensitive) > 9 and all(one == {"float32"} for one in sensitive)


def test_sums_of_gradients_are_wide(config):
    """In half precision the gradient of a bias would stop to grow at 256 times its parts."""
    sums = in_half(gradient, config)["reduce_sum"]
    long = [one for one in sums if one.invars[0].aval.size > 8 * one.outvars[0].aval.size]
    assert len(long) > 9 and all(dtypes(one) == {"float32"} for one in long)


def test_parameters_are_rounded_and_frequencies_are_not(config, perturb):
    model, weights = split(config.build(nnx.Rngs(0)))
    weights = perturb(weights)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (model.rounded(weights), weights)),
                                      strict=True))  # fmt: skip
    half = dataclasses.replace(model, compute_dtype="bfloat16")
    trained = jax.tree.leaves(trainable_mask(weights))
    for keep, leaf in zip(trained, jax.tree.leaves(half.rounded(weights)), strict=True):
        assert leaf.dtype == (jnp.bfloat16 if keep else jnp.float32)
    # Rounded beforehand or in every call, it is the same network.
    evaluate = jax.jit(partial(evaluated, half, config))
    np.testing.assert_array_equal(evaluate(half.rounded(weights)), evaluate(weights))


def test_what_is_computed_again_is_not_kept(config):
    kept, weights = split(config.build(nnx.Rngs(0)))

    def residuals(model):
        def backward(weights):
            return jax.vjp(lambda weights: evaluated(model, config, weights), weights)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, weights)))

    assert residuals(dataclasses.replace(kept, remat="layers")) < 0.6 * residuals(kept)
    # Without marks all of the network would be computed again at once.
    marks = str(jax.make_jaxpr(lambda weights: evaluated(kept, config, weights))(weights))
    assert marks.count("name=layer") >= 3


def test_computing_again_gives_the_same_gradient(tiny_config, perturb):
    kept, weights = split(tiny_config.build(nnx.Rngs(0)))
    models = dataclasses.replace(kept, remat="layers"), kept
    again, once = (
        ravel_pytree(jax.jit(partial(gradient, model, tiny_config))(perturb(weights)))[0]
        for model in models
    )
    # Of all weights together: some have no influence, and rounding errors for a gradient.
    assert relative_error(again, once) < 1e-5
