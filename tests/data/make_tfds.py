"""Makes tests/data/tfds; run it where tensorflow and tensorflow-datasets are installed:

python tests/data/make_tfds.py
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds  # type: ignore[import-not-found]
from PIL import Image

HERE = Path(__file__).parent
SHEET = HERE.parents[1] / "lavps_jax" / "assets" / "fashion_mnist_64.png"


class FashionMnistTiny(tfds.core.GeneratorBasedBuilder):
    """The first 24 of the shipped test images of Fashion-MNIST."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(28, 28, 1))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        sheet = np.asarray(Image.open(SHEET))
        tiles = sheet.reshape(8, 28, 8, 28).swapaxes(1, 2).reshape(64, 28, 28, 1)
        for index in range(24):
            yield index, {"image": tiles[index]}


if __name__ == "__main__":
    builder = FashionMnistTiny(data_dir=HERE / "tfds", file_format="array_record")
    builder.download_and_prepare()
