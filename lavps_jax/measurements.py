"""What a sampling run restores: measurements simulated from images, or given in a file."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.config import SampleConfig
from lavps_jax.data import FolderData, load_batch
from lavps_jax.errors import UserError
from lavps_jax.likelihoods import make_problem, simulate
from lavps_jax.operators import (
    LinearOperator,
    MotionBlur,
    OperatorFamily,
    RandomBox,
    RandomPixels,
    SuperResolve,
)
from lavps_jax.types import PRNGKey, Problem

__all__ = ["Measured", "RunKeys", "load_measurements", "run_keys", "simulate_measurements"]

LARGEST = 10.0
"""Measurements of images in [-1, 1] are smaller; pixels from 0 to 255 are larger."""


class Measured(NamedTuple):
    """The measurements of one run.

    Attributes:
      problems: leaves (B, ...).
      index: numbers of the images, int (B,): random keys are folded from them.
      names: one per image.
      x_0: the clean images, float (B, H, W, C), or None where nobody knows them.
    """

    problems: Problem
    index: np.ndarray
    names: list[str]
    x_0: np.ndarray | None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.problems.operator.x_shape


class RunKeys(NamedTuple):
    """The independent random keys of one run."""

    operator: PRNGKey
    noise: PRNGKey
    sampling: PRNGKey


def run_keys(seed: int) -> RunKeys:
    """From the seed of a sampling run."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 3))


def simulate_measurements(config: SampleConfig) -> Measured:
    """Degrades the chosen images of `config.data`; image i depends on the seed and on i alone.

    Raises:
      UserError: if the data are unusable or have fewer images.
    """
    source = config.data.open()
    last = config.first_image + config.num_images
    if last > len(source):
        remedy = f"the data set has {len(source)}"
        raise UserError("first_image + num_images", last, remedy)
    index = np.arange(config.first_image, last)
    images = jnp.asarray(load_batch(source, index))
    keys = run_keys(config.seed)

    def measure(i, x_0):
        key = jax.random.fold_in(keys.operator, i) if config.stochastic else keys.operator
        operator = config.operator.draw(key, x_0.shape)
        return simulate(jax.random.fold_in(keys.noise, i), x_0, operator, config.sigma_y)

    problems = jax.jit(jax.vmap(measure))(jnp.asarray(index), images)
    names = [source.name(int(i)) for i in index]
    return Measured(problems, index, names, np.asarray(images))


def load_measurements(path: str, family: OperatorFamily, sigma_y: float) -> Measured:
    """Reads measurements as they are, without degrading anything.

    Args:
      path: a .npz file with "y", float (B, ...), in the units of images in [-1, 1]; the arrays of
        the operator ("kernel" of a blur, "mask" of an inpainting), one for all measurements or
        stacked on axis 0; and, if known, the clean images "x_0", float (B, H, W, C). Or a folder
        of PNG, JPEG or WebP images of one size, for operators without arrays of their own.
      family: kind of the operator; its random arrays are never drawn here.
      sigma_y: standard deviation of the noise in y.

    Raises:
      UserError: if the file is unusable, an array is missing, too much or of a wrong shape, or a
        value is not finite.
    """
    if Path(path).is_dir():
        source = FolderData(path).open()
        arrays = {"y": load_batch(source, range(len(source)))}
        names = [source.name(i) for i in range(len(source))]
    else:
        arrays = _read_npz(path)
        names = [f"observation-{i:05d}" for i in range(len(arrays["y"]))]
    for name, array in arrays.items():
        _check_finite(name, array)
    if np.abs(arrays["y"]).max() > LARGEST:
        found = f"values up to {np.abs(arrays['y']).max():g}"
        raise UserError("y", found, "give it in the units of images in [-1, 1]")
    y, x_0 = arrays.pop("y"), arrays.pop("x_0", None)
    operators = _operators(family, y, arrays)
    if x_0 is not None and x_0.shape != (len(y), *operators.x_shape):
        remedy = f"give the shape {(len(y), *operators.x_shape)}, or leave it out"
        raise UserError("x_0", f"shape {x_0.shape}", remedy)
    make = jax.jit(jax.vmap(lambda y, op: make_problem(op.project(y), op, sigma_y)))
    return Measured(make(jnp.asarray(y), operators), np.arange(len(y)), names, x_0)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError("observations", path, "give an .npz file or a folder") from error
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        remedy = "give an .npz file of arrays of numbers, as numpy.savez writes it"
        raise UserError("observations", path, remedy) from error
    y = arrays.get("y")
    if y is None or y.ndim < 2 or not len(y):
        found = f"{path} with {sorted(arrays)}" if y is None else f"y of shape {y.shape}"
        raise UserError("observations", found, 'give an array "y" with measurements on axis 0')
    for name, array in arrays.items():
        if name == "mask" and array.dtype.kind in "buif":
            if not np.isin(array, (0, 1)).all() or not array.any():
                found = f"values from {array.min()} to {array.max()}"
                raise UserError(name, found, "give 1 where a pixel was measured and 0 elsewhere")
        elif not np.issubdtype(array.dtype, np.floating):
            remedy = "give floats; images are in [-1, 1]"
            raise UserError(name, f"dtype {array.dtype}", remedy)
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _check_finite(name: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        remedy = "replace it; a pixel that was not measured belongs in the mask of an inpainting"
        raise UserError(name, f"{array[place]} at {place}", remedy)


def _operators(
    family: OperatorFamily, y: np.ndarray, arrays: dict[str, np.ndarray]
) -> LinearOperator:
    """The family's operator with the given arrays, leaves (B, ...)."""
    x_shape = _image_shape(family, y.shape[1:])
    template = family.draw(jax.random.key(0), x_shape)
    fields = {
        field.name: np.ndim(getattr(template, field.name))
        for field in dataclasses.fields(template)
        if field.metadata.get("pytree_node", True)
    }
    for name in arrays.keys() - fields.keys():
        known = ", ".join(["y", "x_0", *fields])
        raise UserError("observations", f'array "{name}"', f"give only {known}")
    if isinstance(family, RandomBox | RandomPixels | MotionBlur):
        for name in fields.keys() - arrays.keys():
            remedy = f'give an .npz file that holds it as "{name}"'
            raise UserError("observations", f"no {name} of the operator", remedy)
    stacked = {}
    for name, ndim in fields.items():
        given = arrays.get(name, np.asarray(getattr(template, name)))
        if given.ndim == ndim:
            given = np.broadcast_to(given, (len(y), *given.shape))
        if given.ndim != ndim + 1 or len(given) != len(y):
            remedy = f"give {ndim} axes, or {ndim + 1} with {len(y)} of them on the first"
            raise UserError(name, f"shape {given.shape}", remedy)
        if name == "mask" and not given.reshape(len(y), -1).any(axis=1).all():
            raise UserError(
                name, "a measurement without any pixel", "give 1 where one was measured"
            )
        stacked[name] = jnp.asarray(given)
    return dataclasses.replace(template, **stacked)


def _image_shape(family: OperatorFamily, y_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W, C) of the image behind a measurement."""
    if len(y_shape) != 3:
        raise UserError("y", f"shape {y_shape} per image", "give images (B, H, W, C)")
    height, width, channels = y_shape
    factor = family.factor if isinstance(family, SuperResolve) else 1
    return height * factor, width * factor, channels
