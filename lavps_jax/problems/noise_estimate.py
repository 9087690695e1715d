"""How strong the noise of an image is, from the image alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from lavps_jax.errors import UserError

_MOST_STD = 0.4
"""Above it the estimate of clipped values is a tenth too small, and soon far too small."""


def estimate_sigma_y(
    y: Float[np.ndarray, "H W C"],
    seen: Bool[np.ndarray, "H W C"] | None = None,
    step: float = 0.0,
) -> float:
    """Standard deviation of white Gaussian noise in an image, in its units.

    Median of the finest diagonal Haar details over .6745, the robust estimate of Donoho and
    Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994. Detail of the image
    itself counts as noise: of sharp and small images it is too large.

    Args:
      y: the image, (H, W, C).
      seen: which of its entries were measured; None is all. Details of others are left out.
      step: distance of neighbouring grey levels in a file of whole numbers; 0 for floats. Rounding
        to levels counts as noise, as it does in the likelihood, and details with a value at -1 or
        1, where noise may have been clipped, are left out.

    Raises:
      UserError: if y is no image, fewer than 16 details are left, no noise is to be seen: what
        rounding alone would give, or so much of it that what was clipped decides.
    """
    y = np.asarray(y)
    if y.ndim != 3 or np.iscomplexobj(y):
        remedy = "give a number: only the noise of images can be estimated"
        raise UserError("sigma_y", f"estimate, y {y.dtype} {y.shape}", remedy)
    usable = np.ones(y.shape, bool) if seen is None else np.asarray(seen, bool)
    if step:
        usable = usable & (np.abs(y) < 1)
    is_clipped = bool(np.any(np.abs(y) >= 1) and np.all(np.abs(y) <= 1))
    # The median of rounded values is one of few numbers; spread over a level, it is none of them.
    y = y + step * np.random.default_rng(0).uniform(-0.5, 0.5, y.shape)
    a, b, c, d = _corners(y)
    detail = ((a - b - c + d) / 2)[np.logical_and.reduce(_corners(usable))]
    if detail.size < 16:
        remedy = "give a number: too few measured pixels lie together and are not clipped"
        raise UserError("sigma_y", "estimate", remedy)
    variance = (np.median(np.abs(detail)) / 0.6745) ** 2 - step**2 / 12
    # What rounding alone gives, of levels or of float32 numbers, and three standard errors of the
    # median's square, which sees that variance twice: with what it was spread by.
    rounding = max(step**2 / 12, 1e-6**2) * (1 + 3 * 2 * 2.33 / np.sqrt(detail.size))
    if not variance > rounding:
        remedy = (
            f"give a number: no noise is to be seen above that of rounding, {rounding**0.5:.2g}"
        )
        raise UserError("sigma_y", "estimate", remedy)
    if is_clipped and variance > _MOST_STD**2:
        remedy = f"give a number: noise above {_MOST_STD:g} cannot be told from clipped pixels"
        raise UserError("sigma_y", f"estimate, {variance**0.5:.2g}", remedy)
    return float(np.sqrt(variance))


def _corners(image: np.ndarray) -> list[np.ndarray]:
    """The four pixels of all blocks of 2 x 2."""
    height, width = (length // 2 * 2 for length in image.shape[:2])
    return [image[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
