"""Measurements that a user has: an array file, a folder of images, or one image file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data.folders import image_files, is_folder, shown_name
from lavps_jax.data.value_range import ValueRange, range_of
from lavps_jax.errors import UserError
from lavps_jax.operators import (
    JPEG,
    Brightness,
    LinearOperator,
    MeasurementOperator,
    compose,
    cropped,
)
from lavps_jax.problems.noise import Gaussian
from lavps_jax.problems.noise_estimate import estimate_sigma_y
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, check_light
from lavps_jax.runs.given_files import ImageFiles, check_finite, read_npz
from lavps_jax.runs.given_operators import GivenOperators
from lavps_jax.runs.loading import NetworkShape
from lavps_jax.runs.measurements import Measured, Measurements

LARGEST = 10.0
"""Measurements are smaller than this times those of a white image; pixels from 0 to 255 are not."""

DARK = -0.75
"""An eighth of white: the brightest number of 12 bits in a file of 16 is below."""


class GivenMeasurements(Measurements):
    """Reads the measurements `config.observations` as they are, without degrading anything.

    The path is one of

    - a .npz file with "y", (B, ...); the arrays of the operator by name ("kernel" of a blur, with
      the sum 1, "mask" of an inpainting), one for all measurements or stacked on axis 0; and, if
      known, the clean images "x_0", (B, H, W, C). The arrays of the file stay in memory;
    - one image file, see `lavps_jax.data.files.read_image`;
    - a folder of such files, all of one size, which are read twice, one after the other.

    What is black and what is white in them says `config.value_range` or `range_of`; `notes` tell
    it. Image files are for operators without random arrays. Around images whose sides
    the networks do not take, there is room of which nothing is measured. A grey image is the mean
    of the channels for networks that take colours; the channels of a colour image are restored one
    by one by networks that take grey images. A photo in colours whose channels are
    equal is a grey one.

    Raises:
      UserError: if the file is unusable, an array is missing, too much or of a wrong shape, or a
        value is not finite; from `batch` if its measurements are too large, their operators measure
        no light, or their noise cannot be estimated.
    """

    def __init__(self, config: SampleConfig, takes: NetworkShape):
        path, each, arrays = Path(config.observations or ""), 1, {}
        self._photos, folder = None, is_folder(path, "observations")
        if folder or path.suffix.lower() != ".npz":
            files = image_files(path, "observations") if folder else [path]
            names = [shown_name(file, path) if folder else file.stem for file in files]
            self._photos = ImageFiles(files, config.value_range, takes.channels)
            each, ranges = self._photos.each, self._photos.ranges
            if each > 1:
                colours = ("red", "green", "blue")
                names = [f"{name}-{colour}" for name in names for colour in colours]
            y, x_0 = self._photos.read([0])[0], None
        else:
            arrays = read_npz(path)
            for name, array in arrays.items():
                check_finite(name, array)
            y, x_0 = arrays.pop("y"), arrays.pop("x_0", None)
            names = [f"observation-{i:05d}" for i in range(len(y))]
        self._operators = GivenOperators(config, y.shape[1:], len(names), arrays)
        one = self._operators.of(np.array([0]))
        if each > 1 and _holds_jpeg(one):
            remedy = "give a prior of colour images: JPEG mixes the channels"
            raise UserError("operator", "JPEG of a colour image", remedy)
        self._white = _check_measurement(y, one)
        (height, width), self._corner = _room(one.x_shape, takes)
        self._in_colour = takes.channels == 3 and one.x_shape[-1] == 1
        channels = 3 if self._in_colour else one.x_shape[-1]
        super().__init__(names, (height, width, channels), config.batch_size, each)
        self._config, self._y, self._x_0 = config, y, x_0
        if self._photos is None:
            self._is_image = y.ndim == 4 and not np.iscomplexobj(y) and self._all_show_images()
            self._range = _range(y, self._is_image, one, config.value_range)
            ranges = {self._range}
        if x_0 is not None:
            self._x_0 = self._clean(x_0, one)
        said = ", or ".join(f"black at {b:g} and white at {w:g}" for b, w in sorted(ranges))
        self.notes = [f"observations: numbers of images with {said} (--value-range sets others)"]
        if self._largest() < DARK:
            self.notes.append(
                "observations: nearly black; if their white is another number, it must be set"
            )

    def _all_show_images(self) -> bool:
        """Whether what every operator measures of white is white, and of black black."""
        rows = range(0, self._operators.num_different, self.size)
        last = self._operators.num_different - 1
        batches = (np.minimum(np.arange(first, first + self.size), last) for first in rows)
        return all(bool(np.all(_ends(self._operators.of(one), self.size)[1])) for one in batches)

    def _largest(self) -> float:
        """Largest number of an image, in units of images; 0 of what is none."""
        if self._photos is not None:
            return self._photos.largest
        black, white = self._range
        return 2 * (float(self._y.max()) - black) / (white - black) - 1 if self._is_image else 0.0

    def _clean(self, x_0: np.ndarray, operator: MeasurementOperator) -> np.ndarray:
        """The clean images in units of images."""
        wanted = (len(self.names), *operator.x_shape)
        if x_0.shape != wanted or self._corner is not None:
            remedy = f"give the shape {wanted}, or leave it out"
            if self._corner is not None:
                sides = "{} x {}".format(*self.image_shape[:2])
                remedy = f"leave it out: the networks take sides {sides} only"
            raise UserError("x_0", f"shape {x_0.shape}", remedy)
        if self._in_colour:
            remedy = "leave it out: the prior takes colour images"
            raise UserError("x_0", f"shape {x_0.shape}", remedy)
        black, white = range_of(x_0, self._config.value_range, field="x_0", found="x_0")
        return _scaled(x_0, (black, white), (black + white) / 2)

    def _read(self, rows: Int[np.ndarray, " B"], seeds: np.ndarray, names: list[str]) -> Measured:
        operators, files = self._operators.of(rows), []
        if self._photos is not None:
            y, files, steps = self._photos.read(rows)
            files = files[: len(names) // self.each]
        else:
            y, middle = self._y[rows], sum(self._range) / 2
            black, white = self._range
            steps = [2 / (white - black) if y.dtype.kind in "ui" else 0.0] * len(y)
            if middle and not self._is_image:
                middle = middle * np.asarray(_ends(operators, len(y))[0])
            y = _scaled(y, self._range, middle)
        if self._config.poisson_peak is not None:
            check_light(operators, len(y))
        elif np.abs(y).max() > LARGEST * self._white:
            remedy = f"give that of images in [-1, 1]: a white one has up to {self._white:.3g}; "
            remedy += "or give --value-range BLACK WHITE"
            raise UserError("y", f"values up to {np.abs(y).max():g}", remedy)
        sigma_y = self._sigma_y(y, operators, steps)
        problems = self._make(jnp.asarray(y), operators, sigma_y)
        x_0 = None if self._x_0 is None else self._x_0[rows]
        labels = [None] * len(rows)
        return Measured(problems, seeds, names, x_0, labels, files, self._in_colour)

    @functools.cached_property
    def _make(self):
        """Makes the problems of measurements, compiled once."""

        def make(y, operator, sigma_y) -> Problem:
            if self._in_colour:
                mean = Brightness(jnp.full(3, 1 / 3), x_shape=(*operator.x_shape[:2], 3))
                operator = compose(mean, operator)
            if self._corner is not None:
                operator = cropped(operator, self.image_shape, self._corner)
            peak = self._config.poisson_peak
            noise = Gaussian(sigma_y) if peak is None else Poisson(peak)
            return Problem(operator.project(y), operator, noise)

        return jax.jit(jax.vmap(make))

    def _sigma_y(
        self, y: np.ndarray, operators: MeasurementOperator, steps: Sequence[float]
    ) -> np.ndarray:
        """One for each measurement, float (B,)."""
        sigma_y = self._config.sigma_y
        if sigma_y == "estimate" and self._config.poisson_peak is None:
            each = zip(y, np.asarray(_seen(operators, y)), steps, strict=True)
            return np.array([estimate_sigma_y(*one) for one in each], np.float32)
        return np.full(len(y), 0.0 if sigma_y == "estimate" else sigma_y, np.float32)


@jax.jit
def _seen(operators: MeasurementOperator, y):
    """Which entries of measurements (B, ...) carry one, bool (B, ...)."""
    ones = jnp.ones_like(y[0])
    return jax.vmap(lambda operator: operator.project(ones) != 0, axis_size=len(y))(operators)


@functools.partial(jax.jit, static_argnums=1)
def _ends(operators: MeasurementOperator, count: int):
    """What each operator measures of white, and whether that is white, and black of black."""

    def ends(operator):
        white = operator.forward(jnp.ones(operator.x_shape))
        black = operator.forward(-jnp.ones(operator.x_shape))
        seen = operator.project(jnp.ones_like(white)) != 0
        off = jnp.maximum(jnp.abs(white - 1), jnp.abs(black + 1))
        return white, jnp.max(jnp.where(seen, off, 0)) < 0.01

    return jax.vmap(ends, axis_size=count)(operators)


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


def _range(
    y: np.ndarray, is_image: bool, operators: MeasurementOperator, given: ValueRange | None
) -> ValueRange:
    """The numbers of black and white of the images behind measurements.

    A linear operator measures x = (u - mid) / half of the image u as y = (A u - mid A(1)) / half.
    Without numbers that the user gives, y tells them if it is an image itself.
    """
    if is_image:
        found = range_of(y, given, field="y", found="y")
    elif given is None and y.dtype.kind in "bui":
        raise UserError("y", f"dtype {y.dtype}", "give floats, in the units of images in [-1, 1]")
    else:
        found = given or (-1.0, 1.0)
    if not isinstance(operators, LinearOperator) and not is_image and found != (-1, 1):
        remedy = f"give y of this {type(operators).__name__} in the units of images in [-1, 1]"
        raise UserError("value_range", found, remedy)
    return found


def _scaled(numbers: np.ndarray, found: ValueRange, shift: float | np.ndarray) -> np.ndarray:
    """(numbers - shift) / half of the range, in single precision."""
    scaled = (numbers - shift) / ((found[1] - found[0]) / 2)
    return scaled.astype(np.complex64 if np.iscomplexobj(scaled) else np.float32)
