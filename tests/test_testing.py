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
    cropped,
    nonlinear_operator,
)
from lavps_jax.pytrees import static
from lavps_jax.testing import _inherits_pinv, check_operator, operator_findings

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


class ForgottenWeight(SuperResolution):
    def ridge(self, y, weight):
        return super().ridge(y, 0.9 * weight)


class TooFewSteps(LinearOperator):
    ridge_num_iterations = 1

    def forward(self, x):
        return jnp.cumsum(x, axis=0)


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


class Raising(Identity):
    """Plain mistakes in `method`, a static field."""

    method: str = static()

    def _mistake(self, name):
        if name == self.method:
            raise IndexError(f"no {name}\nhere")

    def adjoint(self, y):
        self._mistake("adjoint")
        return y

    def ridge(self, y, weight):
        self._mistake("ridge")
        return y / (1 + weight)

    def pinv(self, y):
        self._mistake("pinv")
        return y

    def project(self, y):
        self._mistake("project")
        return y

    def num_observed(self):
        self._mistake("num_observed")
        return jnp.asarray(1.0)


class InNumPy(LinearOperator):
    def forward(self, x):
        return jnp.asarray(2 * np.asarray(x))


class Whole(LinearOperator):
    def forward(self, x):
        return jnp.rint(x).astype(jnp.int32)


class Pair(LinearOperator):
    def forward(self, x):
        return x, 2 * x


class PairBack(Identity):
    def adjoint(self, y):
        return y, y


class OneAtATime(LinearOperator):
    """Cannot be stacked: it looks at its data while it is traced."""

    strength: np.ndarray

    def forward(self, x):
        return float(self.strength) * x


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
        (ForgottenWeight(4, x_shape=X_SHAPE), "ridge does not solve its equation"),
        (TooFewSteps(x_shape=X_SHAPE), "ridge does not solve its equation"),
        (InNumPy(x_shape=X_SHAPE), "forward raised TracerArrayConversionError: "),
        (Whole(x_shape=X_SHAPE), "forward returned int32"),
        (Pair(x_shape=X_SHAPE), "forward returned a tuple"),
        (PairBack(x_shape=X_SHAPE), "adjoint returned a tuple"),
        (OneAtATime(np.ones(()), x_shape=X_SHAPE), "forward under jax.vmap raised Concret"),
        (LeakyProject(jnp.ones((8, 12, 1)).at[0].set(0), x_shape=X_SHAPE), "project"),
        (TooManyObserved(x_shape=X_SHAPE), "num_observed"),
        (WrongShape(x_shape=X_SHAPE), "y_shape"),
        (Forgetful(np.zeros(1), x_shape=X_SHAPE), "changed the operator"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_operator_is_named(operator, message):
    with pytest.raises(AssertionError, match=message) as error:
        check_operator(KEY, operator)
    assert type(operator).__name__ in str(error.value)


@pytest.mark.parametrize("method", ["adjoint", "ridge", "pinv", "project", "num_observed"])
def test_what_raises_is_named(method):
    findings = operator_findings(KEY, Raising(method, x_shape=X_SHAPE))
    assert findings == [f"{method} raised IndexError: no {method} here"]


def test_conjugate_gradients_are_not_held_to_a_closed_form():
    """Neither the inherited ones nor those of an operator inside, unless it is asked for."""
    columns = jnp.arange(8)
    hilbert = 1 / (1.0 + columns[:, None] + columns[None])
    rough = FunctionOperator(hilbert, along_columns, x_shape=X_SHAPE)
    inside = cropped(rough, (12, 16, 3), (1, 2))
    assert _inherits_pinv(rough) and _inherits_pinv(inside)
    closed = SuperResolution(4, x_shape=X_SHAPE)
    assert not _inherits_pinv(closed) and not _inherits_pinv(cropped(closed, (12, 16, 3), (1, 2)))
    (finding,) = operator_findings(KEY, rough, exact_pinv=True)
    assert finding.startswith("A pinv(A x) differs from A x")


def along_columns(matrix, x):
    return jnp.einsum("hk,kwc->hwc", matrix, x)


def nan_at_grey(_, x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1))


def nothing(_, x):
    return 0.0 * x


def test_a_gradient_that_is_not_finite_is_found():
    operator = nonlinear_operator(nan_at_grey, X_SHAPE)
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
