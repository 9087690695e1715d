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
from lavps_jax.data.files import FILE_SUFFIXES, ImageFile, read_image
from lavps_jax.errors import UNREADABLE, UserError
from lavps_jax.likelihoods import check_light, make_problem, photon_problem
from lavps_jax.measurements import Measured, name_seeds
from lavps_jax.noise import PoissonNoise, estimate_sigma_y
from lavps_jax.operators import (
    JPEG,
    Brightness,
    MeasurementOperator,
    OperatorFamily,
    compose,
    cropped,
)

__all__ = ["load_measurements"]

LARGEST = 10.0
"""Measurements are smaller than this times those of a white image; pixels from 0 to 255 are not."""


def load_measurements(config: SampleConfig, takes: NetworkShape) -> Measured:
    """Reads the measurements `config.observations` as they are, without degrading anything.

    The path is one of

    - a .npz file with "y", (B, ...), in the units of images in [-1, 1]; the arrays of the operator
      by name ("kernel" of a blur, "mask" of an inpainting), one for all measurements or stacked on
      axis 0; and, if known, the clean images "x_0", float (B, H, W, C);
    - one image file, see `lavps_jax.data.files.read_image`;
    - a folder of such files, all of one size.

    The last two are for operators without random arrays. Around images whose sides the networks do
    not take, there is room of which nothing is measured. A grey image is the mean of the channels
    for networks that take colours; the channels of a colour image are restored one by one by
    networks that take grey images. A photo in colours whose channels are equal is a grey one.

    Raises:
      UserError: if the file is unusable, an array is missing, too much or of a wrong shape, or a
        value is not finite.
    """
    path, files, steps = str(config.observations), [], [0.0]
    if Path(path).is_dir():
        files, names = _read_folder(Path(path))
    elif Path(path).suffix.lower() in FILE_SUFFIXES:
        files, names = [read_image(path)], [Path(path).stem]
    if files:
        is_grey = all(_is_grey(file) for file in files)
        pixels = [_as_measurements(file, takes, is_grey) for file in files]
        arrays, steps = {"y": np.concatenate(pixels)}, [_step(file) for file in files]
        if len(arrays["y"]) > len(files):
            colours = ("red", "green", "blue")
            names = [f"{name}-{colour}" for name in names for colour in colours]
            steps = np.repeat(steps, len(colours))
    else:
        arrays = _read_npz(path)
        names = [f"observation-{i:05d}" for i in range(len(arrays["y"]))]
    for name, array in arrays.items():
        _check_finite(name, array)
    y, x_0 = arrays.pop("y"), arrays.pop("x_0", None)
    operators = _operators(config, y, arrays)
    if len(y) > len(files) > 0 and _holds_jpeg(operators):
        remedy = "give a prior of colour images: JPEG mixes the channels"
        raise UserError("operator", "JPEG of a colour image", remedy)
    white = _check_measurement(y, operators)
    if config.poisson_peak is not None:
        check_light(operators, len(y))
    elif np.abs(y).max() > LARGEST * white:
        remedy = f"give that of images in [-1, 1]: a white one has up to {white:.3g}"
        raise UserError("y", f"values up to {np.abs(y).max():g}", remedy)
    x_shape, corner = _room(operators.x_shape, takes)
    if x_0 is not None and (x_0.shape != (len(y), *operators.x_shape) or corner is not None):
        remedy = f"give the shape {(len(y), *operators.x_shape)}, or leave it out"
        if corner is not None:
            remedy = f"leave it out: the networks take sides {x_shape[0]} x {x_shape[1]} only"
        raise UserError("x_0", f"shape {x_0.shape}", remedy)
    grey_in_colour = takes.channels == 3 and operators.x_shape[-1] == 1
    if x_0 is not None and grey_in_colour:
        raise UserError("x_0", f"shape {x_0.shape}", "leave it out: the prior takes colour images")

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

    sigma_y = _sigma_y(config, y, operators, np.broadcast_to(steps, len(y)))
    problems = jax.jit(jax.vmap(make))(jnp.asarray(y), operators, sigma_y)
    return Measured(
        problems, name_seeds(names), names, x_0, [None] * len(names), files, grey_in_colour
    )


def _read_folder(path: Path) -> tuple[list[ImageFile], list[str]]:
    """All image files below a folder, ordered by their path, and their names."""
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in FILE_SUFFIXES and not file.name.startswith(".")
    )
    if not found:
        remedy = f"give a folder with {', '.join(FILE_SUFFIXES)} files"
        raise UserError("observations", path, remedy)
    files = [read_image(file) for file in found]
    for one, file in zip(files, found, strict=True):
        if one.pixels.shape != files[0].pixels.shape:
            remedy = f"give images of one shape, {files[0].pixels.shape}, or one by one"
            raise UserError("observations", f"{file} of shape {one.pixels.shape}", remedy)
    return files, [file.relative_to(path).as_posix() for file in found]


def _step(file: ImageFile) -> float:
    """Distance of neighbouring grey levels in units of images; 0 of floats."""
    return 0.0 if file.bits == 32 else 2 / (2**file.bits - 1)


def _is_grey(file: ImageFile) -> bool:
    """Whether all its channels are the same: a grey photo may be stored in colours."""
    return bool(np.all(file.pixels == file.pixels[..., :1]))


def _as_measurements(file: ImageFile, takes: NetworkShape, is_grey: bool) -> np.ndarray:
    """(B, H, W, C): one image, or one for each channel where networks take grey images only."""
    if is_grey:
        return file.pixels[None, ..., :1]
    if takes.channels == 1 and file.pixels.shape[-1] == 3:
        return np.moveaxis(file.pixels, -1, 0)[..., None]
    return file.pixels[None]


def _sigma_y(
    config: SampleConfig, y: np.ndarray, operators: MeasurementOperator, steps: np.ndarray
) -> np.ndarray:
    """One for each measurement, float (B,)."""
    if config.poisson_peak is None and config.sigma_y == "estimate":
        ones = jnp.ones(y.shape[1:], y.dtype)
        project = jax.vmap(lambda operator: operator.project(ones), axis_size=len(y))
        seen = np.asarray(jax.jit(project)(operators)) != 0
        each = zip(y, seen, map(float, steps), strict=True)
        return np.array([estimate_sigma_y(*one) for one in each], np.float32)
    sigma_y = 0.0 if config.sigma_y == "estimate" else config.sigma_y
    return np.full(len(y), sigma_y, np.float32)


def _holds_jpeg(operator: MeasurementOperator) -> bool:
    """Whether it is JPEG, or an operator inside of it is."""
    nodes = jax.tree.leaves(operator, is_leaf=lambda node: isinstance(node, JPEG))
    return any(isinstance(node, JPEG) for node in nodes)


def _room(
    x_shape: tuple[int, ...], takes: NetworkShape
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The smallest sides that networks take, and where the image lies if they are larger."""
    multiple = takes.multiple
    height, width = (max(-(-side // multiple) * multiple, takes.smallest) for side in x_shape[:2])
    top, left = (height - x_shape[0]) // 2, (width - x_shape[1]) // 2
    same = (height, width) == tuple(x_shape[:2])
    return (height, width), None if same else (top, left)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        remedy = f"give an .npz file, a folder, or an image ({', '.join(FILE_SUFFIXES)})"
        raise UserError("observations", path, remedy) from error
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        remedy = "give an .npz file of arrays of numbers, as numpy.savez writes it, or an image "
        remedy += f"({', '.join(FILE_SUFFIXES)})"
        raise UserError("observations", path, remedy) from error
    y = arrays.get("y")
    if y is None or y.ndim < 2 or not y.size:
        found = f"{path} with {sorted(arrays)}" if y is None else f"y of shape {y.shape}"
        raise UserError("observations", found, 'give an array "y" with measurements on axis 0')
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.inexact) and name in ("y", "x_0", "kernel"):
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
        if np.iscomplexobj(given) and not np.iscomplexobj(value):
            raise UserError(name, f"dtype {given.dtype}", "give real numbers")
        stacked.append(jnp.asarray(given.astype(value.dtype)))
    # Unflattening does not look at shapes; building does.
    operators = dataclasses.replace(jax.tree.unflatten(structure, stacked))
    if arrays:
        for i in range(len(y)):
            jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], operators).check()
    return operators


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


def _check_measurement(y: np.ndarray, operators: MeasurementOperator) -> float:
    """Compares shape and type with those of a white image, and returns its largest value."""
    one = jax.tree.map(lambda leaf: leaf[0], operators)
    expected = np.asarray(one.forward(jnp.ones(one.x_shape)))
    if y.shape[1:] != expected.shape:
        remedy = f"give (B, {', '.join(map(str, expected.shape))}), or its image_shape"
        raise UserError("y", f"shape {y.shape}", remedy)
    if np.iscomplexobj(y) != np.iscomplexobj(expected):
        remedy = "give what this operator measures: " + str(expected.dtype)
        raise UserError("y", f"dtype {y.dtype}", remedy)
    return max(float(np.abs(expected).max()), 1.0)


def _image_shape(config: SampleConfig, y_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W, C) of the image behind a measurement."""
    if config.image_shape is not None:
        return config.image_shape
    shape = config.operator.image_shape(y_shape)
    if shape is None:
        remedy = "give images (B, H, W, C), or --image-shape H W C of the image"
        raise UserError("y", f"shape {y_shape} per image", remedy)
    return shape
