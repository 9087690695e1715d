"""Families of blurs: motion, Gaussian, out of focus, and a kernel of one's own."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.data.files import read_kernel
from lavps_jax.errors import UserError, check_choices
from lavps_jax.operators.blur import (
    Blur,
    CircularBlur,
    check_kernel_size,
    gaussian_kernel,
    squared_kernel,
)
from lavps_jax.operators.families.base import Family, Setting, check_bounds, drawn
from lavps_jax.operators.motion import motion_kernel
from lavps_jax.types import PRNGKey

Border = Literal["reflect", "circular"]
_LEAST_STD = 0.01
"""Pixels; a narrower Gaussian is a single pixel."""


def _blur(kernel: Float[Array, "k k"], border: Border, x_shape: tuple[int, ...]):
    size, side = kernel.shape[-1], min(x_shape[:2])
    if size > side:
        # `Blur` itself can mirror further, as the published experiments do on small images.
        raise UserError(
            "kernel size",
            size,
            f"give at most the shorter side of the image, {side}, with --operator.size",
        )
    kind = Blur if border == "reflect" else CircularBlur
    return kind(kernel, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class MotionBlur(Family):
    """Blur by a random camera path, a new one for every draw."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    intensity: Setting = 0.9
    """Shakiness of the path: 0 is a straight line, 1 the most tangled; or a range."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""
    extent: Setting = 1.0
    """Scale of the path, above 0; at 1 it spans half to all of the kernel; or a range."""

    def __post_init__(self):
        check_choices(self)
        check_kernel_size(self.size)
        check_bounds("intensity", self.intensity, 0, 1)
        check_bounds("extent", self.extent, _LEAST_STD, 1)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """A fresh kernel; see `motion_kernel`."""
        intensity = drawn(jax.random.fold_in(rng_key, 1), self.intensity)
        extent = drawn(jax.random.fold_in(rng_key, 2), self.extent)
        return _blur(motion_kernel(rng_key, self.size, intensity, extent), self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class GaussianBlur(Family):
    """Blur by a Gaussian."""

    size: int = 61
    """Side of the kernel in pixels, odd."""
    std: Setting = 3.0
    """Standard deviation of the Gaussian in pixels, or a range."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)
        check_kernel_size(self.size)
        check_bounds("std", self.std, _LEAST_STD, math.inf)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """The same kernel for every key, unless std is a range."""
        return _blur(gaussian_kernel(self.size, drawn(rng_key, self.std)), self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class AnisotropicBlur(Family):
    """Blur by a Gaussian that is wider along one direction."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    std: Setting = 4.0
    """Standard deviation along the direction, pixels, or a range."""
    std_across: Setting = 1.0
    """Standard deviation across it, pixels, or a range."""
    angle: Setting = (0.0, 180.0)
    """From the columns towards the rows, degrees; a range is drawn anew for every image."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)
        check_kernel_size(self.size)
        for name in ("std", "std_across"):
            check_bounds(name, getattr(self, name), _LEAST_STD, math.inf)
        check_bounds("angle", self.angle, -360, 360)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """Settings that are ranges are uniform, independently."""
        keys = jax.random.split(rng_key, 3)
        std, across, angle = (
            drawn(key, setting)
            for key, setting in zip(keys, (self.std, self.std_across, self.angle), strict=True)
        )
        kernel = gaussian_kernel(self.size, std, across, angle * math.pi / 180)
        return _blur(kernel, self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class DefocusBlur(Family):
    """Blur by a lens out of focus: an even disc, whose edge is a ramp one pixel wide."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    radius: Setting = 3.0
    """Of the disc, in pixels, or a range; at most half the side."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)
        check_kernel_size(self.size)
        check_bounds("radius", self.radius, _LEAST_STD, self.size / 2)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """The same kernel for every key, unless the radius is a range."""
        place = jnp.arange(self.size) - self.size // 2
        distance = jnp.hypot(place[:, None], place[None])
        kernel = jnp.clip(drawn(rng_key, self.radius) + 0.5 - distance, 0, 1)
        return _blur(kernel / jnp.sum(kernel), self.border, x_shape)


@dataclasses.dataclass(frozen=True)
class KernelFile(Family):
    """Blur by a kernel from a file; always the same."""

    path: str = ""
    """An image file or a .npy file of numbers (k, l): the image of a point at [k // 2, l // 2]. It
    is scaled to the sum 1."""
    border: Border = "reflect"
    """Beyond the border the image is mirrored, or repeats itself (circular)."""

    def __post_init__(self):
        check_choices(self)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur | CircularBlur:
        """The same kernel for every key.

        Raises:
          UserError: if there is no such file, or it holds no kernel that fits the image.
        """
        if not self.path:
            raise UserError("operator.path", "nothing", "give a file of the kernel")
        kernel = squared_kernel(jnp.asarray(read_kernel(self.path, "operator.path")))
        # A point's image is the kernel of a convolution, and `Blur` is a correlation.
        return _blur(kernel[::-1, ::-1], self.border, x_shape)
