"""Families made of families: one after another, several at once, or one out of several."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import jax
import jax.numpy as jnp
from etils import epy

from lavps_jax.errors import UserError
from lavps_jax.operators import combined
from lavps_jax.operators.families.base import Family
from lavps_jax.operators.families.blurs import (
    AnisotropicBlur,
    DefocusBlur,
    GaussianBlur,
    KernelFile,
    MotionBlur,
)
from lavps_jax.operators.families.masks import (
    CentreBox,
    HalfImage,
    MaskFile,
    Outpainting,
    RandomBox,
    RandomPixels,
)
from lavps_jax.operators.families.nonlinear import (
    JPEG,
    HighDynamicRange,
    NonlinearBlur,
    PhaseRetrieval,
    ToneCurve,
)
from lavps_jax.operators.families.sampling import (
    Colorization,
    CompressedSensing,
    FourierLines,
    Identity,
    SuperResolution,
    SuperResolutionBicubic,
)
from lavps_jax.types import PRNGKey

with epy.lazy_imports():  # Only a command line needs it, and it takes long to import.
    import tyro

SingleFamily = (
    RandomBox
    | CentreBox
    | RandomPixels
    | HalfImage
    | Outpainting
    | MaskFile
    | SuperResolution
    | SuperResolutionBicubic
    | MotionBlur
    | GaussianBlur
    | AnisotropicBlur
    | DefocusBlur
    | KernelFile
    | Identity
    | Colorization
    | CompressedSensing
    | FourierLines
    | PhaseRetrieval
    | HighDynamicRange
    | JPEG
    | ToneCurve
    | NonlinearBlur
)
"""Families that are not made of others; a new one is added here."""


@dataclasses.dataclass(frozen=True)
class Composition(Family):
    """One operator after another, such as a blur and then fewer pixels."""

    first: Annotated[SingleFamily, tyro.conf.Suppress] = GaussianBlur(9, 1.5)
    """What is done to the image."""
    second: Annotated[SingleFamily, tyro.conf.Suppress] = SuperResolution(2)
    """What is done to its measurement."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> combined.Composition:
        """Both are drawn, independently."""
        key_first, key_second = jax.random.split(rng_key)
        first = self.first.draw(key_first, x_shape)
        return combined.compose(first, self.second.draw(key_second, first.y_shape))

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        between = self.second.image_shape(y_shape)
        return None if between is None else self.first.image_shape(between)


@dataclasses.dataclass(frozen=True)
class Stack(Family):
    """Several measurements of one image."""

    parts: Annotated[tuple[SingleFamily, ...], tyro.conf.Suppress] = (
        SuperResolution(4),
        RandomPixels(),
    )
    """One for each measurement."""

    def __post_init__(self):
        if not self.parts:
            raise UserError("operator.parts", "nothing", "give at least one family")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> combined.Stack:
        """All are drawn, independently."""
        keys = jax.random.split(rng_key, len(self.parts))
        drawn = (part.draw(key, x_shape) for part, key in zip(self.parts, keys, strict=True))
        return combined.stack(*drawn)

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Vectors do not tell it."""
        return None


@dataclasses.dataclass(frozen=True)
class Mixture(Family):
    """One family out of several, drawn for every image: what one network can be trained on."""

    families: Annotated[tuple[SingleFamily | Composition | Stack, ...], tyro.conf.Suppress] = (
        RandomPixels(),
        SuperResolution(2),
        MotionBlur(9),
    )
    """Families, whose settings may be ranges."""
    weights: Annotated[tuple[float, ...], tyro.conf.Suppress] = ()
    """How often each is drawn, positive, in any unit; empty is equally often."""

    def __post_init__(self):
        if not self.families:
            raise UserError("operator.families", "nothing", "give at least one family")
        if self.weights and len(self.weights) != len(self.families):
            remedy = f"give {len(self.families)} of them, or none"
            raise UserError("operator.weights", self.weights, remedy)
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UserError("operator.weights", self.weights, "give positive numbers")

    def includes(self, other: Family) -> bool:
        return self == other or any(one.includes(other) for one in self.families)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> combined.OneOf:
        """One operator of every family is drawn, and which of them it is."""
        key_which, *keys = jax.random.split(rng_key, len(self.families) + 1)
        choices = (one.draw(key, x_shape) for one, key in zip(self.families, keys, strict=True))
        weights = jnp.asarray(self.weights or (1.0,) * len(self.families))
        return combined.one_of(jax.random.categorical(key_which, jnp.log(weights)), *choices)

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Vectors do not tell it."""
        return None


OperatorFamily = SingleFamily | Composition | Stack | Mixture
"""Settings that say how to draw an operator."""
