"""What a sampling run restores, batch by batch, and measurements simulated from images."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import load_batch
from lavps_jax.data.files import ImageFile
from lavps_jax.errors import UserError
from lavps_jax.operators import Cropped
from lavps_jax.problems.noise import Gaussian, Noise
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, check_light, simulate
from lavps_jax.types import PRNGKey


class Measured(NamedTuple):
    """The measurements of one batch. The last batch of a run is filled up with repeats, so that all
    have one shape: `problems`, `seeds`, `x_0` and `labels` have them, `names` and `files` not.

    Attributes:
      problems: leaves (B, ...).
      seeds: of the names of the images, uint32 (B,): random keys are folded from them.
      names: one per measurement.
      x_0: the clean images, float (B, H, W, C), or None where nobody knows them.
      labels: classes of the images as the data set says, each None where it does not.
      files: the image files that are restored, if they are files: each is a measurement, or as
        many in turn as it has channels where the networks take grey images only.
      is_grey: whether what is restored is the mean of the channels of what is sampled.
    """

    problems: Problem
    seeds: np.ndarray
    names: list[str]
    x_0: np.ndarray | None
    labels: Sequence[int | None]
    files: Sequence[ImageFile] = ()
    is_grey: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what is sampled."""
        return self.problems.operator.x_shape

    @property
    def sigma_y(self) -> np.ndarray:
        """Standard deviations of the noise of all problems, typical ones of photons, float (B,)."""
        return np.asarray(_sigma_y(self.problems))

    def shown(self, x: np.ndarray) -> np.ndarray:
        """The measured part of images (..., H, W, C), without what only networks need around it."""
        operator = self.problems.operator
        if not isinstance(operator, Cropped):
            return x
        (top, left), (height, width, _) = operator.corner, operator.inner.x_shape
        return x[..., top : top + height, left : left + width, :]

    def pictures(self) -> list[slice]:
        """The measurements that each picture is made of."""
        each = len(self.names) // len(self.files) if self.files else 1
        return [slice(k, k + each) for k in range(0, len(self.names), each)]

    def joined(self, x: np.ndarray) -> np.ndarray:
        """Images (b, ..., H, W, C) of the measurements of one picture as (..., H, W, C) of it."""
        if len(x) > 1:  # One measurement for each channel.
            return np.concatenate(list(x), axis=-1)
        return x[0].mean(axis=-1, keepdims=True) if self.is_grey else x[0]


class Measurements:
    """All measurements of a run, of which one batch at a time is made.

    Args:
      names: one per measurement.
      image_shape: (H, W, C) of what is sampled.
      batch_size: measurements at a time. A batch has whole pictures, at least one.
      each: measurements of a picture.
    """

    notes: Sequence[str] = ()
    """What a user should know of how they were read, a line each."""

    def __init__(
        self,
        names: Sequence[str],
        image_shape: tuple[int, int, int],
        batch_size: int,
        each: int = 1,
    ):
        self.names, self.image_shape, self.each = names, image_shape, each
        self.size = min(each * max(1, batch_size // each), len(names))
        self.num_batches = math.ceil(len(names) / self.size)
        self._seeds = name_seeds(names)

    @functools.cached_property
    def folders(self) -> list[str]:
        """Names of folders, one per picture."""
        found: dict[str, None] = {}
        for k, name in enumerate(self.names[:: self.each]):
            # Images of a sub-folder have that in their name; a dot would make it a file's name.
            folder = name.removesuffix("-red" * (self.each > 1)).replace(".", "_")
            found[f"{folder}_{k}" if folder in found else folder] = None  # a.b and a_b
        return list(found)

    def batch(self, number: int) -> Measured:
        """The batch of this number, the same at every call.

        Raises:
          UserError: if its images or measurements are unusable.
        """
        first = number * self.size
        rows = np.minimum(np.arange(first, first + self.size), len(self.names) - 1)
        names = list(self.names[first : first + self.size])
        return self._read(rows, self._seeds[rows], names)

    def _read(self, rows: Int[np.ndarray, " B"], seeds: np.ndarray, names: list[str]) -> Measured:
        raise NotImplementedError


class RunKeys(NamedTuple):
    """The independent random keys of one run."""

    operator: PRNGKey
    noise: PRNGKey
    sampling: PRNGKey


def run_keys(seed: int) -> RunKeys:
    """From the seed of a sampling run."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 3))


class Simulation(Measurements):
    """Degrades the chosen images of `config.data`; each by the seed and its name alone.

    Raises:
      UserError: if the data are unusable or have fewer images; from `batch` also if the operator
        measures no light whose photons could be counted.
    """

    def __init__(self, config: SampleConfig):
        if config.sigma_y == "estimate":
            raise UserError("sigma_y", config.sigma_y, "give the number to simulate noise with")
        self._source = config.data.open()
        last = config.first_image + config.num_images
        if last > len(self._source):
            remedy = f"the data set has {len(self._source)}"
            raise UserError("first_image + num_images", last, remedy)
        self._index = np.arange(config.first_image, last)
        names = [self._source.name(int(i)) for i in self._index]
        image_shape, keys = self._source.image_shape, run_keys(config.seed)
        super().__init__(names, image_shape, config.batch_size)

        def draw(seed):
            key = jax.random.fold_in(keys.operator, seed) if config.stochastic else keys.operator
            return config.operator.draw(key, image_shape)

        self._draw, self._config = jax.jit(jax.vmap(draw)), config
        peak = config.poisson_peak
        noise = Gaussian(config.sigma_y) if peak is None else Poisson(peak)
        self._measure = functools.partial(_measure, keys.noise, noise)

    def _read(self, rows: Int[np.ndarray, " B"], seeds: np.ndarray, names: list[str]) -> Measured:
        index, operators = self._index[rows], self._draw(seeds)
        images = load_batch(self._source, index)
        if self._config.poisson_peak is not None:
            check_light(operators, len(rows))
        labels: list[int | None] = [None] * len(rows)
        if self._config.class_label == "data":  # Reading them can cost as much as the images.
            labels = [self._source.label(int(i)) for i in index]
        problems = self._measure(seeds, jnp.asarray(images), operators)
        return Measured(problems, seeds, names, images, labels)


@jax.jit
def _sigma_y(problems: Problem):
    return jax.vmap(lambda problem: problem.sigma_y)(problems)


@jax.jit
def _measure(rng_key, noise: Noise, seeds, images, operators) -> Problem:
    """A measurement of every image, leaves (B, ...), with one noise."""

    def measure(seed, x_0, operator):
        return simulate(jax.random.fold_in(rng_key, seed), x_0, operator, noise)

    return jax.vmap(measure)(seeds, images, operators)


def name_seeds(names: Sequence[str]) -> np.ndarray:
    """What the keys of images are folded from, uint32 (B,): other images do not change them."""
    return np.array([zlib.crc32(name.encode()) for name in names], np.uint32)


def with_classes(
    measured: Measured, chosen: int | Literal["data"] | None, num_classes: int
) -> Measured:
    """The measurements with `Problem.label` set to a class.

    Args:
      measured: a batch of them.
      chosen: see `SampleConfig.class_label`.
      num_classes: of the prior; 0 means none.

    Raises:
      UserError: if the prior has no such class, or the data set does not know them.
    """
    if chosen is None:
        return measured
    if not num_classes:
        raise UserError("class_label", chosen, "leave it out: the prior has no classes")
    labels = measured.labels if chosen == "data" else [chosen] * len(measured.seeds)
    for label in labels:
        if label is None:
            remedy = "give a number: these data do not say the class of an image"
            raise UserError("class_label", chosen, remedy)
        if label >= num_classes:
            remedy = f"use 0 to {num_classes - 1}, the classes of the prior"
            raise UserError("class_label", label, remedy)
    one_hot = jax.nn.one_hot(jnp.asarray(labels), num_classes)
    return measured._replace(problems=measured.problems.replace(label=one_hot))
