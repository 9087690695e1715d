"""How far the samples of a run are, as a set, from a folder of images.

    python -m lavps_jax.compare_sets outputs/ffhq256_test data/ffhq256/test --size 256 \\
        --inception inception-2015-12-05.pt --clip ViT-L-14-336px.pt

Prints JSON, for every sampler of the run: Fréchet and kernel distances on AlexNet, which comes with
this library, and with the files of their networks FID, KID and CMMD. FID and KID need NVIDIA's
TorchScript copy of the InceptionV3 of Heusel et al. (among the metrics of stylegan2-ada-pytorch),
CMMD OpenAI's file of CLIP ViT-L/14@336px; both need PyTorch: pip install 'lavps-jax[convert]'. Give
files of these authors alone: PyTorch runs the program in that of InceptionV3.

Such distances say something for thousands of images, and only next to others of the same number.
CMMD is unbiased here; the published code keeps the pairs of an image with itself, which adds 1000
(1 - mean kernel) / N for each set of N.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import tyro
from jaxtyping import Float, UInt8

from lavps_jax.config import cli
from lavps_jax.data import FolderData, to_float
from lavps_jax.data.decoding import decode
from lavps_jax.data.files import in_8_bits
from lavps_jax.data.folders import files_below, is_folder
from lavps_jax.data.value_range import ValueRange
from lavps_jax.errors import UserError, first_words
from lavps_jax.io.storage import reached
from lavps_jax.io.strict_json import to_text
from lavps_jax.metrics.clip_vision import clip_embedding, clip_weights
from lavps_jax.metrics.lpips import load_lpips_weights, lpips_features
from lavps_jax.metrics.set_distances import frechet_distance, kernel_distance

BATCH_SIZE = 16
DISTANCES: dict[str, dict[str, Callable[[Any, Any], float]]] = {
    "alexnet": {"frechet_alexnet": frechet_distance, "kernel_alexnet": kernel_distance},
    "inception": {"fid": frechet_distance, "kid": kernel_distance},
    "clip": {"cmmd": lambda a, b: 1000 * kernel_distance(a, b, "gaussian")},
}
"""Of sets, by the network of their features and by name."""

Network = Callable[[UInt8[np.ndarray, "B H W C"]], Float[np.ndarray, "B F"]]
Features = Mapping[str, Float[np.ndarray, "N F"]]
"""Of a set of images, by network."""


class Images(Protocol):
    """Images of 8 bits (H, W, C), read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "H W C"]: ...


@dataclass(frozen=True)
class Config:
    """What to compare."""

    run: tyro.conf.Positional[str]
    """Folder that sample.py wrote."""
    reference: tyro.conf.Positional[str]
    """Folder of images."""
    size: int | None = None
    """Centre crop reference images to a square and resize them to this many pixels."""
    value_range: ValueRange | None = None
    """The numbers of black and white in reference images, where they are not to decide."""
    inception: str | None = None
    """File of InceptionV3, for FID and KID."""
    clip: str | None = None
    """File of CLIP, for CMMD."""


def networks(inception: str | None = None, clip: str | None = None) -> dict[str, Network]:
    """Those whose features are compared: "alexnet", and those whose files are given.

    Raises:
      UserError: if a file is not the network, or PyTorch is missing.
    """
    found = {"alexnet": _in_jax(lpips_features, load_lpips_weights("alexnet"))}
    if inception is not None:
        found["inception"] = _inception(inception)
    if clip is not None:
        state = _archive("clip", clip)[0].state_dict()
        arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
        found["clip"] = _in_jax(clip_embedding, clip_weights(arrays))
    return found


def features_of(images: Images, of: Mapping[str, Network]) -> Features:
    """Features of all images, a batch at a time in memory."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in of}
    for first in range(0, len(images), BATCH_SIZE):
        # The last batch is filled up with repeats, so that one program does all.
        indices = np.minimum(np.arange(first, first + BATCH_SIZE), len(images) - 1)
        batch = np.stack([images[int(index)] for index in indices])
        for name, network in of.items():
            found[name].append(network(batch))
    return {name: np.concatenate(parts)[: len(images)] for name, parts in found.items()}


def distances(sets: Sequence[Features], reference: Features) -> dict[str, float]:
    """From each set to the reference, mean over sets.

    Several samples of one measurement are not independent: give one of each as a set.

    Returns:
      "frechet_alexnet" and "kernel_alexnet"; "fid" and "kid"; "cmmd", which is 1000 times the
      squared distance; as far as there are features of their networks.
    """
    return {
        name: float(np.mean([distance(one[network], there) for one in sets]))
        for network, there in reference.items()
        for name, distance in DISTANCES[network].items()
    }


def samples_of(run: Path, sampler: str) -> Sequence[Images]:
    """The pictures of a run's samples: one sample of every image, then the next of each.

    Raises:
      UserError: if there are none, or of some images only.
    """
    folder, name = run / "images", f"{sampler}_sample_*.png"
    every = files_below(folder, "run") if is_folder(folder, "run") else []
    files = [file for file in every if file.match(name)]
    numbers = sorted({file.stem.rpartition("_")[2] for file in files})
    sets = [_Pictures([f for f in files if f.stem.endswith(f"_{one}")]) for one in numbers]
    if not files or len({len(one) for one in sets}) > 1:
        raise UserError("run", run, "give a folder that sample.py wrote, as it wrote it")
    return sets


@dataclass(frozen=True)
class _Pictures:
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> np.ndarray:
        file = self.files[index]
        return in_8_bits(decode(file, "run"), None, field="run", found=str(file))


def _in_jax(of_image: Callable[[Any, Any], Any], weights: Any) -> Network:
    @jax.jit
    def of_batch(weights, images):
        return jax.lax.map(partial(of_image, weights), images)

    return lambda images: np.asarray(of_batch(weights, to_float(images)))


def _inception(path: str) -> Network:
    module, torch = _archive("inception", path)

    def of_batch(images: np.ndarray) -> np.ndarray:
        colour = np.broadcast_to(images, (*images.shape[:3], 3)).transpose(0, 3, 1, 2)
        try:
            with torch.no_grad():
                # It resizes bytes to its own size, as FID is defined.
                found = module(torch.from_numpy(colour.copy()), return_features=True)
            return found.float().numpy()
        except (RuntimeError, AttributeError, TypeError) as error:
            remedy = f"give inception-2015-12-05.pt ({first_words(error)})"
            raise UserError("inception", path, remedy) from error

    of_batch(np.zeros((1, 32, 32, 1), np.uint8))  # A wrong file is found before anything else.
    return of_batch


def _archive(field: str, path: str) -> tuple[Any, Any]:
    """A TorchScript archive, on the processor, and PyTorch; reading it runs no Python."""
    try:
        import torch
    except ImportError as error:
        raise UserError(field, "no PyTorch", "pip install 'lavps-jax[convert]'") from error
    with reached(Path(path), field):
        if not Path(path).is_file():
            raise UserError(field, path, "give an existing file")
        Path(path).open("rb").close()
    try:
        return torch.jit.load(path, map_location="cpu").eval(), torch
    except (RuntimeError, ValueError) as error:
        remedy = f"give the TorchScript archive of its authors ({first_words(error)})"
        raise UserError(field, path, remedy) from error


def _reference(config: Config, shape: tuple[int, ...]) -> Images:
    """Raises a UserError unless its images have the shape of the run's."""
    height, width, channels = shape
    given: Any = config.reference, config.size, channels
    try:
        source = FolderData(*given, value_range=config.value_range).open()
    except UserError as error:
        field = error.field.removeprefix("data.").replace("path", "reference")
        raise UserError(field, error.value, error.remedy.replace("data.", "")) from error
    if source.image_shape != shape:
        remedy = f"set size to {height}" if height == width else f"give {height} x {width} pixels"
        found = f"images of {source.image_shape[:2]}, the run has {(height, width)}"
        raise UserError("reference", found, remedy)
    return source


def run(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m lavps_jax.compare_sets")
    folder = Path(config.run)
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        samplers = [one["sampler"] for one in (metrics, *metrics["compared"])]
    except PermissionError as error:
        raise UserError("run", error.filename, f"fix this: {error.strerror}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError("run", folder, "give a folder that sample.py wrote") from error
    sets = {name: samples_of(folder, name) for name in samplers}
    one = sets[samplers[0]][0]
    reference = _reference(config, one[0].shape)
    for field, images in (("run", one), ("reference", reference)):
        if len(images) < 2:
            raise UserError(field, f"{len(images)} image", "give at least 2, better thousands")
    of = networks(config.inception, config.clip)
    there = features_of(reference, of)
    found = {
        name: distances([features_of(images, of) for images in samples], there)
        for name, samples in sets.items()
    }
    print(to_text({"images": len(one), "reference images": len(reference), **found}), end="")


if __name__ == "__main__":
    cli.main(run)
