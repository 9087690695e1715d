"""Which images a training step sees, as a pure function of the seed and the step, and reading them.

Nothing here has a state that a checkpoint would have to keep, whatever the number of threads,
processes and devices.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt64

from lavps_jax.data.crops import Crops
from lavps_jax.data.images import ImageSource, to_float
from lavps_jax.errors import UserError

Batch = TypeVar("Batch")

_NUM_THREADS = min(4, os.cpu_count() or 1)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """The order of one epoch. NumPy keeps the streams of bit generators the same for ever, but
    not those of `Generator.permutation`: a run resumed under another NumPy must not change."""
    stream = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    order = np.argsort(stream.random_raw(num_images), kind="stable")
    order.flags.writeable = False
    return order


def batch_indices(
    seed: int, step: int, batch_size: int, num_images: int
) -> Int[np.ndarray, " batch_size"]:
    """The images of one training step, in random order without replacement in every epoch.

    A pure function: step k of a resumed run gets what step k of the uninterrupted run got. The
    epochs follow each other without a gap, so no image is left out where `batch_size` does not
    divide `num_images`, and a batch may be larger than the set.

    Args:
      seed: chooses the order, >= 0.
      step: number of the training step, from 0.
      batch_size: images over all processes.
      num_images: size of the set.

    Returns:
      Indices below `num_images`, int64 (batch_size,).

    Raises:
      UserError: if a number is out of range.
    """
    for field, value, least in (
        ("seed", seed, 0),
        ("step", step, 0),
        ("batch_size", batch_size, 1),
        ("num_images", num_images, 1),
    ):
        if value < least:
            raise UserError(field, value, f"give a whole number from {least}")
    epochs, offsets = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), num_images)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(seed, int(epoch), num_images)[offsets[here]]
    return indices


def view_numbers(seed: int, step: int, batch_size: int) -> UInt64[np.ndarray, "batch_size 4"]:
    """The numbers that choose the views of one training step, see `Crops.view`.

    A pure function of the seed and of how many images were seen before, as `batch_indices`.
    """
    # One block of the counter-based generator has four numbers.
    stream = np.random.Philox(key=seed, counter=step * batch_size)
    return stream.random_raw(4 * batch_size).reshape(batch_size, 4)


def load_batch(
    source: ImageSource,
    indices: Sequence[int] | np.ndarray,
    numbers: UInt64[np.ndarray, "B 4"] | None = None,
) -> np.ndarray:
    """Reads images as one float32 array (B, H, W, C) in [-1, 1], in the order of `indices`.

    Args:
      source: of the images.
      indices: of B images.
      numbers: choose random views where the source has some (`Crops`); without them the batch is
        the same in every call.
    """
    if numbers is not None and isinstance(source, Crops):
        images = [source.view(int(i), row) for i, row in zip(indices, numbers, strict=True)]
    else:
        images = [source[int(index)] for index in indices]
    return to_float(np.stack(images))


def load_labels(
    source: ImageSource, indices: Sequence[int] | np.ndarray, num_classes: int
) -> Int[np.ndarray, " B"]:
    """The classes of images, int32 (B,): -1 where the source does not know them.

    Raises:
      UserError: if there is one that a network with `num_classes` classes does not have.
    """
    labels = [source.label(int(index)) for index in indices]
    for index, label in zip(indices, labels, strict=True):
        if label is not None and label >= num_classes:
            remedy = f"use 0 to {num_classes - 1}, the classes of the network"
            raise UserError(f"class of {source.name(int(index))}", label, remedy)
    return np.array([-1 if label is None else label for label in labels], np.int32)


def load_ahead(
    load: Callable[[int], Batch], steps: Iterable[int], num_threads: int = _NUM_THREADS
) -> Generator[Batch, None, None]:
    """Yields `load(step)` for one step after the other, while threads load the next ones.

    No more than `num_threads` steps are loaded ahead of the one that is due. What `load` raises is
    raised where its step is due. Close the iterator (`contextlib.closing`) where it is left early:
    loads that have begun then end, and no others begin.

    Args:
      load: called in threads.
      steps: arguments of `load`, in the order of its results.
      num_threads: how many.
    """
    pool = ThreadPoolExecutor(num_threads, "load")
    try:
        rest = iter(steps)
        waiting = deque(pool.submit(load, step) for step in itertools.islice(rest, num_threads))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(load, step) for step in itertools.islice(rest, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
