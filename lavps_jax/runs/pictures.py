"""Pictures: images as PNG, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from lavps_jax.data import to_uint8
from lavps_jax.data.files import ImageFile

DPI = 150
MARGIN = 16
GAP = 5
WIDEST = 2000
"""Pixels of a picture of before and after."""
NOT_FINITE = (255, 0, 255)
"""Magenta marks pixels without a value: a failed sample must not look like an image."""


def save_png(
    path: str | Path,
    image: Float[np.ndarray, "H W C"],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> None:
    """Writes one image as an 8-bit PNG, grey or RGB.

    Args:
      path: the file to write.
      image: float (H, W), (H, W, 1) or (H, W, 3). Values outside of `value_range` are clipped;
        pixels that are not finite become magenta.
      value_range: what is black and what is white; (0, maximum) for a map of standard deviations.
    """
    pixels = _to_pixels(image, value_range)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def _to_pixels(image: Any, value_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    if np.iscomplexobj(image):
        raise ValueError("expected a real image, got complex numbers: show their size or x_pinv")
    image = np.asarray(image, np.float32)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"expected an image (H, W), (H, W, 1) or (H, W, 3), got {image.shape}")
    low, high = value_range
    finite = np.isfinite(image).all(-1)
    scaled = 2 * (image - low) / max(high - low, np.finfo(np.float32).tiny) - 1
    pixels = to_uint8(np.where(finite[..., None], scaled, 0))
    if not finite.all():
        pixels = np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
        pixels[~finite] = NOT_FINITE
    return pixels


def save_before_after(
    path: str | Path, before: ImageFile, after: Float[np.ndarray, "H W C"]
) -> None:
    """Writes a photo on the left and what was made of it on the right as one 8-bit PNG.

    Args:
      path: the file to write.
      before: enlarged by bicubic interpolation if it is smaller; it gives the colour profile.
      after: float (H, W, C) in [-1, 1], C as of `before`. Both are reduced where the picture would
        be wider than `WIDEST`.
    """
    height, width = after.shape[:2]
    factor = min(1.0, WIDEST / (2 * width))
    size = max(1, round(factor * width)), max(1, round(factor * height))
    sides = []
    for image in (before.pixels, after):
        pixels = _to_pixels(image)
        one = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        sides.append(one.resize((width, height), Image.Resampling.BICUBIC))
    joined = np.concatenate([one.resize(size, Image.Resampling.LANCZOS) for one in sides], axis=1)
    Image.fromarray(joined).save(path, icc_profile=before.profile)


@dataclass(frozen=True, eq=False)
class StdMap:
    """Standard deviations of the pixels of one image, drawn in colour on one scale per sheet.

    Attributes:
      values: float (H, W) or (H, W, C), >= 0, in the units of images in [-1, 1]. Channels are
        joined by their root mean square.
    """

    values: np.ndarray

    def joined(self) -> np.ndarray:
        """One value per pixel, float (H, W)."""
        values = np.asarray(self.values, np.float32)
        return values if values.ndim == 2 else np.sqrt(np.mean(values**2, axis=-1))


def contact_sheet(
    path: str | Path,
    rows: Sequence[Sequence[np.ndarray | StdMap | None]],
    *,
    column_titles: Sequence[str],
    row_titles: Sequence[str] = (),
    title: str = "",
    footnote: str = "",
) -> None:
    """Writes one picture with a row per measurement and a column per kind of image.

    Small images are magnified by whole numbers, so that their pixels stay square and sharp.

    Args:
      path: the PNG to write.
      rows: images float (H, W, 1 or 3) in [-1, 1], `StdMap`s, or None for an empty cell; sizes
        may differ (the observation of a super-resolution). Pixels that are not finite are magenta.
      column_titles: one per column, such as "reference", "observation", "mean", "std".
      row_titles: one per row, or none. Both may have several lines.
      title: above everything.
      footnote: below everything, small; its lines are not broken.
    """
    # Figure without pyplot keeps no global state and needs no display.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if not rows or any(len(row) != len(column_titles) for row in rows):
        raise ValueError("contact_sheet: every row needs one entry per column, and there is a row")
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"contact_sheet: {len(row_titles)} row titles for {len(rows)} rows")
    cells = [cell for row in rows for cell in row if cell is not None]
    maps = [cell.joined() for cell in cells if isinstance(cell, StdMap)]
    finite = [values[np.isfinite(values)] for values in maps]
    largest = max((float(values.max()) for values in finite if values.size), default=0.0)
    colour_map = colormaps["viridis"].with_extremes(bad="magenta")  # NOT_FINITE
    colours = ScalarMappable(Normalize(0.0, largest or 1.0), colour_map)

    # Whole pixels: axes of a whole multiple of the image's size show every pixel equally large.
    shapes = [np.shape(cell.values if isinstance(cell, StdMap) else cell) for cell in cells]
    rows_of_pixels, columns_of_pixels = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    target = 128 if len(rows) <= 16 else 96
    magnified = max(1, round(target / max(rows_of_pixels, columns_of_pixels)))
    cell_height = rows_of_pixels * magnified
    cell_width = max(columns_of_pixels * magnified, 96)  # Room for the title of the column.
    more_lines = max(name.count("\n") for name in column_titles)
    longest = max((len(line) for name in row_titles for line in name.split("\n")), default=0)
    left = MARGIN + 10 * longest + (2 * GAP if longest else 0)
    top = MARGIN + 24 + 18 * more_lines + (36 if title else 0)
    xs = [left + column * (cell_width + GAP) for column in range(len(column_titles) + 1)]
    ys = [top + row * (cell_height + GAP) for row in range(len(rows) + 1)]
    width = xs[-1] - GAP + MARGIN + (84 if maps else 0)
    height = ys[-1] - GAP + MARGIN + (10 * len(footnote.split("\n")) if footnote else 0)

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def axes(x: float, y: float, x_size: float, y_size: float) -> Any:
        bottom = height - y - y_size
        return figure.add_axes((x / width, bottom / height, x_size / width, y_size / height))

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, color="#222222", **style)

    text(left, MARGIN, title, va="top", fontsize=11, fontweight="bold")
    text(left, ys[-1], footnote, va="top", fontsize=4, linespacing=1.1)
    for x, words in zip(xs, column_titles, strict=False):
        text(x + cell_width / 2, top - GAP, words, ha="center", va="bottom", fontsize=7.5)
    for y, words in zip(ys, row_titles, strict=False):
        text(left - 2 * GAP, y + cell_height / 2, words, ha="right", va="center", fontsize=8)
    for y, row in zip(ys, rows, strict=False):
        for x, cell in zip(xs, row, strict=False):
            if cell is None:
                continue
            if isinstance(cell, StdMap):
                picture = colours.to_rgba(cell.joined(), bytes=True)
            else:
                picture = _to_pixels(cell)
                picture = np.broadcast_to(picture, (*picture.shape[:2], 3))
            box = axes(x, y, cell_width, cell_height)
            box.set_axis_off()
            box.imshow(picture, interpolation="nearest", aspect="equal")
    if maps:
        length = min(ys[-1] - GAP - top, 4 * cell_height)
        bar = figure.colorbar(colours, cax=axes(xs[-1] + GAP, top, 14, length))
        bar.ax.tick_params(labelsize=7, length=2, width=0.5)
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
        bar.set_label("std (images in [-1, 1])", fontsize=7)
    figure.savefig(path, dpi=DPI)
