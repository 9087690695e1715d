"""Measurement operators: what is observed of an image."""

from lavps_jax.operators import families
from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.operators.blur import Blur, CircularBlur, gaussian_kernel
from lavps_jax.operators.colour import Brightness
from lavps_jax.operators.combined import (
    Composition,
    LinearComposition,
    LinearOneOf,
    LinearStack,
    OneOf,
    SpectralComposition,
    Stack,
    compose,
    one_of,
    stack,
)
from lavps_jax.operators.cropped import Cropped, LinearCropped, cropped
from lavps_jax.operators.dense import Dense, from_matrix
from lavps_jax.operators.fourier import FourierSampling
from lavps_jax.operators.given_function import (
    FunctionOperator,
    NonlinearOperator,
    linear_operator,
    nonlinear_operator,
)
from lavps_jax.operators.hadamard import ScrambledHadamard
from lavps_jax.operators.identity import Identity
from lavps_jax.operators.inpainting import Inpainting
from lavps_jax.operators.jpeg import JPEG
from lavps_jax.operators.motion import motion_kernel
from lavps_jax.operators.nonlinear import Clipping, FourierMagnitude, LightBlur, ToneCurve
from lavps_jax.operators.separable import Separable
from lavps_jax.operators.super_resolution import SuperResolution

__all__ = [
    "JPEG",
    "Blur",
    "Brightness",
    "CircularBlur",
    "Clipping",
    "Composition",
    "Cropped",
    "Dense",
    "FourierMagnitude",
    "FourierSampling",
    "FunctionOperator",
    "Identity",
    "Inpainting",
    "LightBlur",
    "LinearComposition",
    "LinearCropped",
    "LinearOperator",
    "LinearStack",
    "MeasurementOperator",
    "NonlinearOperator",
    "LinearOneOf",
    "OneOf",
    "ScrambledHadamard",
    "Separable",
    "SpectralComposition",
    "Stack",
    "SuperResolution",
    "ToneCurve",
    "compose",
    "one_of",
    "cropped",
    "linear_operator",
    "nonlinear_operator",
    "families",
    "from_matrix",
    "gaussian_kernel",
    "motion_kernel",
    "stack",
]
