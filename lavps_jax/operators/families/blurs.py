"""Families of blurs: motion, Gaussian, and a kernel of one's own."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image, UnidentifiedImageError

from lavps_jax.errors import UserError, check_choices
from lavps_jax.operators.blur import Blur, CircularBlur, check_kernel_size, gaussian_kernel
from lavps_jax.operators.families.base import Family
from lavps_jax.operators.motion import motion_kernel
from lavps_jax.types import PRNGKey

__all__ = ["AnisotropicBlur", "Border", "GaussianBlur", "KernelFile", "MotionBlur"]

Border = Literal["reflect", "circular"]


def _blur(kernel: Float[Array, "k k"], border: Border, x_shape: tuple[int, ...]):
    kind = Blur if border == "reflect" else CircularBlur
    return kind(kernel, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class MotionBlur(Family):
    """Blur by a random camera path, a new one for every draw."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    intensity: float = 0.9
    """Shakiness of the path: 0 is a straight line, 1 the most tangled."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)
        check_kernel_size(self.size)
        if not 0 <= self.intensity <= 1:
            raise UserError("intensity", self.intensity, "give a number in [0, 1]")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """A fresh kernel; see `motion_kernel`."""
        return _blur(motion_kernel(rng_key, self.size, self.intensity), self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class GaussianBlur(Family):
    """Blur by a Gaussian; always the same."""

    size: int = 61
    """Side of the kernel in pixels, odd."""
    std: float = 3.0
    """Standard deviation of the Gaussian in pixels."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)
        check_kernel_size(self.size)
        if not self.std > 0:
            raise UserError("std", self.std, "give a positive number of pixels")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """The same kernel for every key."""
        return _blur(gaussian_kernel(self.size, self.std), self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class AnisotropicBlur(Family):
    """Blur by a Gaussian that is wider along one direction, a new direction for every draw."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    std: float = 4.0
    """Standard deviation along the direction, pixels."""
    std_across: float = 1.0
    """Standard deviation across it, pixels."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)
        gaussian_kernel(self.size, self.std, self.std_across)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """The direction is uniform."""
        angle = jax.random.uniform(rng_key, (), maxval=jnp.pi)
        kernel = gaussian_kernel(self.size, self.std, self.std_across, angle)
        return _blur(kernel, self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class KernelFile(Family):
    """Blur by a kernel from a file; always the same."""

    path: str = ""
    """A picture, or a .npy file of numbers (k, k) with k odd. It is scaled to the sum 1."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """The same kernel for every key.

        Raises:
          UserError: if there is no such file, or it holds no kernel that fits the image.
        """
        try:
            if self.path.endswith(".npy"):
                kernel = np.asarray(np.load(self.path, allow_pickle=False), np.float64)
            else:
                with Image.open(self.path) as picture:
                    kernel = np.asarray(picture.convert("L"), np.float64)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, TypeError) as error:
            remedy = "give a picture or an .npy file of numbers"
            raise UserError("operator.path", self.path or "nothing", remedy) from error
        if kernel.ndim != 2 or not np.isfinite(kernel).all() or not kernel.sum() > 0:
            found = f"{self.path} of shape {kernel.shape} with the sum {kernel.sum():g}"
            remedy = "give finite numbers (k, k) with a positive sum"
            raise UserError("operator.path", found, remedy)
        return _blur(jnp.asarray(kernel / kernel.sum()), self.border, x_shape)
