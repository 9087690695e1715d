"""Measurements that a user has: an array file, a folder of images, or one image file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data.files import ImageFile, read_image
from lavps_jax.data.folders import is_folder, shown_name
from lavps_jax.data.value_range import ValueRange, range_of
from lavps_jax.errors import UserError
from lavps_jax.operators import (
    JPEG,
    Blur,
    Brightness,
    CircularBlur,
    LinearOperator,
    MeasurementOperator,
    compose,
    cropped,
)
from lavps_jax.operators.blur import check_kernel_sum, squared_kernel
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.problems.likelihoods import check_light, make_problem, photon_problem
from lavps_jax.problems.noise import PoissonNoise, estimate_sigma_y
from lavps_jax.runs.build import NetworkShape
from lavps_jax.runs.given_files import read_folder, read_npz
from lavps_jax.runs.measurements import Measured, name_seeds

__all__ = ["load_measurements"]

LARGEST = 10.0
"""Measurements are smaller than this times those of a white image; pixels from 0 to 255 are not."""

DARK = -0.75
"""An eighth of white: the brightest number of 12 bits in a file of 16 is below."""


def load_measurements(config: SampleConfig, takes: NetworkShape) -> Measured:
    """Reads the measurements `config.observations` as they are, without degrading anything.

    The path is one of

    - a .npz file with "y", (B, ...); the arrays of the operator by name ("kernel" of a blur, with
      the sum 1, "mask" of an inpainting), one for all measurements or stacked on axis 0; and, if
      known, the clean images "x_0", (B, H, W, C);
    - one image file, see `lavps_jax.data.files.read_image`;
    - a folder of such files, all of one size.

    What is black and what is white in them says `config.value_range` or `range_of`; `notes` of the
    result tell it. Image files are for operators without random arrays. Around images whose sides
    the networks do not take, there is room of which nothing is measured. A grey image is the mean
    of the channels for networks that take colours; the channels of a colour image are restored one
    by one by networks that take grey images. A photo in colours whose channels are
    equal is a grey one.

    Raises:
      UserError: if the file is unusable, an array is missing, too much or of a wrong shape, or a
        value is not finite.
    """
    path, files, steps = Path(config.observations or ""), [], [0.0]
    if is_folder(path, "observations"):
        files, names = read_folder(path, config.value_range)
    elif path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        names = [f"observation-{i:05d}" for i in range(len(arrays["y"]))]
    else:
        files = [read_image(path, config.value_range)]
        names = [Path(shown_name(path, path.parent)).stem]
    if files:
        is_grey = all(_is_grey(file) for file in files)
        pixels = [_as_measurements(file, takes, is_grey) for file in files]
        arrays, steps = {"y": np.concatenate(pixels)}, [file.step for file in files]
        if len(arrays["y"]) > len(files):
            colours = ("red", "green", "blue")
            names = [f"{name}-{colour}" for name in names for colour in colours]
            steps = np.repeat(steps, len(colours))
    ranges = {file.black_and_white for file in files}
    for name, array in arrays.items():
        _check_finite(name, array)
    y, x_0 = arrays.pop("y"), arrays.pop("x_0", None)
    operators = _operators(config, y, arrays)
    if len(y) > len(files) > 0 and _holds_jpeg(operators):
        remedy = "give a prior of colour images: JPEG mixes the channels"
        raise UserError("operator", "JPEG of a colour image", remedy)
    white = _check_measurement(y, operators)
    if not ranges:
        whole = y.dtype.kind in "ui"
        y, found = _in_image_units(y, operators, config.value_range)
        steps, ranges = [2 / (found[1] - found[0]) if whole else 0.0], {found}
    if config.poisson_peak is not None:
        check_light(operators, len(y))
    elif np.abs(y).max() > LARGEST * white:
        remedy = f"give that of images in [-1, 1]: a white one has up to {white:.3g}; or give "
        remedy += "--value-range BLACK WHITE"
        raise UserError("y", f"values up to {np.abs(y).max():g}", remedy)
    x_shape, corner = _room(operators.x_shape, takes)
    if x_0 is not None and (x_0.shape != (len(y), *operators.x_shape) or corner is not None):
        remedy = f"give the shape {(len(y), *operators.x_shape)}, or leave it out"
        if corner is not None:
            remedy = f"leave it out: the networks take sides {x_shape[0]} x {x_shape[1]} only"
        raise UserError("x_0", f"shape {x_0.shape}", remedy)
    if x_0 is not None:
        black, light = range_of(x_0, config.value_range, field="x_0", found="x_0")
        x_0 = _scaled(x_0, (black, light), (black + light) / 2)
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
    said = ", or ".join(f"black at {low:g} and white at {high:g}" for low, high in sorted(ranges))
    notes = [f"observations: numbers of images with {said} (--value-range sets others)"]
    if np.isrealobj(y) and y.max() < DARK:
        notes.append("observations: nearly black; if their white is another number, it must be set")
    labels = [None] * len(names)
    return Measured(
        problems, name_seeds(names), names, x_0, labels, files, grey_in_colour, tuple(notes)
    )


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
    kernels = _kernels(template)
    for name in arrays.keys() - fields.keys():
        known = ", ".join(["y", "x_0", *fields])
        raise UserError("observations", f'array "{name}"', f"give only {known}")
    for name in _random_fields(config.operator, x_shape) - arrays.keys():
        remedy = f'give an .npz file that holds it as "{name}", or an operator that draws nothing: '
        remedy += "operator:identity, operator:super-resolution, operator:gaussian-blur, "
        remedy += "operator:kernel-file, operator:mask-file, ..."
        raise UserError("observations", f"no {name} of the operator", remedy)
    stacked = []
    for name, value in fields.items():
        given = arrays.get(name, np.asarray(value))
        if name in kernels & arrays.keys():
            given = _without_channel(given, len(y))
        if given.ndim == value.ndim:
            given = np.broadcast_to(given, (len(y), *given.shape))
        if given.ndim != value.ndim + 1 or len(given) != len(y):
            remedy = f"give {value.ndim} axes, or {value.ndim + 1} with {len(y)} on the first"
            raise UserError(name, f"shape {given.shape}", remedy)
        if np.iscomplexobj(given) and not np.iscomplexobj(value):
            raise UserError(name, f"dtype {given.dtype}", "give real numbers")
        if value.dtype.kind in "ui" and np.any(given != np.rint(given)):
            raise UserError(name, "numbers with fractions", "give whole numbers")
        if name in kernels & arrays.keys():
            check_kernel_sum(name, jnp.asarray(given))
            given = squared_kernel(jnp.asarray(given))
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


def _in_image_units(
    y: np.ndarray, operators: MeasurementOperator, given: ValueRange | None
) -> tuple[np.ndarray, ValueRange]:
    """Measurements of images in [-1, 1] from those of images in other numbers, and these.

    A linear operator measures x = (u - mid) / half of the image u as y = (A u - mid A(1)) / half.
    Without numbers that the user gives, y tells them if it is an image itself: if what the operator
    measures of white is white, and of black black.
    """

    def ends(operator):
        white = operator.forward(jnp.ones(operator.x_shape))
        black = operator.forward(-jnp.ones(operator.x_shape))
        seen = operator.project(jnp.ones_like(white)) != 0
        off = jnp.maximum(jnp.abs(white - 1), jnp.abs(black + 1))
        return white, jnp.max(jnp.where(seen, off, 0)) < 0.01

    white, same = jax.jit(jax.vmap(ends, axis_size=len(y)))(operators)
    is_image = y.ndim == 4 and not np.iscomplexobj(y) and bool(jnp.all(same))
    if is_image:
        found = range_of(y, given, field="y", found="y")
    elif given is None and y.dtype.kind in "bui":
        raise UserError("y", f"dtype {y.dtype}", "give floats, in the units of images in [-1, 1]")
    else:
        found = given or (-1.0, 1.0)
    if not isinstance(operators, LinearOperator) and not is_image and found != (-1, 1):
        remedy = f"give y of this {type(operators).__name__} in the units of images in [-1, 1]"
        raise UserError("value_range", found, remedy)
    middle = (found[0] + found[1]) / 2
    return _scaled(
        y, found, middle * np.asarray(white) if middle and not is_image else middle
    ), found


def _scaled(numbers: np.ndarray, found: ValueRange, shift: float | np.ndarray) -> np.ndarray:
    """(numbers - shift) / half of the range, in single precision."""
    scaled = (numbers - shift) / ((found[1] - found[0]) / 2)
    return scaled.astype(np.complex64 if np.iscomplexobj(scaled) else np.float32)


def _image_shape(config: SampleConfig, y_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, W, C) of the image behind a measurement."""
    if config.image_shape is not None:
        return config.image_shape
    shape = config.operator.image_shape(y_shape)
    if shape is None:
        remedy = "give images (B, H, W, C), or --image-shape H W C of the image"
        raise UserError("y", f"shape {y_shape} per image", remedy)
    return shape
