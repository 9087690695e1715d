"""Laws that every measurement operator must obey; run them on an operator of your own.

check_operator(jax.random.key(0), my_operator)
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.types import PRNGKey

__all__ = ["check_operator", "operator_findings"]


def check_operator(
    rng_key: PRNGKey,
    operator: MeasurementOperator,
    *,
    rtol: float = 1e-5,
    exact_pinv: bool = False,
) -> None:
    """Raise an AssertionError that lists in plain words every law the operator breaks.

    See `operator_findings` for the laws and the arguments.
    """
    findings = operator_findings(rng_key, operator, rtol=rtol, exact_pinv=exact_pinv)
    if findings:
        raise AssertionError(f"{type(operator).__name__}: " + "; ".join(findings))


def operator_findings(
    rng_key: PRNGKey,
    operator: MeasurementOperator,
    *,
    rtol: float = 1e-5,
    exact_pinv: bool = False,
) -> list[str]:
    """The laws that an operator breaks, one plain sentence each; empty if all hold.

    For every operator: forward gives y_shape, is finite, leaves the operator as it was, gives the
    same again, gives under `jax.vmap` over stacked operators what a loop gives, and has
    a finite gradient; project changes nothing in a noiseless measurement and nothing the second
    time; num_observed is positive and at most the size of y. For a `LinearOperator` also:
    A(a x + b z) = a A x + b A z, Re <A x, y> = <x, adjoint(y)>, and, where asked for,
    A pinv(A x) = A x.

    Args:
      rng_key: key for the random images and measurements.
      operator: operator of one image (not a stack).
      rtol: largest accepted error relative to the norms involved. 1e-5 suits float32; inside
        ``jax.enable_x64(True)`` images are float64 and 1e-12 can be asked for.
      exact_pinv: whether pinv is a closed form or well converged, so that its law holds to rtol.
    """
    key_images, key_noise = jax.random.split(rng_key)
    x, z = jax.random.normal(key_images, (2, *operator.x_shape))
    findings, y = _interface(operator, x, exact_pinv)
    if findings:  # what follows would only repeat the same mistake, or fail to run
        return findings
    noise = jax.random.normal(key_noise, y.shape, y.dtype)
    for law, value in _law_errors(operator, x, z, y, noise, exact_pinv).items():
        error = float(value)
        if math.isnan(error) or error > rtol:
            findings.append(law if math.isinf(error) else f"{law} (relative error {error:.1e})")

    observed = float(operator.num_observed())
    size = (2 if jnp.iscomplexobj(noise) else 1) * math.prod(y.shape)
    if not 0 < observed <= size:
        findings.append(f"num_observed is {observed:g}, outside 1 ... {size}")
    return findings


def _interface(
    operator: MeasurementOperator, x: Array, exact_pinv: bool
) -> tuple[list[str], Array]:
    """What must hold before the laws can be computed, and the measurement of x."""
    leaves, structure = jax.tree.flatten(operator)
    before = [np.array(leaf) for leaf in leaves]
    # Compiled, but with the operator itself and not a copy of it: what forward writes is seen.
    y = jax.jit(operator.forward)(x)
    leaves_after, structure_after = jax.tree.flatten(operator)
    if structure != structure_after or not all(
        np.array_equal(old, new) for old, new in zip(before, leaves_after, strict=True)
    ):
        return ["calling forward changed the operator"], y
    if y.shape != operator.y_shape:
        return [f"y_shape is {operator.y_shape}, but forward returned {y.shape}"], y
    if not np.all(np.isfinite(y)):
        return ["forward of a random image is not finite"], y
    if not np.any(y):
        return ["forward of a random image is zero everywhere"], y

    findings = []
    if isinstance(operator, LinearOperator):
        to_image = {"adjoint": operator.adjoint}
        if exact_pinv:
            to_image["pinv"] = operator.pinv
        for name, method in to_image.items():
            image = jax.eval_shape(method, y)
            if image.shape != x.shape:
                findings.append(f"{name} returned the shape {image.shape}, not x_shape {x.shape}")
            elif image.dtype != x.dtype:
                findings.append(f"{name} returned {image.dtype}, but images are {x.dtype}")
    return findings, y


@functools.partial(jax.jit, static_argnames="exact_pinv")
def _law_errors(
    operator: MeasurementOperator, x: Array, z: Array, y: Array, noise: Array, exact_pinv: bool
) -> dict[str, Float[Array, ""]]:
    """Each law that is broken where its relative error is large, in words, and that error.

    Compiled as a whole: call by call, compiling many small pieces takes several seconds.
    """
    a_x, a_z = operator.forward(x), operator.forward(z)

    def energy(x: Array) -> Array:
        return jnp.sum(jnp.abs(operator.forward(x) - 1.0) ** 2)

    # Different data in every slot, so that a mix-up between slots cannot go unseen.
    operators = [operator, _scaled_data(operator, 0.75)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)
    together = jax.vmap(lambda one, x: one.forward(x))(stacked, jnp.stack([x, z]))
    loop = jnp.stack([a_x, operators[1].forward(z)])
    measured = operator.project(noise)
    errors = {
        "forward gave another result when called again": _error(a_x, y),
        "forward under jax.vmap differs from a loop over the images": _error(together, loop),
        "project changes a noiseless measurement": _error(operator.project(a_x), a_x),
        "project applied twice differs from project applied once": _error(
            operator.project(measured), measured
        ),
    }
    for name, image in (("random", x), ("black", jnp.full_like(x, -1)), ("grey", 0 * x)):
        finite = jnp.all(jnp.isfinite(jax.grad(energy)(image)))
        law = f"the gradient through forward is not finite at a {name} image"
        errors[law] = jnp.where(finite, 0.0, jnp.inf)
    if not isinstance(operator, LinearOperator):
        return errors

    of_sum = operator.forward(1.5 * x - 0.7 * z)
    errors["forward is not linear: A(1.5 x - 0.7 z)"] = _error(of_sum, 1.5 * a_x - 0.7 * a_z)
    # A measurement aligned with A x makes a wrong scale visible, a free one everything else.
    for kind, u in (("y = A x", a_x), ("a random y", noise)):
        difference = jnp.sum(jnp.conj(u) * a_x).real - jnp.sum(operator.adjoint(u) * x)
        size = jnp.linalg.norm(jnp.ravel(a_x)) * jnp.linalg.norm(jnp.ravel(u))
        law = f"adjoint is not the transpose of forward: <A x, y> = <x, adjoint(y)>, {kind}"
        errors[law] = jnp.abs(difference) / size
    if exact_pinv:
        errors["A pinv(A x) differs from A x"] = _error(operator.forward(operator.pinv(a_x)), a_x)
    return errors


def _scaled_data(operator: MeasurementOperator, scale: float) -> MeasurementOperator:
    """The operator with its floating point data times scale; indices and keys stay as they are."""

    def scaled(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf * scale if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(scaled, operator)


def _error(value: Array, reference: Array) -> Float[Array, ""]:
    """Euclidean distance relative to the reference, infinite if anything is not a number."""
    error = jnp.linalg.norm(jnp.ravel(value - reference)) / jnp.linalg.norm(jnp.ravel(reference))
    return jnp.where(jnp.isfinite(error), error, jnp.inf)
