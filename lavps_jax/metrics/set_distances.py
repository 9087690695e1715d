"""Distances between two sets of images, by features of them: on the host in float64.

A name such as FID belongs to certain features: `frechet_distance` is FID on the pooled features of
the InceptionV3 of its authors, `kernel_distance` is KID on the same and, with the Gaussian kernel
and a factor of 1000, CMMD on embeddings of CLIP. `lavps_jax.compare_sets` computes these features;
with those of AlexNet they are distances on AlexNet, and should be called so.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from lavps_jax.errors import UserError

CMMD_BANDWIDTH = 10.0


def frechet_distance(a: Float[np.ndarray, "N F"], b: Float[np.ndarray, "M F"]) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with the moments of two sets, >= 0.

    ||m_a - m_b||^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2). Its bias is large unless both
    sets have many more entries than F: compare only numbers of equal N, M and features.

    Args:
      a, b: features, at least two rows each.
    Raises:
      UserError: if shapes do not fit.
    References: Heusel et al., NeurIPS 2017, arXiv:1706.08500.
    """
    a, b = _checked(a, b)
    root = _root(np.cov(a, rowvar=False))
    cross = _root(root @ np.atleast_2d(np.cov(b, rowvar=False)) @ root)
    spread = np.var(a, axis=0, ddof=1).sum() + np.var(b, axis=0, ddof=1).sum()
    shift = np.sum((a.mean(0) - b.mean(0)) ** 2)
    return float(max(shift + spread - 2 * np.trace(cross), 0.0))


def kernel_distance(
    a: Float[np.ndarray, "N F"],
    b: Float[np.ndarray, "M F"],
    kernel: Literal["cubic", "gaussian"] = "cubic",
) -> float:
    """Squared maximum mean discrepancy, unbiased: 0 on average for sets of one law, maybe below.

    Args:
      a, b: independent features, at least two rows each.
      kernel: "cubic", (x . y / F + 1)^3 (KID), or "gaussian", exp(-||x - y||^2 / 200) (CMMD).
    Raises:
      UserError: if shapes do not fit or there is no such kernel.
    References: Binkowski et al., ICLR 2018, arXiv:1801.01401; Jayasumana et al., CVPR 2024,
      arXiv:2401.09603.
    """
    a, b = _checked(a, b)
    if kernel not in ("cubic", "gaussian"):
        raise UserError("kernel", repr(kernel), 'use "cubic" or "gaussian"')

    def values(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        products = x @ y.T
        if kernel == "cubic":
            return (products / x.shape[1] + 1) ** 3
        square = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)[None] - 2 * products
        return np.exp(-square / (2 * CMMD_BANDWIDTH**2))

    def without_diagonal(x: np.ndarray) -> float:
        found = values(x, x)
        return (found.sum() - np.trace(found)) / (len(x) * (len(x) - 1))

    return float(without_diagonal(a) + without_diagonal(b) - 2 * values(a, b).mean())


def _root(matrix: np.ndarray) -> np.ndarray:
    """Of a positive semi-definite matrix; eigenvalues that rounding made negative are 0."""
    values, vectors = np.linalg.eigh(np.atleast_2d(matrix))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        shapes = f"shapes {a.shape} and {b.shape}"
        raise UserError("features", shapes, "give (N, F) and (M, F) with N and M of at least 2")
    return a, b
