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

__all__ = ["Model", "TiledModel", "Tiles", "tiled"]


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
            remedy = f"give a number above 0 and below the tile, {self.side}"
            raise UserError("tile_overlap", self.overlap, remedy)


@dataclass(frozen=True)
class TiledModel:
    """A network from images to images, evaluated on overlapping tiles that are blended.

    Every evaluation inside of a sampler is blended, so that the tiles of one sample agree at their
    seams, and the likelihood is always that of the whole image. Idea: Bar-Tal et al.,
    "MultiDiffusion", ICML 2023, arXiv:2302.08113, with smooth weights. Images no larger than a tile
    are evaluated whole.

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
        corners = np.array([(row, column) for row in rows for column in columns])
        sides = (min(self.tiles.side, height), min(self.tiles.side, width))

        def one(corner: Array) -> Any:
            cut = [
                jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), (*sides, x.shape[2]))
                if jnp.ndim(x) == 3
                else x
                for x in inputs
            ]
            return self.model(weights, *cut, **kwargs)

        window = self._window(sides)
        total = _put_together(
            jnp.broadcast_to(window, (len(corners), *window.shape)), corners, (height, width)
        )
        return jax.tree.map(
            lambda tiles: _put_together(tiles * window[None], corners, (height, width)) / total,
            jax.vmap(one)(jnp.asarray(corners)),
        )

    def _starts(self, length: int) -> list[int]:
        """First rows or columns of the tiles: evenly spaced, the last one ends at the border."""
        if length <= self.tiles.side:
            return [0]
        count = math.ceil((length - self.tiles.overlap) / (self.tiles.side - self.tiles.overlap))
        return [round(start) for start in np.linspace(0, length - self.tiles.side, count)]

    def _window(self, sides: tuple[int, int]) -> Float[np.ndarray, "h w 1"]:
        """Weights that rise linearly from the border of a tile over the overlap."""
        rows, columns = (
            np.minimum(1.0, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 1) / self.tiles.overlap)
            for n in sides
        )
        return (rows[:, None, None] * columns[None, :, None]).astype(np.float32)


def _put_together(
    tiles: Float[Array, "T h w C"], corners: np.ndarray, sides: tuple[int, int]
) -> Float[Array, "H W C"]:
    """The sum of all tiles, each at its place."""
    _, height, width, channels = tiles.shape
    total = jnp.zeros((*sides, channels), tiles.dtype)
    for tile, (row, column) in zip(tiles, corners, strict=True):
        total = total.at[row : row + height, column : column + width].add(tile)
    return total


Model = PureModel | TiledModel


def tiled(model: PureModel, tiles: Tiles | None) -> Model:
    """The network on tiles, or as it is where there are none."""
    return model if tiles is None else TiledModel(model, tiles)
