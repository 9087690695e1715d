"""Laws that every measurement operator must obey; run them on an operator of your own.

check_operator(jax.random.key(0), my_operator)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import first_words
from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.types import PRNGKey


def check_operator(
    rng_key: PRNGKey,
    operator: MeasurementOperator,
    *,
    rtol: float = 1e-5,
    exact_pinv: bool | None = None,
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
    exact_pinv: bool | None = None,
) -> list[str]:
    """The laws that an operator breaks, one plain sentence each; empty if all hold.

    For every operator: nothing raises; forward gives one array of y_shape, floating point or
    complex, is finite, leaves the operator as it was, gives the same again, gives under `jax.vmap`
    over stacked operators what a loop gives, and has a finite gradient; project changes nothing in
    a noiseless measurement and nothing the second time; num_observed is positive and at most the
    size of y. For a `LinearOperator` also: A(a x + b z) = a A x + b A z,
    Re <A x, y> = <x, adjoint(y)>, (A^T A + w I) ridge(y, w) = A^T y, and A pinv(A x) = A x. The law
    of ridge is tested at a weight w like the largest eigenvalue of A^T A, where the conjugate
    gradients of the default converge as well.

    Args:
      rng_key: key for the random images and measurements.
      operator: operator of one image (not a stack).
      rtol: largest accepted error relative to the norms involved. 1e-5 suits float32; inside
        ``jax.enable_x64(True)`` images are float64 and 1e-12 can be asked for.
      exact_pinv: whether pinv is a closed form or well converged, so that its law holds to rtol
        and is tested. None: unless it is, here or in an operator inside of this one, the inherited
        conjugate gradients.
    """
    if exact_pinv is None:
        exact_pinv = isinstance(operator, LinearOperator) and not _inherits_pinv(operator)
    key_images, key_noise = jax.random.split(rng_key)
    x, z = jax.random.normal(key_images, (2, *operator.x_shape))
    findings, y = _measure(operator, x)
    if y is None:
        return findings
    noise = jax.random.normal(key_noise, y.shape, y.dtype)
    findings = _call_findings(operator, x, y, exact_pinv)
    if findings:  # what follows would only repeat the same mistake, or fail to run
        return findings
    errors, raised = _attempt(
        "a law", lambda: _law_errors(operator, x, z, y, noise, exact_pinv=exact_pinv)
    )
    findings += raised
    for law, value in (errors or {}).items():
        error = float(value)
        if math.isnan(error) or error > rtol:
            findings.append(law if math.isinf(error) else f"{law} (relative error {error:.1e})")

    observed, raised = _attempt("num_observed", lambda: float(operator.num_observed()))
    size = (2 if jnp.iscomplexobj(noise) else 1) * math.prod(y.shape)
    if observed is not None and not 0 < observed <= size:
        findings.append(f"num_observed is {observed:g}, outside 1 ... {size}")
    return findings + raised


def _attempt(name: str, call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call returns, or None and that it raised."""
    try:
        return call(), []
    except Exception as error:
        return None, [f"{name} raised {type(error).__name__}: {first_words(error)}"]


def _measure(operator: MeasurementOperator, x: Array) -> tuple[list[str], Array | None]:
    """The measurement of x, or what is wrong with it or with how it is made."""
    leaves, structure = jax.tree.flatten(operator)
    before = [np.array(leaf) for leaf in leaves]
    # Compiled, but with the operator itself and not a copy of it: what forward writes is seen.
    y, raised = _attempt("forward", lambda: jax.jit(operator.forward)(x))
    if raised:
        return raised, None
    leaves_after, structure_after = jax.tree.flatten(operator)
    if structure != structure_after or not all(
        np.array_equal(old, new) for old, new in zip(before, leaves_after, strict=True)
    ):
        return ["calling forward changed the operator"], None
    if not isinstance(y, jax.Array):
        return [f"forward returned a {type(y).__name__}, not one array"], None
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return [f"forward returned {y.dtype}, not floating point or complex numbers"], None
    y_shape, raised = _attempt("y_shape", lambda: operator.y_shape)
    if raised:
        return raised, None
    if y.shape != y_shape:
        return [f"y_shape is {y_shape}, but forward returned {y.shape}"], None
    if not np.all(np.isfinite(y)):
        return ["forward of a random image is not finite"], None
    if not np.any(y):
        return ["forward of a random image is zero everywhere"], None
    return [], y


def _call_findings(
    operator: MeasurementOperator, x: Array, y: Array, exact_pinv: bool
) -> list[str]:
    """What raises, or returns another shape or dtype than it must; nothing is computed."""
    images, weight = jnp.stack([x, x]), jnp.ones((), x.dtype)
    calls: list[tuple[str, Array, Callable[[], Any]]] = [
        ("forward under jax.vmap", jnp.stack([y, y]),
         lambda: jax.eval_shape(_forward_of_stack, operator, images)),
        ("the gradient through forward", x, lambda: jax.eval_shape(jax.grad(_energy), x, operator)),
        ("project", y, lambda: jax.eval_shape(operator.project, y)),
    ]  # fmt: skip
    if isinstance(operator, LinearOperator):
        calls += [
            ("adjoint", x, lambda: jax.eval_shape(operator.adjoint, y)),
            ("ridge", x, lambda: jax.eval_shape(operator.ridge, y, weight)),
        ]
        if exact_pinv:
            calls.append(("pinv", x, lambda: jax.eval_shape(operator.pinv, y)))
    findings = []
    for name, like, call in calls:
        found, raised = _attempt(name, call)
        findings += raised or _other_than(name, found, like)
    return findings


def _other_than(name: str, found: Any, like: Array) -> list[str]:
    """How a returned array differs from one like this."""
    if not isinstance(found, jax.ShapeDtypeStruct):
        return [f"{name} returned a {type(found).__name__}, not one array"]
    if found.shape != like.shape:
        return [f"{name} returned the shape {found.shape}, not {like.shape}"]
    return [] if found.dtype == like.dtype else [f"{name} returned {found.dtype}, not {like.dtype}"]


def _inherits_pinv(operator: LinearOperator) -> bool:
    """Whether pinv is that of `LinearOperator`, or of an operator inside for which it is."""

    def is_other(node: Any) -> bool:
        return node is not operator and isinstance(node, MeasurementOperator)

    inside = jax.tree.leaves(operator, is_leaf=is_other)
    return type(operator).pinv is LinearOperator.pinv or any(
        isinstance(one, LinearOperator) and _inherits_pinv(one) for one in inside
    )


def _energy(x: Array, operator: MeasurementOperator) -> Float[Array, ""]:
    return jnp.sum(jnp.abs(operator.forward(x) - 1.0) ** 2)


def _forward_of_stack(operator: MeasurementOperator, images: Array) -> Array:
    """`images[0]` measured by the operator, and `images[1]` by one with other data.

    Different data in every slot, so that a mix-up between slots cannot go unseen.
    """
    both = [operator, _scaled_data(operator, 0.75)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)
    return jax.vmap(lambda one, x: one.forward(x))(stacked, images)


@functools.partial(jax.jit, static_argnames="exact_pinv")
def _law_errors(
    operator: MeasurementOperator, x: Array, z: Array, y: Array, noise: Array, exact_pinv: bool
) -> dict[str, Float[Array, ""]]:
    """Each law that is broken where its relative error is large, in words, and that error.

    Compiled as a whole: call by call, compiling many small pieces takes several seconds.
    """
    a_x, a_z = operator.forward(x), operator.forward(z)
    together = _forward_of_stack(operator, jnp.stack([x, z]))
    loop = jnp.stack([a_x, _scaled_data(operator, 0.75).forward(z)])
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
        finite = jnp.all(jnp.isfinite(jax.grad(_energy)(image, operator)))
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
    weight = _largest_eigenvalue(operator, operator.adjoint(a_x))
    ridge = operator.ridge(noise, weight)
    left = operator.adjoint(operator.forward(ridge)) + weight * ridge
    law = "ridge does not solve its equation (A^T A + w I) ridge(y, w) = A^T y"
    errors[law] = _error(left, operator.adjoint(noise))
    if exact_pinv:
        errors["A pinv(A x) differs from A x"] = _error(operator.forward(operator.pinv(a_x)), a_x)
    return errors


def _largest_eigenvalue(operator: LinearOperator, x: Array) -> Float[Array, ""]:
    """Of A^T A, roughly and from below: a step of the power iteration."""
    size = jnp.linalg.norm(jnp.ravel(operator.adjoint(operator.forward(x))))
    return size / jnp.linalg.norm(jnp.ravel(x))


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
