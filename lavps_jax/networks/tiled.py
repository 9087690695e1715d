"""Networks on images larger than those they were trained on, tile by tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.networks.pure import PureModel
from lavps_jax.types import Weights

TILES_AT_ONCE = 16
"""At most so many tiles are evaluated together, one such group after the other: neither the program
nor what the network keeps in memory grows with the image."""


@dataclass(frozen=True)
class Tiles:
    """Squares that cover an image.

    Attributes:
      side: of a tile, pixels.
      overlap: pixels that neighbouring tiles share at least, 0 < overlap < side.
    """

    side: int
    overlap: int

    def __post_init__(self):
        if self.side < 2:
            raise UserError("tile", self.side, "give at least 2 pixels")
        if not 0 < self.overlap < self.side:
            remedy = f"give a number above 0 and below the tile, {self.side}, or a larger tile"
            raise UserError("tile_overlap", self.overlap, remedy)


@dataclass(frozen=True)
class TiledModel:
    """A network from images to images, evaluated on overlapping tiles that are blended.

    Every evaluation inside of a sampler is blended, so that the tiles of one sample agree at their
    seams, and the likelihood is always that of the whole image. Idea: Bar-Tal et al.,
    "MultiDiffusion", ICML 2023, arXiv:2302.08113, with smooth weights. Images no larger than a tile
    are evaluated whole. Cost: one evaluation per tile, and a second one in a derivative if there
    are more than `TILES_AT_ONCE`.

    Attributes:
      model: the network; its inputs are images (H, W, C) and numbers, its outputs images.
      tiles: where it is evaluated.
    """

    model: PureModel
    tiles: Tiles

    def __call__(self, weights: Weights, *inputs: Any, **kwargs: Any) -> Any:
        """As the network itself.

        Raises:
          UserError: if the network sees the measurement, of which there are no tiles.
        """
        height, width = next(x.shape[:2] for x in inputs if jnp.ndim(x) == 3)
        rows, columns = self._starts(height), self._starts(width)
        if len(rows) == len(columns) == 1:
            return self.model(weights, *inputs, **kwargs)
        if kwargs.get("measurement") is not None:
            raise UserError(
                "tile", self.tiles.side, "leave it out: this network sees the measurement"
            )
        sides = (min(self.tiles.side, height), min(self.tiles.side, width))
        corners = np.array([(row, column) for row in rows for column in columns])

        def one(corner: Array) -> Any:
            cut = [
                jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), (*sides, x.shape[2]))
                if jnp.ndim(x) == 3
                else x
                for x in inputs
            ]
            return self.model(weights, *cut, **kwargs)

        num_groups = math.ceil(len(corners) / TILES_AT_ONCE)
        group = math.ceil(len(corners) / num_groups)
        if num_groups > 1:
            # Otherwise a derivative would keep what the network computed on every tile.
            one = jax.checkpoint(one, prevent_cse=False)
        # A few tiles are evaluated twice, so that no smaller group needs a program of its own.
        filled = jnp.asarray(np.resize(corners, (num_groups * group, 2)))
        outputs = jax.lax.map(one, filled, batch_size=group)

        def blended(tiles: Array) -> Array:
            return self._blend(tiles[: len(corners)], rows, columns, (height, width))

        return jax.tree.map(blended, outputs)

    def _blend(
        self,
        tiles: Float[Array, "T h w C"],
        rows: list[int],
        columns: list[int],
        sides: tuple[int, int],
    ) -> Float[Array, "H W C"]:
        """The weighted mean of all tiles where they overlap; they are ordered row by row."""
        _, height, width, channels = tiles.shape
        down, across = self._weights(height), self._weights(width)
        window = (down[:, None] * across[None])[None, None, :, :, None]
        grid = tiles.reshape(len(rows), len(columns), height, width, channels) * window
        # Corners and weights are products of one per axis: first join columns, then rows.
        strips = _put_together(jnp.moveaxis(grid, (1, 3), (0, 1)), columns, sides[1])
        total = _put_together(jnp.moveaxis(strips, 0, 2), rows, sides[0])
        down, across = _covered(down, rows, sides[0]), _covered(across, columns, sides[1])
        # One after the other: a constant of the size of the image takes the compiler minutes.
        return total / down[:, None, None] / across[None, :, None]

    def _starts(self, length: int) -> list[int]:
        """First rows or columns of the tiles: evenly spaced, the last one ends at the border."""
        if length <= self.tiles.side:
            return [0]
        count = math.ceil((length - self.tiles.overlap) / (self.tiles.side - self.tiles.overlap))
        return [round(start) for start in np.linspace(0, length - self.tiles.side, count)]

    def _weights(self, length: int) -> Float[np.ndarray, " n"]:
        """Of one axis of a tile: they rise linearly from its border over the overlap."""
        from_border = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
        return np.minimum(1.0, from_border / self.tiles.overlap).astype(np.float32)


def _put_together(
    parts: Float[Array, "N n ..."], starts: list[int], length: int
) -> Float[Array, "L ..."]:
    """The sum of all parts, each at its place on axis 0."""

    def add(total: Array, placed: tuple[Array, Array]) -> tuple[Array, None]:
        part, start = placed
        part = part + jax.lax.dynamic_slice_in_dim(total, start, len(part))
        return jax.lax.dynamic_update_slice_in_dim(total, part, start, 0), None

    empty = jnp.zeros((length, *parts.shape[2:]), parts.dtype)
    return jax.lax.scan(add, empty, (parts, jnp.asarray(starts)))[0]


def _covered(
    weights: Float[np.ndarray, " n"], starts: list[int], length: int
) -> Float[np.ndarray, " L"]:
    """The sum of the weights of all tiles along one axis, on the host."""
    total = np.zeros(length, weights.dtype)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total


Model = PureModel | TiledModel


def tiled(model: PureModel, tiles: Tiles | None) -> Model:
    """The network on tiles, or as it is where there are none."""
    return model if tiles is None else TiledModel(model, tiles)
