"""What a sampling run restores, and measurements simulated from images."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import load_batch
from lavps_jax.data.files import ImageFile
from lavps_jax.errors import UserError
from lavps_jax.operators import Cropped
from lavps_jax.problems.likelihoods import check_light, simulate, simulate_photons
from lavps_jax.types import PRNGKey, Problem

__all__ = [
    "Measured",
    "RunKeys",
    "in_batches",
    "name_seeds",
    "run_keys",
    "simulate_measurements",
    "with_classes",
]


Tree = TypeVar("Tree")


class Measured(NamedTuple):
    """The measurements of one run.

    Attributes:
      problems: leaves (B, ...).
      seeds: of the names of the images, uint32 (B,): random keys are folded from them.
      names: one per image.
      x_0: the clean images, float (B, H, W, C), or None where nobody knows them.
      labels: classes of the images as the data set says, each None where it does not.
      files: the image files that are restored, if they are files: each is a measurement, or as
        many in turn as it has channels where the networks take grey images only.
      is_grey: whether what is restored is the mean of the channels of what is sampled.
      notes: what a user should know of how they were read, a line each.
    """

    problems: Problem
    seeds: np.ndarray
    names: list[str]
    x_0: np.ndarray | None
    labels: Sequence[int | None]
    files: Sequence[ImageFile] = ()
    is_grey: bool = False
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what is sampled."""
        return self.problems.operator.x_shape

    def shown(self, x: np.ndarray) -> np.ndarray:
        """The measured part of images (..., H, W, C), without what only networks need around it."""
        operator = self.problems.operator
        if not isinstance(operator, Cropped):
            return x
        (top, left), (height, width, _) = operator.corner, operator.inner.x_shape
        return x[..., top : top + height, left : left + width, :]

    def pictures(self) -> list[tuple[str, slice]]:
        """Names of the pictures, and the measurements that each is made of."""
        each = len(self.names) // len(self.files) if self.files else 1
        rows = [slice(k, k + each) for k in range(0, len(self.names), each)]
        return [(self.names[row][0].removesuffix("-red" * (each > 1)), row) for row in rows]

    def joined(self, x: np.ndarray) -> np.ndarray:
        """Images (b, ..., H, W, C) of the measurements of one picture as (..., H, W, C) of it."""
        if len(x) > 1:  # One measurement for each channel.
            return np.concatenate(list(x), axis=-1)
        return x[0].mean(axis=-1, keepdims=True) if self.is_grey else x[0]


class RunKeys(NamedTuple):
    """The independent random keys of one run."""

    operator: PRNGKey
    noise: PRNGKey
    sampling: PRNGKey


def run_keys(seed: int) -> RunKeys:
    """From the seed of a sampling run."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 3))


def simulate_measurements(config: SampleConfig) -> Measured:
    """Degrades the chosen images of `config.data`; each by the seed and its name alone.

    Raises:
      UserError: if the data are unusable or have fewer images, or the operator measures no light
        whose photons could be counted.
    """
    sigma_y = config.sigma_y
    if sigma_y == "estimate":
        raise UserError("sigma_y", sigma_y, "give the number to simulate noise with")
    source = config.data.open()
    last = config.first_image + config.num_images
    if last > len(source):
        remedy = f"the data set has {len(source)}"
        raise UserError("first_image + num_images", last, remedy)
    index = range(config.first_image, last)
    images = jnp.asarray(load_batch(source, index))
    names = [source.name(i) for i in index]
    seeds = name_seeds(names)
    keys = run_keys(config.seed)

    def draw(seed):
        key = jax.random.fold_in(keys.operator, seed) if config.stochastic else keys.operator
        return config.operator.draw(key, images.shape[1:])

    simulation, level = simulate, sigma_y
    operators = in_batches(jax.jit(jax.vmap(draw)), config.batch_size, seeds)
    if config.poisson_peak is not None:
        check_light(operators, len(seeds))
        simulation, level = simulate_photons, config.poisson_peak
    measure = functools.partial(_measure, simulation, keys.noise, level)
    problems = in_batches(measure, config.batch_size, seeds, images, operators)
    labels = [source.label(i) for i in index]
    return Measured(problems, seeds, names, np.asarray(images), labels)


@functools.partial(jax.jit, static_argnums=0)
def _measure(
    simulation: Callable[..., Problem], rng_key, level, seeds, images, operators
) -> Problem:
    """A measurement of every image, leaves (B, ...), at one level of noise."""

    def measure(seed, x_0, operator):
        return simulation(jax.random.fold_in(rng_key, seed), x_0, operator, level)

    return jax.vmap(measure)(seeds, images, operators)


def in_batches(fn: Callable[..., Tree], size: int, *rows: Any) -> Tree:
    """fn(*rows) on `size` images at a time, so that its memory does not grow with their number.

    Args:
      fn: takes and returns pytrees with images on axis 0 of every leaf.
      size: images at a time; the last batch is filled up with repeats, so that fn compiles once.
      rows: leaves (B, ...).
    """
    count = len(jax.tree.leaves(rows)[0])
    if count <= size:
        return fn(*rows)

    def batch(begin: int) -> Tree:
        index = np.minimum(np.arange(begin, begin + size), count - 1)
        return fn(*jax.tree.map(lambda leaf: leaf[index], rows))

    parts = [batch(begin) for begin in range(0, count, size)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)


def name_seeds(names: Sequence[str]) -> np.ndarray:
    """What the keys of images are folded from, uint32 (B,): other images do not change them."""
    return np.array([zlib.crc32(name.encode()) for name in names], np.uint32)


def with_classes(
    measured: Measured, chosen: int | Literal["data"] | None, num_classes: int
) -> Measured:
    """The measurements with `Problem.label` set to a class.

    Args:
      measured: measurements, or what is known of them.
      chosen: see `SampleConfig.class_label`.
      num_classes: of the prior; 0 means none.

    Raises:
      UserError: if the prior has no such class, or the data set does not know them.
    """
    if chosen is None:
        return measured
    if not num_classes:
        raise UserError("class_label", chosen, "leave it out: the prior has no classes")
    labels = measured.labels if chosen == "data" else [chosen] * len(measured.names)
    for label in labels:
        if label is None:
            remedy = "give a number: these data do not say the class of an image"
            raise UserError("class_label", chosen, remedy)
        if label >= num_classes:
            remedy = f"use 0 to {num_classes - 1}, the classes of the prior"
            raise UserError("class_label", label, remedy)
    one_hot = jax.nn.one_hot(jnp.asarray(labels), num_classes)
    return measured._replace(problems=measured.problems.replace(label=one_hot))
