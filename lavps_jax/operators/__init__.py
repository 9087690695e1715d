"""Measurement operators: what is observed of an image."""

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
from lavps_jax.operators.families import (
    AnisotropicBlur,
    CentreBox,
    Colorization,
    Compressed,
    CompressedSensing,
    Denoise,
    FourierLines,
    GaussianBlur,
    HalfImage,
    HighDynamicRange,
    KernelFile,
    MaskFile,
    Mixture,
    MotionBlur,
    NonlinearBlur,
    OneFamily,
    OperatorFamily,
    Outpainting,
    PhaseRetrieval,
    RandomBox,
    RandomPixels,
    Several,
    SuperResolve,
    SuperResolveBicubic,
    Then,
    Tone,
)
from lavps_jax.operators.fourier import FourierSampling
from lavps_jax.operators.given_function import (
    FunctionOperator,
    NonlinearOperator,
    from_forward,
    from_function,
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
    "AnisotropicBlur",
    "Blur",
    "Brightness",
    "CentreBox",
    "CircularBlur",
    "Clipping",
    "Colorization",
    "Composition",
    "Compressed",
    "CompressedSensing",
    "Cropped",
    "Denoise",
    "Dense",
    "FourierLines",
    "FourierMagnitude",
    "FourierSampling",
    "FunctionOperator",
    "GaussianBlur",
    "HalfImage",
    "HighDynamicRange",
    "Identity",
    "Inpainting",
    "KernelFile",
    "LightBlur",
    "LinearComposition",
    "LinearCropped",
    "LinearOperator",
    "LinearStack",
    "MaskFile",
    "MeasurementOperator",
    "Mixture",
    "MotionBlur",
    "NonlinearBlur",
    "NonlinearOperator",
    "OneFamily",
    "LinearOneOf",
    "OneOf",
    "OperatorFamily",
    "Outpainting",
    "PhaseRetrieval",
    "RandomBox",
    "RandomPixels",
    "ScrambledHadamard",
    "Separable",
    "Several",
    "SpectralComposition",
    "Stack",
    "SuperResolution",
    "SuperResolve",
    "SuperResolveBicubic",
    "Then",
    "Tone",
    "ToneCurve",
    "compose",
    "one_of",
    "cropped",
    "from_forward",
    "from_function",
    "from_matrix",
    "gaussian_kernel",
    "motion_kernel",
    "stack",
]
