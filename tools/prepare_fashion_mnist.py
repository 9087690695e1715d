"""Prepares Fashion-MNIST so that training reads it without TensorFlow.

Preparing itself needs TensorFlow, which lavps-jax does not install. Use another environment:

    python3 -m venv /tmp/prepare
    /tmp/prepare/bin/pip install tensorflow-cpu tensorflow-datasets importlib_resources
    /tmp/prepare/bin/python tools/prepare_fashion_mnist.py --data-dir ~/tensorflow_datasets

This writes about 40 MB below DATA_DIR/fashion_mnist: all training images and the first 5,000 of the
10,000 test images. The others are kept for independent evaluation, and have to be left out here:
tensorflow-datasets shuffles a split, so test[:5000] of the whole would hold half of them. On Debian
and Ubuntu no download is needed after `apt-get install dataset-fashion-mnist`; otherwise
tensorflow-datasets downloads 30 MB.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

DEBIAN_FILES = Path("/usr/share/datasets/fashion-mnist")
NUM_TEST_IMAGES = 5_000
# Seconds since 1970 in the headers of the published files, which were packed with `gzip`.
PACKED_AT = {
    "train-images-idx3-ubyte": 1504176606,
    "train-labels-idx1-ubyte": 1504176606,
    "t10k-images-idx3-ubyte": 1504176627,
    "t10k-labels-idx1-ubyte": 1504176627,
}


def published_gzip(name: str, repacked: bytes) -> bytes:
    """Gives a gzip file of Debian the header that the published file has.

    Debian packs with `gzip -n`, which leaves out the name and the time. The compressed data are
    the same, but tensorflow-datasets verifies the checksum of the whole file.
    """
    magic_method, flags, _, extra_flags, system = struct.unpack("<3sBIBB", repacked[:10])
    if magic_method != b"\x1f\x8b\x08" or flags != 0:
        raise SystemExit(f"{DEBIAN_FILES / name}.gz: not a gzip file with a plain header")
    has_name = 8
    header = struct.pack("<3sBIBB", magic_method, has_name, PACKED_AT[name], extra_flags, system)
    return header + name.encode("ascii") + b"\0" + repacked[10:]


def prepare(data_dir: Path) -> None:
    """Runs the builder of tensorflow-datasets, its checksums included."""
    try:
        import tensorflow  # noqa: F401  # type: ignore[import-not-found]
        import tensorflow_datasets as tfds
        from tensorflow_datasets.image_classification import mnist
    except ImportError as error:
        raise SystemExit(f"error: {error}; use another environment, see --help") from error
    builder: Any = tfds.builder("fashion_mnist", data_dir=data_dir, file_format="array_record")
    with tempfile.TemporaryDirectory() as folder:
        manual = Path(folder, "published")
        manual.mkdir()
        if DEBIAN_FILES.is_dir():
            for name in PACKED_AT:
                repacked = (DEBIAN_FILES / f"{name}.gz").read_bytes()
                (manual / f"{name}.gz").write_bytes(published_gzip(name, repacked))
        with mock.patch.object(mnist, "_TEST_EXAMPLES", NUM_TEST_IMAGES):
            builder.download_and_prepare(
                # Elsewhere than data_dir/downloads, so that only the data set is left behind.
                download_dir=str(Path(folder, "downloads")),
                download_config=tfds.download.DownloadConfig(manual_dir=str(manual)),
            )
    counts = {str(name): split.num_examples for name, split in builder.info.splits.items()}
    if counts["test"] != NUM_TEST_IMAGES:  # Prepared by other means, or the patched name is gone.
        raise SystemExit(f"{builder.data_path} has {counts['test']} test images: remove it")
    print(f"{builder.data_path}: {counts}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Path("~/tensorflow_datasets"))
    prepare(parser.parse_args().data_dir.expanduser())
    return 0


if __name__ == "__main__":
    sys.exit(main())
