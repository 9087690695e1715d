"""`lavps-sample photo`: what a user says of a photograph, as settings of a sampling run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image, JpegImagePlugin

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.data.files import ImageFile, read_kernel, read_mask
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.operators.families import JPEG, KernelFile, MaskFile, OperatorFamily, SuperResolution
from lavps_jax.operators.jpeg import quantization_tables
from lavps_jax.problems.noise_estimate import estimate_sigma_y

_FILE, _FOLDER, _NOISE, _WHOLE = (
    tyro.conf.arg(metavar=metavar, help_behavior_hint="")
    for metavar in ("FILE", "FOLDER", "LEVELS|estimate", "NUMBER")
)
"""How --help shows what may be left out."""
SMALLEST = 16
"""Pixels of the shorter side of a photograph, at least."""
TILE, OVERLAP = 256, 32
"""Pixels of a tile that is chosen here, and those that neighbours share."""
LARGEST_WHOLE = 600_000
"""Results of more pixels are evaluated on tiles, unless --tile says otherwise."""
UNITS_PER_LEVEL = 2 / 255
"""From grey levels, 0 to 255, to the units of images in [-1, 1]."""
_TASKS = {
    "kernel": "deblur", "mask": "inpaint", "scale_mask": "inpaint", "scale": "upscale",
    "quality": "dejpeg",
}  # fmt: skip
"""Flags that belong to one task."""


@dataclass(frozen=True)
class PhotoConfig:
    """Restores a photograph of your own and writes it with the depth, colour profile and upright
    orientation of the original. The photograph itself is never changed."""

    photo: Annotated[str, tyro.conf.Positional, _FILE]
    """The file: JPEG, PNG, WebP, BMP or TIFF with 8 or 16 bits a channel."""
    task: Literal["denoise", "deblur", "upscale", "inpaint", "dejpeg"]
    """denoise: take away grain. deblur: sharpen, with the blur in --kernel. upscale: enlarge.
    inpaint: fill what is black in --mask. dejpeg: take away the blocks of a JPEG file."""
    out: Annotated[str | None, _FOLDER] = None
    """Folder for the results. By default FILE-restored in the working folder."""
    samples: int = 1
    """How many restorations to draw. They differ where the photograph leaves open what was there;
    with several you also get their mean, and a map of how far they differ."""
    noise: Annotated[float | Literal["estimate"] | None, _NOISE] = None
    """How grainy the photograph is: the standard deviation of its noise in grey levels, where black
    is 0 and white 255 (2 is hardly visible, 25 strong). By default it is estimated to denoise and
    deblur, and 2.5 otherwise."""
    kernel: Annotated[str | None, _FILE] = None
    """deblur: a picture of what the blur makes of a single bright point, or a .npy file of it."""
    mask: Annotated[str | None, _FILE] = None
    """inpaint: a picture of the same size, white where the photograph is kept and black (or
    transparent) where it is filled."""
    scale_mask: bool = False
    """inpaint: bring a mask of another size to that of the photograph."""
    scale: Annotated[
        Literal[2, 3, 4] | None, tyro.conf.arg(metavar="2|3|4", help_behavior_hint="")
    ] = None
    """upscale: how many times as wide and as high. By default 2."""
    quality: Annotated[int | None, _WHOLE] = None
    """dejpeg: with which the file was saved, 1 to 100. By default what the file says, if it is
    JPEG."""
    tile: Annotated[int | None, _WHOLE] = None
    """Pixels a side of the pieces that are computed together: fewer need less memory. By
    default 256 for large photographs, and others in one piece."""
    steps: Annotated[int | None, _WHOLE] = None
    """More take longer and may look better, from 4. By default 30."""
    overwrite: bool = False
    """Replace the results of an earlier run in the same folder."""

    def __post_init__(self):
        for name, task in _TASKS.items():
            if getattr(self, name) not in (None, False) and self.task != task:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(flag, f"it with --task {self.task}", f"it goes with --task {task}")
        if self.task == "deblur" and self.kernel is None:
            remedy = "give --kernel FILE: what the blur makes of a single bright point"
            raise UserError("--kernel", "nothing", remedy)
        if self.task == "inpaint" and self.mask is None:
            remedy = "give --mask FILE: white where the photograph is kept, black where it is not"
            raise UserError("--mask", "nothing", remedy)
        check_at_least("--samples", self.samples, 1)
        if isinstance(self.noise, int | float) and not 0 < self.noise <= 255:
            raise UserError("--noise", self.noise, "give grey levels above 0, at most 255")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UserError("--quality", self.quality, "give a number from 1 to 100")
        if self.tile is not None:
            check_at_least("--tile", self.tile, 64)
        if self.steps is not None:
            check_at_least("--steps", self.steps, 4)

    @property
    def out_dir(self) -> str:
        """Where the results go."""
        return self.out or f"{Path(self.photo).stem}-restored"


def sample_config(words: PhotoConfig, photo: ImageFile) -> SampleConfig:
    """The preset configs/photo_TASK.py with everything that the words say.

    Args:
      words: of the user.
      photo: the file `words.photo`.

    Raises:
      UserError: if the photograph shows nothing, its noise cannot be estimated, or a kernel, mask
        or JPEG quality does not fit it.
    """
    preset: Any = load_preset(f"configs/photo_{words.task}.py")
    sides = photo.pixels.shape[:2]
    if min(sides) < SMALLEST:
        found = f"{words.photo} of {_size(sides)} pixels"
        raise UserError("photo", found, f"give one of at least {SMALLEST} pixels a side")
    if np.all(photo.pixels == photo.pixels[0, 0]):
        raise UserError("photo", f"{words.photo} of one colour", "there is nothing to restore")
    operator = _operator(words, sides, preset.operator)
    height, width, _ = operator.image_shape(photo.pixels.shape)
    tile = words.tile or (TILE if height * width > LARGEST_WHOLE else None)
    sampler = preset.sampler
    return dataclasses.replace(
        preset,
        observations=words.photo,
        operator=operator,
        sampler=sampler if words.steps is None else sampler.replace(num_steps=words.steps),
        sigma_y=_sigma_y(words, photo, operator, preset.sigma_y),
        out_dir=words.out_dir,
        overwrite=words.overwrite,
        num_particles=words.samples,
        batch_size=1,
        tile=tile,
        tile_overlap=OVERLAP,
    )


def _operator(words: PhotoConfig, sides: tuple[int, ...], default: Any) -> Any:
    """What was done to the photograph of these sides; `default` is the preset's."""
    family: OperatorFamily = default
    if words.kernel is not None:
        kernel = read_kernel(words.kernel, "--kernel")
        if max(kernel.shape) > min(sides):
            found = f"{words.kernel} of {_size(kernel.shape)} pixels"
            raise UserError("--kernel", found, f"give at most {min(sides)}, as the photo has")
        family = KernelFile(words.kernel)
    if words.mask is not None:
        mask = read_mask(words.mask, "--mask")
        if mask.shape != sides and not words.scale_mask:
            found = f"{words.mask} of {_size(mask.shape)} pixels, the photo has {_size(sides)}"
            raise UserError("--mask", found, "give one of its size, or --scale-mask")
        if mask.all() or not mask.any():
            found = f"{words.mask} without a {'black' if mask.all() else 'white'} pixel"
            raise UserError("--mask", found, "paint white what is kept, black what is filled")
        family = MaskFile(words.mask, rescale=words.scale_mask)
    if words.scale is not None:
        family = SuperResolution(words.scale)
    if words.task == "dejpeg":
        family = JPEG(words.quality) if words.quality else jpeg_settings(words.photo)
    return family


def _sigma_y(words: PhotoConfig, photo: ImageFile, operator: Any, default: float) -> float:
    """In the units of images in [-1, 1]."""
    noise = words.noise
    if noise is None:
        noise = "estimate" if words.task in ("denoise", "deblur") else default / UNITS_PER_LEVEL
    if noise != "estimate":
        return noise * UNITS_PER_LEVEL
    seen = None
    if words.task == "inpaint":
        mask = operator.draw(jax.random.key(0), photo.pixels.shape).mask
        seen = np.broadcast_to(np.asarray(mask) > 0, photo.pixels.shape)
    try:
        return estimate_sigma_y(photo.pixels, seen, photo.step)
    except UserError as error:
        remedy = "give it in grey levels, such as --noise 2: this photograph does not tell it"
        raise UserError("--noise", "estimate", remedy) from error


def jpeg_settings(path: str) -> JPEG:
    """How a JPEG file was made: the quality of libjpeg whose tables are the nearest to its own (the
    sum of absolute differences), and whether colour has half the resolution.

    Raises:
      UserError: if the file is no JPEG, or its blocks are not where the operator has them.
    """
    with Image.open(path) as picture:
        if not isinstance(picture, JpegImagePlugin.JpegImageFile):
            remedy = "give --quality 1 to 100: only a JPEG file says with which it was saved"
            raise UserError("--quality", f"nothing, and {path} is {picture.format}", remedy)
        if picture.mode not in ("L", "RGB"):
            raise UserError("photo", f"{path} in {picture.mode}", "give grey or RGB")
        if picture.getexif().get(274, 1) != 1 and any(side % 16 for side in picture.size):
            # Turned, the blocks would begin at the other edges.
            remedy = "turn the JPEG without loss first, as jpegtran -perfect -trim does"
            raise UserError("photo", f"{path}, turned by its EXIF orientation", remedy)
        tables = [np.reshape(one, (8, 8)) for one in picture.quantization.values()]
        halved = JpegImagePlugin.get_sampling(picture) != 0
    known = np.asarray(jax.vmap(quantization_tables)(jnp.arange(1.0, 101.0)))[:, : len(tables)]
    distances = np.abs(known - np.stack(tables[:2])).sum((1, 2, 3))
    return JPEG(int(np.argmin(distances)) + 1, halve_colour=halved)


def _size(sides: tuple[int, ...]) -> str:
    """Width x height, as programs for pictures say it."""
    return f"{sides[1]} x {sides[0]}"
