"""One of every family, for the tests of operators."""

import dataclasses
from pathlib import Path

from lavps_jax.operators import (
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
    Mixture,
    MotionBlur,
    NonlinearBlur,
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

KERNEL = str(Path(__file__).parent / "data" / "kernel.npy")

EXACT = [
    RandomBox(),
    CentreBox(),
    RandomPixels(),
    HalfImage("top"),
    Outpainting(),
    SuperResolve(4),
    SuperResolveBicubic(4),
    Colorization(),
    Colorization("luma"),
    CompressedSensing(),
    FourierLines(),
    GaussianBlur(7, 1.5, border="circular"),
    MotionBlur(7, 0.9, border="circular"),
    AnisotropicBlur(7, 2.0, 0.7, border="circular"),
    KernelFile(KERNEL, border="circular"),
    Denoise(),
    Mixture((RandomPixels(), SuperResolve(2), Colorization(), FourierLines())),
    Then(Colorization(), Denoise()),
    Then(Colorization(), RandomPixels()),
    Then(Colorization("luma"), SuperResolveBicubic(4)),
    Then(Colorization(), GaussianBlur(7, 1.5, border="circular")),
    Then(Colorization(), FourierLines()),
    Then(SuperResolve(2), CompressedSensing()),
]
"""Linear, with a pseudo-inverse in closed form."""
LINEAR = [
    *EXACT,
    MotionBlur(9, 0.9),
    GaussianBlur(11, (0.8, 2.0)),
    AnisotropicBlur(9),
    KernelFile(KERNEL),
    Then(GaussianBlur(5, 1.0), SuperResolve(2)),
    Then(Colorization(), GaussianBlur(5, 1.0)),
    Several((SuperResolve(4), RandomPixels(), FourierLines())),
    Mixture((RandomPixels(), MotionBlur(7)), (1.0, 3.0)),
]
NONLINEAR = [
    PhaseRetrieval(),
    HighDynamicRange(),
    Compressed(50, halve_colour=False),
    Compressed((10, 60)),
    Tone(),
    Tone(0.5, 8),
    NonlinearBlur(7),
    Then(GaussianBlur(5, 1.0), Compressed(30)),
    Several((HighDynamicRange(), SuperResolve(2))),
]
RANDOM = (RandomBox, RandomPixels, MotionBlur, CompressedSensing, FourierLines,
          NonlinearBlur, Mixture)  # fmt: skip
COLOUR_ONLY = [family for family in LINEAR if "Colorization" in str(family)]


def is_random(family) -> bool:
    """Whether draws differ: by their nature, by a setting that is a range, or by a part's."""
    settings = (getattr(family, field.name) for field in dataclasses.fields(family))
    if any(isinstance(one, tuple) and one and isinstance(one[0], int | float) for one in settings):
        return True
    parts = (*getattr(family, "parts", ()), getattr(family, "first", None),
             getattr(family, "second", None))  # fmt: skip
    return isinstance(family, RANDOM) or any(isinstance(part, RANDOM) for part in parts)
