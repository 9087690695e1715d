"""Measurement operators: what is observed of an image."""

from lavps_jax.operators.base import (
    FunctionOperator,
    LinearOperator,
    MeasurementOperator,
    NonlinearOperator,
    from_forward,
    from_function,
)
from lavps_jax.operators.blur import Blur, gaussian_kernel
from lavps_jax.operators.families import (
    CentreBox,
    Denoise,
    GaussianBlur,
    MotionBlur,
    OperatorFamily,
    RandomBox,
    RandomPixels,
    SuperResolve,
)
from lavps_jax.operators.identity import Identity
from lavps_jax.operators.inpainting import Inpainting
from lavps_jax.operators.motion import motion_kernel
from lavps_jax.operators.super_resolution import SuperResolution

__all__ = [
    "Blur",
    "CentreBox",
    "Denoise",
    "FunctionOperator",
    "GaussianBlur",
    "Identity",
    "Inpainting",
    "LinearOperator",
    "MeasurementOperator",
    "MotionBlur",
    "NonlinearOperator",
    "OperatorFamily",
    "RandomBox",
    "RandomPixels",
    "SuperResolution",
    "SuperResolve",
    "from_forward",
    "from_function",
    "gaussian_kernel",
    "motion_kernel",
]
