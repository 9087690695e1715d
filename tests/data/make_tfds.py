"""Makes tests/data/tfds; run it where tensorflow and tensorflow-datasets are installed:

python tests/data/make_tfds.py
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds  # type: ignore[import-not-found]
from PIL import Image

HERE = Path(__file__).parent
LABELS = [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1, 2, 4, 8, 0, 2, 5, 7, 9]
SHEET = HERE.parents[1] / "lavps_jax" / "assets" / "fashion_mnist_64.png"


class FashionMnistTiny(tfds.core.GeneratorBasedBuilder):
    """The first 24 of the shipped test images of Fashion-MNIST, with their classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        sheet = np.asarray(Image.open(SHEET))
        tiles = sheet.reshape(8, 28, 8, 28).swapaxes(1, 2).reshape(64, 28, 28, 1)
        for index, label in enumerate(LABELS):
            yield index, {"image": tiles[index], "label": label}


if __name__ == "__main__":
    builder = FashionMnistTiny(data_dir=HERE / "tfds", file_format="array_record")
    builder.download_and_prepare()
