"""The law checker accepts good operators and names what is wrong with bad ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.operators import (
    FunctionOperator,
    Identity,
    Inpainting,
    LinearOperator,
    SuperResolution,
    from_function,
)
from lavps_jax.testing import check_operator, operator_findings

X_SHAPE = (8, 12, 3)
KEY = jax.random.key(0)


class ScaledAdjoint(SuperResolution):
    def adjoint(self, y):
        return 1.001 * super().adjoint(y)


class PinvForAdjoint(SuperResolution):
    def adjoint(self, y):
        return self.pinv(y)


class FlippedAdjoint(Identity):
    def adjoint(self, y):
        return y[::-1]


class AdjointOfTheWrongShape(SuperResolution):
    def adjoint(self, y):
        return y


class TiltedPinv(SuperResolution):
    def pinv(self, y):
        return 1.01 * super().pinv(y)

    def adjoint(self, y):
        return super().pinv(y) / self.factor**2


class Affine(LinearOperator):
    def forward(self, x):
        return x + 0.1

    def adjoint(self, y):
        return y


class LeakyProject(Inpainting):
    def project(self, y):
        return 0.5 * y


class TooManyObserved(Identity):
    def num_observed(self):
        return jnp.asarray(1e6)


class WrongShape(Identity):
    @property
    def y_shape(self):
        return (1, 2, 3)


class Forgetful(LinearOperator):
    """Remembers calls in an array it shares with itself."""

    count: np.ndarray

    def forward(self, x):
        self.count[...] += 1
        return x


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (ScaledAdjoint(4, x_shape=X_SHAPE), "adjoint is not the transpose"),
        (PinvForAdjoint(4, x_shape=X_SHAPE), "adjoint is not the transpose"),
        (FlippedAdjoint(x_shape=X_SHAPE), "adjoint is not the transpose"),
        (AdjointOfTheWrongShape(4, x_shape=X_SHAPE), "adjoint returned the shape"),
        (TiltedPinv(4, x_shape=X_SHAPE), "A pinv"),
        (Affine(x_shape=X_SHAPE), "not linear"),
        (LeakyProject(jnp.ones((8, 12, 1)), x_shape=X_SHAPE), "project"),
        (TooManyObserved(x_shape=X_SHAPE), "num_observed"),
        (WrongShape(x_shape=X_SHAPE), "y_shape"),
        (Forgetful(np.zeros(1), x_shape=X_SHAPE), "changed the operator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_operator_is_named(operator, message):
    with pytest.raises(AssertionError, match=message) as error:
        check_operator(KEY, operator, exact_pinv=True)
    assert type(operator).__name__ in str(error.value)


def nan_at_grey(_, x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1))


def nothing(_, x):
    return 0.0 * x


def test_a_gradient_that_is_not_finite_is_found():
    operator = from_function(nan_at_grey, X_SHAPE)
    findings = operator_findings(KEY, operator)
    assert findings == ["the gradient through forward is not finite at a grey image"]


def test_a_zero_operator_is_found():
    operator = FunctionOperator((), nothing, x_shape=X_SHAPE)
    assert "zero everywhere" in operator_findings(KEY, operator)[0]


def test_integer_data_is_left_alone():
    """Indices must not be scaled by the checker."""
    operator = FunctionOperator({"rows": jnp.asarray([1, 5])}, take_rows, x_shape=X_SHAPE)
    assert operator_findings(KEY, operator, exact_pinv=True) == []


def take_rows(data, x):
    return x[data["rows"]]
