"""Measurements that a user has: an array file, a folder of images, or one image file."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.build import NetworkShape
from lavps_jax.config import SampleConfig
from lavps_jax.data import FolderData, load_batch
from lavps_jax.data.files import FILE_SUFFIXES, ImageFile, read_image
from lavps_jax.errors import UserError
from lavps_jax.likelihoods import make_problem, photon_problem
from lavps_jax.measurements import Measured
from lavps_jax.noise import PoissonNoise, estimate_sigma_y
from lavps_jax.operators import (
    Brightness,
    MeasurementOperator,
    OperatorFamily,
    compose,
    cropped,
)

__all__ = ["load_measurements"]

LARGEST = 10.0
"""Measurements of images in [-1, 1] are smaller; pixels from 0 to 255 are larger."""


def load_measurements(config: SampleConfig, takes: NetworkShape) -> Measured:
    """Reads the measurements `config.observations` as they are, without degrading anything.

    The path is one of

    - a .npz file with "y", (B, ...), in the units of images in [-1, 1]; the arrays of the operator
      by name ("kernel" of a blur, "mask" of an inpainting), one for all measurements or stacked on
      axis 0; and, if known, the clean images "x_0", float (B, H, W, C);
    - one image file, see `lavps_jax.data.files.read_image`;
    - a folder of PNG, JPEG or WebP images of one size.

    The last two are for operators without random arrays. Around images whose sides the networks do
    not take, there is room of which nothing is measured. A grey image is the mean of the channels
    for networks that take colours; the channels of a colour image are restored one by one by
    networks that take grey images.

    Raises:
      UserError: if the file is unusable, an array is missing, too much or of a wrong shape, or a
        value is not finite.
    """
    path, file = str(config.observations), None
    if Path(path).is_dir():
        source = FolderData(path).open()
        arrays = {"y": load_batch(source, range(len(source)))}
        names = [source.name(i) for i in range(len(source))]
    elif Path(path).suffix.lower() in FILE_SUFFIXES:
        file = read_image(path)
        arrays = {"y": _as_measurements(file, takes)}
        names = [Path(path).stem]
        if len(arrays["y"]) > 1:
            names = [f"{names[0]}-{colour}" for colour in ("red", "green", "blue")]
    else:
        arrays = _read_npz(path)
        names = [f"observation-{i:05d}" for i in range(len(arrays["y"]))]
    for name, array in arrays.items():
        _check_finite(name, array)
    if np.abs(arrays["y"]).max() > LARGEST:
        found = f"values up to {np.abs(arrays['y']).max():g}"
        raise UserError("y", found, "give it in the units of images in [-1, 1]")
    y, x_0 = arrays.pop("y"), arrays.pop("x_0", None)
    operators = _operators(config, y, arrays)
    _check_measurement(y, operators)
    x_shape, corner = _room(operators.x_shape, takes.multiple)
    if x_0 is not None and (x_0.shape != (len(y), *operators.x_shape) or corner is not None):
        remedy = f"give the shape {(len(y), *operators.x_shape)}, or leave it out"
        if corner is not None:
            remedy = f"leave it out: the sides are no multiples of {takes.multiple}"
        raise UserError("x_0", f"shape {x_0.shape}", remedy)
    grey_in_colour = takes.channels == 3 and operators.x_shape[-1] == 1

    def make(y, operator, sigma_y):
        if grey_in_colour:
            mean = Brightness(jnp.full(3, 1 / 3), x_shape=(*operator.x_shape[:2], 3))
            operator = compose(mean, operator)
        if corner is not None:
            operator = cropped(operator, (*x_shape, operator.x_shape[-1]), corner)
        y = operator.project(y)
        if config.poisson_peak is not None:
            return photon_problem(y, operator, PoissonNoise(jnp.float32(config.poisson_peak)))
        return make_problem(y, operator, sigma_y)

    problems = jax.jit(jax.vmap(make))(jnp.asarray(y), operators, _sigma_y(config, y))
    return Measured(problems, np.arange(len(y)), names, x_0, file)


def _as_measurements(file: ImageFile, takes: NetworkShape) -> np.ndarray:
    """(B, H, W, C): one image, or one for each channel where networks take grey images only."""
    if takes.channels == 1 and file.pixels.shape[-1] == 3:
        return np.moveaxis(file.pixels, -1, 0)[..., None]
    return file.pixels[None]


def _sigma_y(config: SampleConfig, y: np.ndarray) -> np.ndarray:
    """One for each measurement, float (B,)."""
    if config.poisson_peak is None and config.sigma_y == "estimate":
        return np.array([estimate_sigma_y(one) for one in y], np.float32)
    sigma_y = 0.0 if config.sigma_y == "estimate" else config.sigma_y
    return np.full(len(y), sigma_y, np.float32)


def _room(
    x_shape: tuple[int, ...], multiple: int
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The smallest sides that are multiples, and where the image lies if they are larger."""
    height, width = (-(-side // multiple) * multiple for side in x_shape[:2])
    top, left = (height - x_shape[0]) // 2, (width - x_shape[1]) // 2
    same = (height, width) == tuple(x_shape[:2])
    return (height, width), None if same else (top, left)


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
        elif not np.issubdtype(array.dtype, np.inexact) and name in ("y", "x_0", "kernel"):
            remedy = "give floats; images are in [-1, 1]"
            raise UserError(name, f"dtype {array.dtype}", remedy)
        elif array.dtype.kind not in "buifc":
            raise UserError(name, f"dtype {array.dtype}", "give numbers")
    return {name: _in_single_precision(array) for name, array in arrays.items()}


def _in_single_precision(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "c":
        return array.astype(np.complex64)
    return array.astype(np.int32) if array.dtype.kind in "ui" else array.astype(np.float32)


def _check_finite(name: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        remedy = "replace it; a pixel that was not measured belongs in the mask of an inpainting"
        raise UserError(name, f"{array[place]} at {place}", remedy)


def _operators(
    config: SampleConfig, y: np.ndarray, arrays: dict[str, np.ndarray]
) -> MeasurementOperator:
    """The operator of every measurement with the given arrays, leaves (B, ...)."""
    x_shape = _image_shape(config, y.shape[1:])
    template = config.operator.draw(jax.random.key(0), x_shape)
    fields, structure = _named(template)
    for name in arrays.keys() - fields.keys():
        known = ", ".join(["y", "x_0", *fields])
        raise UserError("observations", f'array "{name}"', f"give only {known}")
    for name in _random_fields(config.operator, x_shape) - arrays.keys():
        remedy = f'give an .npz file that holds it as "{name}"'
        raise UserError("observations", f"no {name} of the operator", remedy)
    stacked = []
    for name, value in fields.items():
        given = arrays.get(name, np.asarray(value))
        if given.ndim == value.ndim:
            given = np.broadcast_to(given, (len(y), *given.shape))
        if given.ndim != value.ndim + 1 or len(given) != len(y):
            remedy = f"give {value.ndim} axes, or {value.ndim + 1} with {len(y)} on the first"
            raise UserError(name, f"shape {given.shape}", remedy)
        if name == "mask" and not given.reshape(len(y), -1).any(axis=1).all():
            found, remedy = "a measurement without any pixel", "give 1 where one was measured"
            raise UserError(name, found, remedy)
        stacked.append(jnp.asarray(given.astype(value.dtype)))
    operators = jax.tree.unflatten(structure, stacked)
    # Unflattening does not look at shapes; building does.
    return dataclasses.replace(operators)


def _named(operator: MeasurementOperator) -> tuple[dict[str, Any], Any]:
    """Arrays of an operator by name, such as "kernel" or "parts/0/mask"."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(operator)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return dict(zip(names, (leaf for _, leaf in leaves), strict=True)), structure


def _random_fields(family: OperatorFamily, x_shape: tuple[int, ...]) -> set[str]:
    """Names of the arrays that are drawn: those that differ between keys."""
    draws = [_named(family.draw(jax.random.key(seed), x_shape))[0] for seed in range(4)]
    return {
        name
        for name in draws[0]
        if any(not np.array_equal(draws[0][name], other[name]) for other in draws[1:])
    }


def _check_measurement(y: np.ndarray, operators: MeasurementOperator) -> None:
    one = jax.tree.map(lambda leaf: leaf[0], operators)
    expected = jax.eval_shape(one.forward, jax.ShapeDtypeStruct(one.x_shape, jnp.float32))
    if y.shape[1:] != expected.shape:
        remedy = f"give (B, {', '.join(map(str, expected.shape))}), or its image_shape"
        raise UserError("y", f"shape {y.shape}", remedy)
    if np.iscomplexobj(y) != jnp.issubdtype(expected.dtype, jnp.complexfloating):
        remedy = "give what this operator measures: " + str(expected.dtype)
        raise UserError("y", f"dtype {y.dtype}", remedy)


def _image_shape(config: SampleConfig, y_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W, C) of the image behind a measurement."""
    if config.image_shape is not None:
        return config.image_shape
    shape = config.operator.image_shape(y_shape)
    if shape is None:
        remedy = "give images (B, H, W, C), or --image-shape H W C of the image"
        raise UserError("y", f"shape {y_shape} per image", remedy)
    return shape
