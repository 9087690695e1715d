"""How far the samples of a run are, as a set, from a folder of images.

    python -m lavps_jax.compare_sets outputs/ffhq256_test data/ffhq256/test --size 256 \\
        --inception inception-2015-12-05.pt --clip ViT-L-14-336px.pt

Prints JSON, for every sampler of the run: Fréchet and kernel distances on AlexNet, which comes with
this library, and with the files of their networks the standard ones. FID and KID need NVIDIA's
TorchScript copy of the InceptionV3 of Heusel et al. (from the metrics of stylegan2-ada-pytorch),
CMMD OpenAI's file of CLIP ViT-L/14@336px; both need PyTorch: pip install 'lavps-jax[convert]'.
Such distances say something for thousands of images, and only next to others of the same number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jaxtyping import Float

from lavps_jax import cli
from lavps_jax.data import FolderData, load_batch
from lavps_jax.errors import UNREADABLE, UserError, first_words
from lavps_jax.lpips import load_lpips_weights, lpips_features
from lavps_jax.networks.clip_vision import clip_embedding, clip_weights
from lavps_jax.set_distances import frechet_distance, kernel_distance

__all__ = ["Features", "distances", "features_of", "samples_of"]

BATCH_SIZE = 16
CMMD_SCALE = 1000.0

Features = Callable[[Float[np.ndarray, "N H W C"]], Float[np.ndarray, "N F"]]
"""From images in [-1, 1] to features of each."""


@dataclass(frozen=True)
class Config:
    """What to compare."""

    run: tyro.conf.Positional[str]
    """Folder that sample.py wrote."""
    reference: tyro.conf.Positional[str]
    """Folder of images."""
    size: int | None = None
    """Centre crop reference images to a square and resize them to this many pixels."""
    inception: str | None = None
    """File of InceptionV3, for FID and KID."""
    clip: str | None = None
    """File of CLIP, for CMMD."""


def features_of(inception: str | None = None, clip: str | None = None) -> dict[str, Features]:
    """The networks whose features are compared: "alexnet", and those whose files are given.

    Raises:
      UserError: if a file is not the network, or PyTorch is missing.
    """
    found = {"alexnet": _alexnet()}
    if inception is not None:
        found["inception"] = _inception(inception)
    if clip is not None:
        found["clip"] = _clip(clip)
    return found


def distances(
    features: Mapping[str, Features],
    sets: list[Float[np.ndarray, "N H W C"]],
    reference: Float[np.ndarray, "M H W C"],
) -> dict[str, float]:
    """From each set to the reference, mean over sets.

    Several samples of one measurement are not independent: give one of each as a set.

    Returns:
      "frechet_alexnet" and "kernel_alexnet"; "fid" and "kid"; "cmmd", which is 1000 times the
      squared distance, unbiased; by `features`.
    """
    found: dict[str, float] = {}
    for network, of_images in features.items():
        there = of_images(reference)
        here = [of_images(one) for one in sets]
        if network == "clip":
            gaussian = [kernel_distance(one, there, "gaussian") for one in here]
            found["cmmd"] = CMMD_SCALE * float(np.mean(gaussian))
            continue
        names = (f"frechet_{network}", f"kernel_{network}")
        names = ("fid", "kid") if network == "inception" else names
        for name, distance in zip(names, (frechet_distance, kernel_distance), strict=True):
            found[name] = float(np.mean([distance(one, there) for one in here]))
    return found


def samples_of(run: Path, sampler: str) -> list[Float[np.ndarray, "N H W C"]]:
    """The pictures of a run's samples, in [-1, 1]: one sample of every image, then the next.

    Raises:
      UserError: if there are none.
    """
    files = sorted((run / "images").glob(f"*/{sampler}_sample_*.png"))
    numbers = sorted({file.stem.rpartition("_")[2] for file in files})
    if not files:
        raise UserError("run", run, "give a folder that sample.py wrote")
    return [_pictures([f for f in files if f.stem.endswith(f"_{one}")]) for one in numbers]


def _pictures(files: list[Path]) -> np.ndarray:
    from PIL import Image

    found = []
    for file in files:
        try:
            with Image.open(file) as opened:
                pixels = np.asarray(opened, np.float32) / 127.5 - 1
        except UNREADABLE as error:
            raise UserError("run", file, f"run it again: {first_words(error)}") from error
        found.append(pixels if pixels.ndim == 3 else pixels[..., None])
    return np.stack(found)


def _in_jax(of_image: Callable[[Any], Any]) -> Features:
    mapped = jax.jit(lambda images: jax.lax.map(of_image, images))
    return lambda images: np.asarray(mapped(images))


def _alexnet() -> Features:
    weights = load_lpips_weights("alexnet")
    return _in_jax(lambda x: lpips_features(weights, x))


def _clip(path: str) -> Features:
    state = _archive("clip", path).state_dict()
    arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
    weights = clip_weights(arrays)
    return _in_jax(lambda x: clip_embedding(weights, x))


def _inception(path: str) -> Features:
    module, torch = _archive("inception", path), _torch("inception")

    def of_images(images: np.ndarray) -> np.ndarray:
        colour = np.broadcast_to(images, (*images.shape[:3], 3)).transpose(0, 3, 1, 2)
        pixels = np.round((np.clip(colour, -1, 1) + 1) * 127.5).astype(np.uint8)
        found = []
        with torch.no_grad():
            for first in range(0, len(pixels), BATCH_SIZE):
                # It resizes them to its own size, as FID is defined.
                batch = torch.from_numpy(pixels[first : first + BATCH_SIZE])
                try:
                    found.append(module(batch, return_features=True).float().numpy())
                except (RuntimeError, AttributeError, TypeError) as error:
                    remedy = f"give inception-2015-12-05.pt ({first_words(error)})"
                    raise UserError("inception", path, remedy) from error
        return np.concatenate(found)

    return of_images


def _archive(field: str, path: str) -> Any:
    """A TorchScript archive on the processor: what it holds is read by PyTorch's own reader of
    tensors and programs, which runs no Python."""
    torch = _torch(field)
    if not Path(path).is_file():
        raise UserError(field, path, "give an existing file")
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        remedy = f"give the TorchScript archive of its authors ({first_words(error)})"
        raise UserError(field, path, remedy) from error


def _torch(field: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(field, "no PyTorch", "pip install 'lavps-jax[convert]'") from error
    return torch


def run(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m lavps_jax.compare_sets")
    folder = Path(config.run)
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError("run", folder, "give a folder that sample.py wrote") from error
    samplers = [one["sampler"] for one in (metrics, *metrics["compared"])]
    sets = {name: samples_of(folder, name) for name in samplers}
    height, width, channels = sets[samplers[0]][0].shape[1:]
    source = FolderData(config.reference, size=config.size, channels=channels).open()
    if source.image_shape != (height, width, channels):
        found = f"images of {source.image_shape[:2]}, the run has {(height, width)}"
        raise UserError("reference", found, "set size")
    reference = load_batch(source, range(len(source)))
    features = features_of(config.inception, config.clip)
    found = {name: distances(features, one, reference) for name, one in sets.items()}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    cli.main(run)
