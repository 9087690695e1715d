"""What the reports of the suites say of themselves."""

from __future__ import annotations

TITLES = {
    "budgets": "Which sampler is best at equal budgets",
    "images": "How good a sample is for its cost",
    "robustness": "Operators that networks were not trained on",
    "photos": "Photographs: how good a sample is for its cost",
    "photos_unseen": "Photographs: operators that networks are not trained on",
}
_CLOTHES = """\
Fashion-MNIST at 32 x 32, sigma_y = 0.05, {images} test images that no training saw (LPIPS: \
enlarged to 64)"""
_PHOTOGRAPHS = """\
The central 256 x 256 pixels of {images} free photographs, reduced to {side} x {side}, sigma_y = \
0.05: Kodak's 24, and test photographs that neither training nor the choice of settings saw"""
IMAGES = {
    "budgets": _CLOTHES,
    "images": _CLOTHES,
    "robustness": _CLOTHES,
    "photos": _PHOTOGRAPHS,
    "photos_unseen": _PHOTOGRAPHS,
}
ABOUT = """\
{images}; {samples} of each. Scores are means over samples, then over images; brackets \
are 95 % intervals over images (studentized bootstrap, for skewed scores), paired where two \
samplers are compared, each for itself: of many a few leave 0 out by chance. In band: the \
residual's chi-square lies in the central 99 % of what the true image has. Spread: standard \
deviation of the samples of a pixel. Coverage: how often the true value lies in the \
central half of them, 50 % if the samples were of the posterior. Evaluations are of a denoiser's \
network (the prior's, or a supervised one of .4 to .5 times its size), not of amortized ones, and \
a derivative through it counts as two more. Seconds are of one sample among {batch} that are drawn \
at once; memory is that of the compiled program for them. n: points of the time grid; K: gradient \
steps of a block at the low-noise end."""
ABOUT_SETS = """\
Fréchet and kernel: distance of a set with one sample of each measurement to the {others} other \
shipped images, mean over samples, on AlexNet's last layer averaged over pixels; neither is FID or \
KID, and for sets this small they are mostly bias: they do not rank samplers."""
TUNED = """\
What was tuned on what: learning rate, block times and blocks with the start, of MGDM and LAVPS, \
by LPIPS and chi-square on test images of this data set (trials in first_slice.md)"""
"""For whom a comparison on this data set is favourable."""
NO_RANKING = """\
No ranking: {images} images. Which sampler is better is said from {least} on only (--suite \
budgets); rows are in the order of the program."""
SETTINGS = {
    "budgets": f"{TUNED}. The others have their defaults (docs/samplers.md); with --search every "
    "method has three settings for each budget, of which the best on the first half of the images "
    "is reported.",
    "images": "Other settings are the defaults of docs/samplers.md, for MGDM and LAVPS those of "
    "the presets of Fashion-MNIST; the steps of DAPS are half of theirs for motion blur, as its "
    "authors have them. Budgets are ours: MGPS takes its authors' n = 300 on motion blur alone, "
    f"for the time; the n of DPS (1,000) and DAPS (200) are not among them. {TUNED}; all others "
    "are as their authors have them or as defaults say, untuned here.",
    "robustness": "Other settings are those of configs/fashion_mnist.py for LAVPS and MGDM, else "
    "the defaults of docs/samplers.md. On operators that its network does not know LAVPS compares "
    "starts, with more evaluations. Every method has one budget here, and samplers without a "
    f"network of their own are left out but for four. {TUNED}, for the operators that it names; "
    "all others are untuned here.",
}
_PHOTO_SETTINGS = (
    "LAVPS has the settings of configs/photo_deblur.py, and so has MGDM from Gauss-Newton steps, "
    "but for the network; they were chosen by PSNR, LPIPS and chi-square on 8 of the photographs "
    "that are left out here. All other settings are defaults (docs/samplers.md), untuned here."
)
SETTINGS |= {
    "photos": _PHOTO_SETTINGS,
    "photos_unseen": _PHOTO_SETTINGS,
}
BY_OPERATOR = {
    "robustness": "LPIPS by operator. The networks of LAVPS, Palette, InvFussion and the generator "
    "were trained on the first one alone, EPS's on it, Gaussian blur, super-resolution and few "
    "pixels. LAVPS has the likelihood as well, and the rest have nothing but the likelihood.",
    "photos_unseen": "LPIPS by operator. LAVPS's network was trained on none of them.",
}
"""Below the figures of operators."""
_ONE_NETWORK = (
    "LAVPS has one network for all tasks, trained on the linear operators of "
    "configs/photo_amortized.py; pretrained/photo/README.md says how long."
)
TRAINED = {
    "budgets": "LAVPS's networks were trained for 2,000 (motion blur) or 6,000 steps of 16 blocks, "
    "each on its task.",
    "images": "Networks were not trained equally long: LAVPS's for 2,000 (motion blur) or 6,000 "
    "steps of 16 blocks; those that see the measurement and have no likelihood for {palette:,} "
    "(Palette), {invfussion:,} (InvFussion), {pivot:,} (EPS) and {one_step:,} steps (one step, on "
    "top of Palette) of 32 images. EPS was trained on the three tasks and Gaussian blur, the other "
    "three on motion blur alone.",
    "photos": _ONE_NETWORK,
    "photos_unseen": _ONE_NETWORK,
    "robustness": "Networks were not trained equally long: LAVPS's for 2,000 steps of 16 blocks; "
    "those that see the measurement and have no likelihood for {palette:,} (Palette), "
    "{invfussion:,} (InvFussion), {one_step:,} (one step, on top of Palette) and {pivot:,} steps "
    "(EPS) of 32 images. EPS was trained on motion blur, Gaussian blur, super-resolution by 2 and "
    "few pixels, the others on motion blur alone.",
}
