"""What the suites of `benchmarks.run` compare: tasks, and samplers over their budgets.

Fashion-MNIST at 32 x 32 with the shipped networks. "budgets" ranks few samplers at equal budgets,
on all shipped images, and can search their settings; the others are of 8 images and rank nothing:
"images" asks how far a budget goes on tasks the
amortized networks were trained for; "robustness" asks what networks that know motion blur alone do
elsewhere, with the explicit likelihood (LAVPS) and without (Palette, InvFussion, a generator that
samples in one step), next to a denoiser trained on four families (EPS) and samplers with no network
of their own. "photos" and "photos_unseen" ask the same of photographs, see
`benchmarks.comparison.photos`.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.comparison import photos
from benchmarks.comparison.points import Point, Suite
from lavps_jax.config.settings import load_preset
from lavps_jax.operators import families
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.samplers import (
    DAPS,
    DDNM,
    DDRM,
    DING,
    DPS,
    LAVPS,
    MGDM,
    MGPS,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    Inner,
    OneStep,
    PiGDM,
    REDDiff,
    Supervised,
)

PRIOR = "pretrained/fashion_mnist/prior"
SUPERVISED = {
    "Palette": "benchmarks/weights/palette",
    "InvFussion": "benchmarks/weights/invfussion",
}
"""Denoisers that see the measurement, trained on motion blur."""
ONE_STEP = Point("One step (DAVI)", "", OneStep("benchmarks/weights/one_step"))
"""A generator, trained on motion blur."""
EPS = "benchmarks/weights/pivot"
"""A denoiser that sees the pivot of a measurement, trained on the three tasks and Gaussian blur."""


PRESETS = {
    "motion blur": "configs/fashion_mnist.py",
    "super-resolution": "configs/fashion_mnist_super_resolution.py",
    "inpainting": "configs/fashion_mnist_inpainting.py",
}
"""Tasks of which there is an amortized network."""

UNSEEN: Mapping[str, OperatorFamily] = {
    "motion blur (trained on)": families.MotionBlur(size=9, intensity=0.9),
    "straighter motion blur": families.MotionBlur(size=13, intensity=0.3),
    "gaussian blur": families.GaussianBlur(9, 1.5),
    "super-resolution": families.SuperResolution(factor=2),
    "coarser super-resolution": families.SuperResolution(factor=4),
    "centre box": families.CentreBox(),
    "random box": families.RandomBox(),
    "few pixels": families.RandomPixels(),
    "fewer pixels": families.RandomPixels(min_observed=0.08, max_observed=0.1),
    "high dynamic range": families.HighDynamicRange(),
}
"""What a network trained on motion blur meets."""

SEEN: Mapping[str, OperatorFamily] = {
    task: load_preset(path).operator for task, path in PRESETS.items()
}
SUITES: Mapping[str, Suite] = {
    "budgets": Suite(PRIOR, SEEN, num_images=64, num_particles=1, lpips_vgg=False),
    "images": Suite(PRIOR, SEEN, num_images=8, num_particles=3),
    "robustness": Suite(PRIOR, UNSEEN, num_images=8, num_particles=3),
    "photos": photos.SUITE_SEEN,
    "photos_unseen": photos.SUITE_UNSEEN,
}
BUDGETS = (100, 400)
"""Of "budgets": evaluations of the prior for a sample; a derivative through it counts as two."""


def points_of(suite: str, task: str, search: bool = False) -> list[Point]:
    """The samplers that are run on a task of a suite.

    Args:
      suite, task: their names.
      search: of "budgets", every method with three settings for each budget.
    """
    match suite:
        case "budgets":
            return _budgets(task, search)
        case "robustness":
            return _robustness()
        case "photos":
            return photos.seen_points()
        case "photos_unseen":
            return photos.unseen_points()
        case _:
            return _images(task)


def _mgdm(num_steps: int, num_inner_steps: int) -> MGDM:
    """As in configs/fashion_mnist.py: the inner steps in the half of the grid with less noise."""
    return MGDM(inner_low_noise=Inner(num_inner_steps), num_steps=num_steps)


def _lavps(task: str, num_inner_steps: int) -> LAVPS:
    """As in the task's preset, but for K."""
    sampler = load_preset(PRESETS[task]).sampler
    inner = sampler.inner_low_noise.replace(num_inner_steps=num_inner_steps)
    return sampler.replace(inner_low_noise=inner)


def _budgets(task: str, search: bool) -> list[Point]:
    """As much as BUDGETS allow, three settings of each method for each of them.

    Without a search, the first one: the default, or, of n and K of MGDM, the best in PSNR on
    16 images of the half that settings are chosen on.
    """
    lavps, slower = _lavps(task, 1), Inner(1, 0.3)
    step_size, strength = DPS().step_size, DiffPIR().strength
    penalty = FastDIPS().penalty
    settings = [
        Point("LAVPS", "K = 1", lavps),
        Point("LAVPS", "K = 0", _lavps(task, 0)),
        Point("LAVPS", "K = 1, rate .3", lavps.replace(inner=slower, inner_low_noise=slower)),
        *(
            Point("MGDM", f"n = {n}, K = {k}", _mgdm(n, k))
            for n, k in ((17, 3), (27, 1), (7, 10), (25, 10), (59, 3), (100, 1))
        ),
    ]
    # Evaluations are n - 1, and two more for each of n - 2 derivatives.
    for n in ((budget + 5) // 3 for budget in BUDGETS):
        settings += [
            Point("DPS", f"n = {n}, step x {factor:g}", DPS(n, step_size * factor))
            for factor in (1, 0.5, 2)
        ]
        settings += [
            Point("PiGDM", f"n = {n}, eta {eta:g}", PiGDM(n, eta)) for eta in (1.0, 0.85, 0.5)
        ]
    for n in (budget + 1 for budget in BUDGETS):
        settings += [
            Point("DiffPIR", f"n = {n}, lambda x {factor:g}", DiffPIR(n, strength * factor))
            for factor in (1, 0.5, 2)
        ]
        settings += [
            Point("FAST-DIPS", f"n = {n}, rho {rho:g}", FastDIPS(n, penalty=rho))
            for rho in (penalty, penalty / 2, penalty * 2)
        ]  # fmt: skip
    return settings if search else settings[::3]


def _images(task: str) -> list[Point]:
    """Every method over its budget; all other settings are the defaults."""
    points = [Point("LAVPS", f"K = {k}", _lavps(task, k)) for k in (0, 1, 3)]
    points += [
        Point("MGDM", f"n = {n}, K = {k}", _mgdm(n, k)) for n, k in ((50, 3), (100, 3), (100, 10))
    ]
    points += [Point("DPS", f"n = {n}", DPS(n)) for n in (25, 100)]
    points += [Point("PiGDM", f"n = {n}", PiGDM(n)) for n in (25, 100)]
    points += [Point("DDNM+", f"n = {n}", DDNM(n)) for n in (25, 100)]
    # Time travel: every five steps are run four times.
    points += [Point("DDNM+", "n = 25, 4 times", DDNM(25, travel_length=5, num_travels=4))]
    points += [Point("DDRM", f"n = {n}", DDRM(n)) for n in (21, 101)]
    points += [Point("DiffPIR", f"n = {n}", DiffPIR(n)) for n in (25, 100)]
    points += [Point("RED-diff", f"n = {n}", REDDiff(n)) for n in (100, 1000)]
    step = 0.5 if task == "motion blur" else 1.0  # As in the authors' configurations.
    points += [Point("DAPS", f"n = {n}", DAPS(n, step_size=step)) for n in (20, 100)]
    steps = (100, 300) if task == "motion blur" else (100,)  # 300 are its authors', and dear.
    points += [Point("MGPS", f"n = {n}", MGPS(num_steps=n)) for n in steps]
    points += [Point("DING", f"n = {n}", DING(n)) for n in (25, 50)]
    points += [Point("FAST-DIPS", f"n = {n}", FastDIPS(n)) for n in (25, 50, 100)]
    points += [
        Point("Guess & Guide", f"guided every {k}", GuessAndGuide(guide_every=k)) for k in (3, 1)
    ]
    points += [Point("EPS", f"n = {n}", Supervised(EPS, n)) for n in (10, 25, 100)]
    if task == "motion blur":
        start = _lavps(task, 1).replace(amortized=SUPERVISED["Palette"])
        points += [Point("LAVPS, Palette's start", "K = 1", start)]
        points += [
            Point(method, f"n = {n}", Supervised(denoiser, n))
            for method, denoiser in SUPERVISED.items()
            for n in (10, 25, 100)
        ]
        points += [ONE_STEP]
    return points


def _robustness() -> list[Point]:
    """Networks that know motion blur alone, one that knows four families, and samplers without."""
    return [
        Point("LAVPS", "K = 1", _lavps("motion blur", 1)),
        Point("MGDM", "n = 100, K = 3", _mgdm(100, 3)),
        Point("DPS", "n = 100", DPS()),
        Point("DiffPIR", "n = 25", DiffPIR(25)),
        Point("FAST-DIPS", "n = 25", FastDIPS(25)),
        *(Point(method, "n = 100", Supervised(path)) for method, path in SUPERVISED.items()),
        ONE_STEP,
        Point("EPS", "n = 25", Supervised(EPS, 25)),
    ]
