"""Images that stay in memory once they were read."""

from __future__ import annotations

import dataclasses
import functools
from threading import Lock

import numpy as np

from lavps_jax.data.crops import Crops
from lavps_jax.data.images import ArraySource, ImageSource


def cached(source: ImageSource, *, limit_bytes: int = 2**30) -> ImageSource:
    """The same images, which are kept in memory as they are read, up to `limit_bytes` in all.

    Of crops the whole images are kept. Where they do not fit all, those that were read first stay:
    every epoch visits each image once, so no other choice would be asked for more often. Threads
    may share the result.
    """
    if isinstance(source, ArraySource):
        return source
    if isinstance(source, Crops):
        return dataclasses.replace(source, images=cached(source.images, limit_bytes=limit_bytes))
    return _Cached(source, limit_bytes)


class _Cached:
    def __init__(self, source: ImageSource, limit_bytes: int):
        self._source, self._room = source, limit_bytes
        self._images: dict[int, np.ndarray] = {}
        self._lock = Lock()
        self.image_shape, self.name = source.image_shape, source.name
        # Reading the class of an image may be as slow as reading the image.
        self.label = functools.cache(source.label)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> np.ndarray:
        if (image := self._images.get(index)) is None:
            # A view would keep more than it shows.
            image = np.ascontiguousarray(self._source[index])
            with self._lock:
                if image.nbytes <= self._room and index not in self._images:
                    self._room -= image.nbytes
                    self._images[index] = image
        return image
