"""Families of operators: plain settings that say how to draw a random operator.

Every family has `draw(rng_key, x_shape)`, pure and free of shapes that depend on the draw: all
draws of one family have one tree structure, so `jax.vmap` over keys gives a stack of operators.
"""

from lavps_jax.operators.families.blurs import (
    AnisotropicBlur,
    Border,
    DefocusBlur,
    GaussianBlur,
    KernelFile,
    MotionBlur,
)
from lavps_jax.operators.families.combined import (
    Composition,
    Mixture,
    OperatorFamily,
    SingleFamily,
    Stack,
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

__all__ = [
    "AnisotropicBlur",
    "Border",
    "CentreBox",
    "Colorization",
    "JPEG",
    "CompressedSensing",
    "DefocusBlur",
    "Identity",
    "FourierLines",
    "GaussianBlur",
    "HalfImage",
    "HighDynamicRange",
    "KernelFile",
    "MaskFile",
    "Mixture",
    "MotionBlur",
    "NonlinearBlur",
    "SingleFamily",
    "OperatorFamily",
    "Outpainting",
    "PhaseRetrieval",
    "RandomBox",
    "RandomPixels",
    "Stack",
    "SuperResolution",
    "SuperResolutionBicubic",
    "Composition",
    "ToneCurve",
]
