"""One of every family, for the tests of operators."""

import dataclasses
from pathlib import Path

from lavps_jax.operators import families

KERNEL = str(Path(__file__).parent / "data" / "kernel.npy")

EXACT = [
    families.RandomBox(),
    families.CentreBox(),
    families.RandomPixels(),
    families.HalfImage("top"),
    families.Outpainting(),
    families.SuperResolution(4),
    families.SuperResolutionBicubic(4),
    families.Colorization(),
    families.Colorization("luma"),
    families.CompressedSensing(),
    families.FourierLines(),
    families.GaussianBlur(7, 1.5, border="circular"),
    families.MotionBlur(7, 0.9, border="circular"),
    families.AnisotropicBlur(7, 2.0, 0.7, border="circular"),
    families.KernelFile(KERNEL, border="circular"),
    families.Identity(),
    families.Mixture(
        (
            families.RandomPixels(),
            families.SuperResolution(2),
            families.Colorization(),
            families.FourierLines(),
        )
    ),
    families.Composition(families.Colorization(), families.Identity()),
    families.Composition(families.Colorization(), families.RandomPixels()),
    families.Composition(families.Colorization("luma"), families.SuperResolutionBicubic(4)),
    families.Composition(families.Colorization(), families.GaussianBlur(7, 1.5, border="circular")),
    families.Composition(families.Colorization(), families.FourierLines()),
    families.Composition(families.SuperResolution(2), families.CompressedSensing()),
]
"""Linear, with a pseudo-inverse in closed form."""
LINEAR = [
    *EXACT,
    families.MotionBlur(9, 0.9),
    families.GaussianBlur(9, (0.8, 2.0)),
    families.AnisotropicBlur(9),
    families.DefocusBlur(7, (1.0, 3.0)),
    families.KernelFile(KERNEL),
    families.Composition(families.GaussianBlur(5, 1.0), families.SuperResolution(2)),
    families.Composition(families.Colorization(), families.GaussianBlur(5, 1.0)),
    families.Stack((families.SuperResolution(4), families.RandomPixels(), families.FourierLines())),
    families.Mixture((families.RandomPixels(), families.MotionBlur(7)), (1.0, 3.0)),
]
NONLINEAR = [
    families.PhaseRetrieval(),
    families.HighDynamicRange(),
    families.JPEG(50, halve_colour=False),
    families.JPEG((10, 60)),
    families.ToneCurve(),
    families.ToneCurve(0.5, 8),
    families.NonlinearBlur(7),
    families.Composition(families.GaussianBlur(5, 1.0), families.JPEG(30)),
    families.Stack((families.HighDynamicRange(), families.SuperResolution(2))),
]
RANDOM = (
    families.RandomBox,
    families.RandomPixels,
    families.MotionBlur,
    families.CompressedSensing,
    families.FourierLines,
    families.NonlinearBlur,
    families.Mixture,
)
COLOUR_ONLY = [family for family in LINEAR if "Colorization" in str(family)]


def is_random(family) -> bool:
    """Whether draws differ: by their nature, by a setting that is a range, or by a part's."""
    settings = (getattr(family, field.name) for field in dataclasses.fields(family))
    if any(isinstance(one, tuple) and one and isinstance(one[0], int | float) for one in settings):
        return True
    parts = (*getattr(family, "parts", ()), getattr(family, "first", None),
             getattr(family, "second", None))  # fmt: skip
    return isinstance(family, RANDOM) or any(isinstance(part, RANDOM) for part in parts)
