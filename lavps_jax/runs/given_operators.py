"""The operators of measurements that a user has: fixed ones, or with arrays that come with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from lavps_jax.config.settings import SampleConfig
from lavps_jax.errors import UserError
from lavps_jax.operators import Blur, CircularBlur, MeasurementOperator
from lavps_jax.operators.blur import check_kernel_sum, squared_kernel
from lavps_jax.operators.families import OperatorFamily


class GivenOperators:
    """The operator of every measurement, with the given arrays.

    Args:
      config: of the run; its operator family, and the shape of images if it has one.
      y_shape: of one measurement.
      count: of measurements, B.
      arrays: of the operator by name, such as "kernel" or "parts/0/mask": one for all measurements,
        or stacked on axis 0.

    Raises:
      UserError: if an array is missing, too much, or of a wrong shape, type or values.
    """

    def __init__(
        self,
        config: SampleConfig,
        y_shape: tuple[int, ...],
        count: int,
        arrays: Mapping[str, np.ndarray],
    ):
        x_shape = _image_shape(config, y_shape)
        template = config.operator.draw(jax.random.key(0), x_shape)
        fields, self._structure = _named(template)
        kernels = _kernels(template)
        for name in arrays.keys() - fields.keys():
            known = ", ".join(["y", "x_0", *fields])
            raise UserError("observations", f'array "{name}"', f"give only {known}")
        for name in _random_fields(config.operator, x_shape) - arrays.keys():
            remedy = f'give an .npz file that holds it as "{name}", or an operator that draws '
            remedy += "nothing: operator:identity, operator:super-resolution, "
            remedy += "operator:gaussian-blur, operator:kernel-file, operator:mask-file, ..."
            raise UserError("observations", f"no {name} of the operator", remedy)
        self._leaves: list[np.ndarray] = []
        for name, value in fields.items():
            array = arrays.get(name, np.asarray(value))
            if name in kernels & arrays.keys():
                array = _without_channel(array, count)
            if array.ndim == value.ndim:
                array = array[None]
            elif array.ndim != value.ndim + 1 or len(array) != count:
                remedy = f"give {value.ndim} axes, or {value.ndim + 1} with {count} on the first"
                raise UserError(name, f"shape {array.shape}", remedy)
            if np.iscomplexobj(array) and not np.iscomplexobj(value):
                raise UserError(name, f"dtype {array.dtype}", "give real numbers")
            if value.dtype.kind in "ui" and np.any(array != np.rint(array)):
                raise UserError(name, "numbers with fractions", "give whole numbers")
            if name in kernels & arrays.keys():
                check_kernel_sum(name, jnp.asarray(array))
                array = np.asarray(squared_kernel(jnp.asarray(array)))
            self._leaves.append(array.astype(value.dtype))
        self.num_different = max(map(len, self._leaves), default=1)
        """How many operators there are: one for all measurements, or one for each."""
        for i in range(self.num_different if arrays else 0):
            jax.tree.map(lambda leaf: leaf[0], self.of(np.array([i]))).check()

    def of(self, rows: Int[np.ndarray, " b"]) -> MeasurementOperator:
        """Those of some measurements, leaves (b, ...)."""
        chosen = [leaf[rows if len(leaf) > 1 else 0 * rows] for leaf in self._leaves]
        # Unflattening does not look at shapes; building does.
        return dataclasses.replace(jax.tree.unflatten(self._structure, map(jnp.asarray, chosen)))


def _named(operator: MeasurementOperator) -> tuple[dict[str, Any], Any]:
    """Arrays of an operator by name, such as "kernel" or "parts/0/mask"."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(operator)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True)), structure


def _kernels(operator: MeasurementOperator) -> set[str]:
    """Names of the arrays that are kernels of a blur."""

    def is_blur(node: Any) -> bool:
        return isinstance(node, Blur | CircularBlur)

    nodes, _ = jax.tree_util.tree_flatten_with_path(operator, is_leaf=is_blur)
    paths = [(*path, jax.tree_util.GetAttrKey("kernel")) for path, node in nodes if is_blur(node)]
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}


def _without_channel(kernel: np.ndarray, count: int) -> np.ndarray:
    """A kernel (k, l, 1) or a stack (B, k, l, 1) without its last axis; others as they are."""
    height, width = (*kernel.shape, 0, 0)[:2]
    one = kernel.ndim == 3 and (height == width or height != count)
    return kernel[..., 0] if kernel.shape[-1:] == (1,) and (one or kernel.ndim == 4) else kernel


def _random_fields(family: OperatorFamily, x_shape: tuple[int, ...]) -> set[str]:
    """Names of the arrays that are drawn: those that differ between keys."""
    draws = [_named(family.draw(jax.random.key(seed), x_shape))[0] for seed in range(4)]
    return {
        name
        for name in draws[0]
        if any(not np.array_equal(draws[0][name], other[name]) for other in draws[1:])
    }


def _image_shape(config: SampleConfig, y_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W, C) of the image behind a measurement."""
    if config.image_shape is not None:
        return config.image_shape
    shape = config.operator.image_shape(y_shape)
    if shape is None:
        remedy = "give images (B, H, W, C), or --image-shape H W C of the image"
        raise UserError("y", f"shape {y_shape} per image", remedy)
    return shape
