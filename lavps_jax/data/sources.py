"""Where images come from: data sets of tensorflow-datasets, folders, the package itself."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from lavps_jax.data.batches import load_batch
from lavps_jax.data.decoding import decode_bytes
from lavps_jax.data.files import in_8_bits
from lavps_jax.data.folder_data import FolderData
from lavps_jax.data.images import (
    ArraySource,
    ImageSource,
    check_padding,
    check_size,
    checked_index,
    fitted,
    pad_image,
)
from lavps_jax.errors import UNREADABLE, UserError, check_choices, first_words


@dataclass(frozen=True)
class TfdsData:
    """A data set of tensorflow-datasets, prepared beforehand in the array_record format.

    Reading needs no TensorFlow; preparing does, and is never done here: a training job that
    silently started a download of gigabytes would be a bad surprise.

    Attributes:
      name: as tensorflow-datasets knows it, with configuration and version if wanted
        ("fashion_mnist", "celeb_a_hq/256").
      split: "train", "test", "train[:1000]", ...
      data_dir: where data sets were prepared; None is the default of tensorflow-datasets,
        ~/tensorflow_datasets.
      size: centre crop to a square and resize to this many pixels; None leaves images alone.
      pad_to: surround with black up to this many pixels, after `size`; None adds nothing.
    """

    name: str = "fashion_mnist"
    split: str = "train"
    data_dir: str | None = None
    size: int | None = None
    pad_to: int | None = None

    def open(self) -> ImageSource:
        """Raises UserError if the data set or split does not exist, or is not prepared."""
        import tensorflow_datasets as tfds  # Takes seconds, and only this source needs it.
        from google.protobuf.json_format import ParseError

        check_size(self.size)
        try:
            builder: Any = tfds.builder(self.name, data_dir=self.data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, ImportError) as error:
            known = (
                "give the name of a data set of tensorflow-datasets or one that lies in data_dir"
            )
            raise UserError("data.name", self.name, known) from error
        except (*UNREADABLE, ParseError) as error:
            raise _damaged(self.name, error) from error
        if not (Path(builder.data_path) / "dataset_info.json").exists():
            raise UserError(
                "data.name", f"{self.name}, not found under {builder.data_dir}", _PREPARE
            )
        features = builder.info.features
        if "image" not in features:
            remedy = f"choose a data set with the feature 'image'; this has {sorted(features)}"
            raise UserError("data.name", self.name, remedy)
        shape = features["image"].shape
        if self.size is None and None in shape:
            raise UserError("data.size", None, f"set it: images of {self.name} differ in size")
        try:
            # Left undecoded: tensorflow-datasets would decode with OpenCV where it finds it.
            undecoded = {"image": tfds.decode.SkipDecoding()}
            records = builder.as_data_source(split=self.split, decoders=undecoded)
        except NotImplementedError as error:
            found = f"{self.name}, prepared in another file format"
            raise UserError("data.name", found, _PREPARE) from error
        except ValueError as error:
            remedy = f"give one of {sorted(builder.info.splits)} or a part such as 'train[:1000]'"
            raise UserError("data.split", self.split, remedy) from error
        height, width = (self.size,) * 2 if self.size else shape[:2]
        if self.pad_to is not None:
            check_padding(self.pad_to, height, width)
            height = width = self.pad_to
        prefix = "-".join(re.sub(r"\W+", "_", part).strip("_") for part in (self.name, self.split))
        image_shape = (height, width, shape[-1])
        has_classes = "label" in features and isinstance(
            features["label"], tfds.features.ClassLabel
        )
        return _TfdsSource(records, prefix, self.size, self.pad_to, image_shape, has_classes)


_PREPARE = (
    "prepare it once, where tensorflow is installed: tfds build NAME --data_dir=DIR "
    "--file_format=array_record (Fashion-MNIST: python tools/prepare_fashion_mnist.py "
    "--data-dir DIR), then set data.data_dir"
)


def _damaged(what: str, error: Exception) -> UserError:
    remedy = f"prepare the data set again, its files are damaged ({first_words(error)})"
    return UserError("data.name", what, remedy)


@dataclass(frozen=True, eq=False)
class _TfdsSource:
    records: Any
    prefix: str
    size: int | None
    pad_to: int | None
    image_shape: tuple[int, int, int]
    has_classes: bool

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> np.ndarray:
        index = checked_index(index, len(self))
        try:
            encoded = self.records[index]["image"]
        except UNREADABLE as error:
            raise _damaged(self.name(index), error) from error
        decoded = decode_bytes(encoded, self.name(index), "data.name")
        image = in_8_bits(decoded, None, field="data.name", found=self.name(index))
        return pad_image(fitted(image, self.size, self.image_shape[-1]), self.pad_to)

    def name(self, index: int, /) -> str:
        return f"{self.prefix}-{checked_index(index, len(self)):05d}"

    def label(self, index: int, /) -> int | None:
        record = self.records[checked_index(index, len(self))]
        return int(record["label"]) if self.has_classes else None


@dataclass(frozen=True)
class ShippedData:
    """Images that come with the package; their licences lie beside them in `lavps_jax/assets`.

    Attributes:
      name: "fashion_mnist" are the first 64 test images of Fashion-MNIST (Xiao, Rasul, Vollgraf,
        2017, arXiv:1708.07747; MIT licence) with black around them, grey, 32 x 32 pixels;
        "photographs" are three crops of free photographs in colour, 256 x 256 pixels.
    """

    name: Literal["fashion_mnist", "photographs"] = "fashion_mnist"

    def open(self) -> ImageSource:
        """Reads the images.

        Those of Fashion-MNIST are in the order of the original file t10k-images:
        tensorflow-datasets shuffles a split when it prepares it, image k of `TfdsData` is another.
        """
        try:
            check_choices(self)
        except UserError as error:
            raise UserError("data.name", error.value, error.remedy) from error
        if self.name == "photographs":
            images = np.stack(np.split(_sheet("photographs.png"), 3, axis=1))
            return ArraySource(images, ("photograph-boardwalk", "photograph-temple",
                                        "photograph-hippos"))  # fmt: skip
        sheet = _sheet("fashion_mnist_64.png").reshape(8, 28, 8, 28)
        tiles = sheet.swapaxes(1, 2).reshape(64, 28, 28, 1)
        images = np.stack([pad_image(tile, 32) for tile in tiles])
        return ArraySource(images, tuple(f"fashion_mnist-t10k-{index:05d}" for index in range(64)))


def _sheet(file: str) -> np.ndarray:
    """A picture among the assets, uint8."""
    asset = resources.files("lavps_jax") / "assets" / file
    with Image.open(io.BytesIO(asset.read_bytes())) as picture:
        return np.asarray(picture)


def shipped(name: Literal["fashion_mnist", "photographs"]) -> Float[np.ndarray, "N H W C"]:
    """Images that come with the package, as float32 in [-1, 1].

    Args:
      name: see `ShippedData`. "fashion_mnist": (64, 32, 32, 1); "photographs": (3, 256, 256, 3).

    Raises:
      UserError: if there are none of this name.
    """
    source = ShippedData(name).open()
    return load_batch(source, range(len(source)))


@dataclass(frozen=True)
class SyntheticData:
    """Smooth coloured blobs on black, for tests and for trying things out without data.

    Attributes:
      num_images: size of the set.
      image_shape: (H, W, C).
      seed: >= 0; image k depends on the seed and k alone, not on `num_images`.
    """

    num_images: int = 64
    image_shape: tuple[int, int, int] = (16, 16, 1)
    seed: int = 0

    def open(self) -> ImageSource:
        """Draws all images: between one and four Gaussian bumps each."""
        for field, value in (("num_images", self.num_images), ("image_shape", self.image_shape)):
            if np.min(value) < 1:
                raise UserError(f"data.{field}", value, "give whole numbers from 1")
        if self.seed < 0:
            raise UserError("data.seed", self.seed, "give a whole number from 0")
        images = np.stack([self._draw(index) for index in range(self.num_images)])
        return ArraySource(images, tuple(f"synthetic-{k:05d}" for k in range(self.num_images)))

    def _draw(self, index: int) -> np.ndarray:
        height, width, channels = self.image_shape
        generator = np.random.default_rng([self.seed, index])
        rows = np.linspace(0, 1, height)[:, None]
        columns = np.linspace(0, 1, width)[None]
        image = np.zeros(self.image_shape)
        for _ in range(generator.integers(1, 5)):
            row, column = generator.uniform(0.15, 0.85, 2)
            radius = generator.uniform(0.1, 0.3)
            colour = generator.uniform(0.3, 1.0, channels)
            bump = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * radius**2))
            image = np.maximum(image, bump[..., None] * colour[None, None])
        return np.rint(image * 255).astype(np.uint8)


DataConfig = TfdsData | FolderData | ShippedData | SyntheticData
