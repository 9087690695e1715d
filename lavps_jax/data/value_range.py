"""Which number is black and which is white: one rule for every way in which images come in."""

from __future__ import annotations

import numpy as np
from jaxtyping import Num

from lavps_jax.errors import UserError

ValueRange = tuple[float, float]
"""(the number of black, the number of white)."""

DEPTHS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}
_LARGEST_BLOCK = 4


def check_value_range(name: str, given: ValueRange | None) -> None:
    """Raises a UserError unless the numbers are finite and black is below white, or None."""
    if given is not None and not -np.inf < given[0] < given[1] < np.inf:
        raise UserError(name, given, "give the number of black, then a larger one of white")


def range_of(
    numbers: Num[np.ndarray, "*B H W C"],
    given: ValueRange | None = None,
    white: int | None = None,
    *,
    field: str,
    found: str,
    flag: str = "--value-range",
) -> ValueRange:
    """The numbers of black and white.

    They are what the user gives. Otherwise whole numbers of 8 bits range from 0 to 255, those of 16
    bits from 0 to 65535 or to the white that the file declares, and floats from -1 to 1. Floats
    that could also range from 0 are refused: those whose darkest hundredth is not at least half as
    far below 0 as the brightest is above it. Of large images this looks at means of 4 x 4 pixels,
    so that noise does not hide it. Numbers of which none is above 0 are taken as they are.

    Args:
      numbers: one image or several.
      given: (black, white), if the user says so.
      white: what the file declares.
      field: what errors are about.
      found: what errors call the numbers.
      flag: with which the user gives the range.

    Raises:
      UserError: if nothing tells the range, or whole numbers lie outside of it.
    """
    spread = f"{found} with numbers from {numbers.min():.4g} to {numbers.max():.4g}"
    if np.issubdtype(numbers.dtype, np.floating):
        if given is None and not _is_around_zero(numbers):
            remedy = f"say which numbers are black and white: {flag} 0 1, or -1 1, or others"
            raise UserError(field, spread, remedy)
        return given or (-1.0, 1.0)
    if given is None and numbers.dtype not in DEPTHS:
        remedy = f"save it with 8 or 16 bits or as floats in [-1, 1], or give {flag} BLACK WHITE"
        raise UserError(field, f"{found} of {numbers.dtype}", remedy)
    black, white_ = given or (0.0, float(white or np.iinfo(numbers.dtype).max))
    if numbers.min() < black or numbers.max() > white_:
        remedy = f"give {flag} BLACK WHITE that includes them: not {black:g} {white_:g}"
        raise UserError(field, spread, remedy)
    return black, white_


def _is_around_zero(numbers: np.ndarray) -> bool:
    height, width, channels = numbers.shape[-3:]
    block = min(max(min(height, width) // 8, 1), _LARGEST_BLOCK)
    rows, columns = height // block, width // block
    cut = numbers[..., : rows * block, : columns * block, :]
    blocks = cut.reshape(-1, rows, block, columns, block, channels)
    dark, bright = np.quantile(blocks.mean((2, 4), dtype=np.float64), (0.01, 0.99))
    if numbers.max() <= 0:
        return True
    return bool(dark < 0 and dark <= -bright / 2)
