"""Data: conversions, the order of training, and every source."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lavps_jax.data import (
    ShippedData,
    SyntheticData,
    TfdsData,
    batch_indices,
    load_batch,
    pad_image,
    shipped,
    to_float,
    to_uint8,
)
from lavps_jax.errors import UserError

TFDS = Path(__file__).parents[1] / "data" / "tfds"


# ---- Conversions ----


def test_to_float_and_back_is_exact_and_has_the_stated_end_points():
    grey = np.arange(256, dtype=np.uint8)
    image = to_float(grey)
    assert image.dtype == np.float32
    assert image[0] == -1 and image[255] == 1
    np.testing.assert_allclose(np.diff(image), 2 / 255, rtol=1e-4)
    np.testing.assert_array_equal(to_uint8(image), grey)


def test_to_uint8_rounds_clips_and_refuses_what_has_no_grey_level():
    np.testing.assert_array_equal(to_uint8(np.array([-1.5, 0.001, 2.0])), [0, 128, 255])
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(np.array([0.0, np.nan]))


def test_padding_centres_on_black():
    image = np.full((28, 27, 3), 7, np.uint8)
    padded = pad_image(image, 32)
    assert padded.shape == (32, 32, 3)
    np.testing.assert_array_equal(padded[2:30, 2:29], image)
    assert padded.sum() == image.sum()
    assert pad_image(image, None) is image
    with pytest.raises(UserError, match="pad_to.*28x27"):
        pad_image(image, 27)


# ---- Order of training ----


@pytest.mark.parametrize("batch_size", [4, 7, 25])
def test_every_epoch_shows_every_image_once(batch_size):
    """Also where the batch does not divide the set, or is larger than it."""
    num_images, epochs = 10, 14
    steps = epochs * num_images // batch_size
    seen = np.concatenate([batch_indices(3, step, batch_size, num_images) for step in range(steps)])
    for epoch in range(steps * batch_size // num_images):
        part = seen[epoch * num_images : (epoch + 1) * num_images]
        np.testing.assert_array_equal(np.sort(part), np.arange(num_images))


def test_order_depends_on_seed_and_epoch_only():
    first = batch_indices(0, 0, 100, 100)
    assert not np.array_equal(first, np.arange(100))
    assert not np.array_equal(first, batch_indices(1, 0, 100, 100))
    assert not np.array_equal(first, batch_indices(0, 1, 100, 100))
    halves = [batch_indices(0, step, 50, 100) for step in (0, 1)]
    np.testing.assert_array_equal(first, np.concatenate(halves))


def test_order_is_uniform():
    """Image 0 falls on each of 5 places equally often; 3000 draws, chi-squared of 4 degrees."""
    places = [int(np.argmin(batch_indices(seed, 0, 5, 5))) for seed in range(3000)]
    counts = Counter(places)
    assert sum((counts[place] - 600) ** 2 / 600 for place in range(5)) < 18.5  # p = 0.001


def test_a_new_process_gets_the_same_order():
    """What a resumed run relies on: nothing is kept from the batches before."""
    expected = batch_indices(5, 1234, 6, 1000)
    code = (
        "from lavps_jax.data import batch_indices; print(*batch_indices(5, 1234, 6, 1000).tolist())"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(index) for index in expected]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((-1, 0, 1, 1), "seed"), ((0, 0, 0, 1), "batch_size"), ((0, 0, 1, 0), "num_images")],
)
def test_numbers_out_of_range_name_the_field(arguments, field):
    with pytest.raises(UserError, match=field):
        batch_indices(*arguments)


def test_load_batch_is_the_same_from_memory_and_one_by_one():
    source = SyntheticData(6, (5, 4, 3)).open()

    class OneByOne:
        image_shape = source.image_shape

        def __len__(self):
            return len(source)

        def __getitem__(self, index, /):
            return source[index]

        def name(self, index, /):
            return source.name(index)

    indices = np.array([4, 0, 4, 2])
    batch = load_batch(source, indices)
    assert batch.shape == (4, 5, 4, 3) and batch.dtype == np.float32
    np.testing.assert_array_equal(to_uint8(batch[1]), source[0])
    np.testing.assert_array_equal(load_batch(OneByOne(), indices), batch)


# ---- Sources ----


def test_sources_end_and_refuse_negative_indices():
    for config in (
        SyntheticData(3),
        ShippedData(),
        TfdsData("fashion_mnist_tiny", "test", str(TFDS)),
    ):
        source = config.open()
        for index in (-1, len(source)):
            with pytest.raises(IndexError):
                source[index]
            with pytest.raises(IndexError):
                source.name(index)


def test_shipped_images():
    source = ShippedData().open()
    assert len(source) == 64 and source.image_shape == (32, 32, 1)
    assert source.name(7) == "fashion_mnist-t10k-00007"
    # Sums of the grey levels of images 0 to 3 of the original file t10k-images-idx3-ubyte.
    assert [int(source[index].sum()) for index in range(4)] == [33456, 100994, 51520, 35377]
    assert not source[9][:2].any() and not source[9][:, -2:].any()


def test_shipped_photographs():
    source = ShippedData("photographs").open()
    assert len(source) == 3 and source.image_shape == (256, 256, 3)
    assert source.name(1) == "photograph-temple"
    assert min(np.std(source[index]) for index in range(3)) > 40
    sky, planks = source[0][8, 250], source[0][250, 128]
    assert sky[2] > sky[0] and planks[0] > planks[2]


def test_shipped_images_by_name():
    images = shipped("fashion_mnist")
    assert images.shape == (64, 32, 32, 1) and images.dtype == np.float32
    assert images.min() == -1 and images.max() == 1
    np.testing.assert_array_equal(to_uint8(images[9]), ShippedData().open()[9])
    with pytest.raises(
        UserError, match="^data.name: got 'cifar'; use one of 'fashion_mnist', 'photographs'"
    ) as caught:
        shipped("cifar")
    assert "\n" not in str(caught.value)


def test_synthetic_images_differ_are_smooth_and_do_not_depend_on_the_number():
    source = SyntheticData(5, (16, 12, 3), seed=1).open()
    again = SyntheticData(3, (16, 12, 3), seed=1).open()
    assert source.image_shape == (16, 12, 3)
    for index in range(3):
        np.testing.assert_array_equal(source[index], again[index])
    assert len({source[index].tobytes() for index in range(5)}) == 5
    assert not np.array_equal(source[0], SyntheticData(1, (16, 12, 3), seed=2).open()[0])
    image = load_batch(source, [0])[0]
    assert np.ptp(image) > 0.5 and np.abs(np.diff(image, axis=0)).max() < 0.6


def test_tfds_without_tensorflow():
    """A data set that tensorflow-datasets itself prepared, read where TensorFlow is missing."""
    source = TfdsData("fashion_mnist_tiny", "test", data_dir=str(TFDS), pad_to=32).open()
    assert len(source) == 24 and source.image_shape == (32, 32, 1)
    shipped = ShippedData().open()
    expected = {shipped[index].tobytes() for index in range(24)}
    assert {source[index].tobytes() for index in range(24)} == expected
    assert source.name(3) == "fashion_mnist_tiny-test-00003"
    # Of the first shipped image, an ankle boot, and of the fifth, a shirt; the split is shuffled.
    for image, label in ((0, 9), (4, 6)):
        index = [source[k].tobytes() for k in range(24)].index(shipped[image].tobytes())
        assert source.label(index) == label and shipped.label(image) is None
    part = TfdsData("fashion_mnist_tiny", "test[8:12]", data_dir=str(TFDS), pad_to=32).open()
    np.testing.assert_array_equal(part[1], source[9])
    assert part.name(1) == "fashion_mnist_tiny-test_8_12-00001"
    small = TfdsData("fashion_mnist_tiny", "test", data_dir=str(TFDS), size=14, pad_to=16).open()
    assert small.image_shape == small[0].shape == (16, 16, 1)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TfdsData("fashion_mnist", data_dir="nowhere"), "data.name.*prepare_fashion_mnist.py"),
        (TfdsData("no_such_set", data_dir=str(TFDS)), "data.name: got no_such_set"),
        (TfdsData("fashion_mnist_tiny", "train", str(TFDS)), "data.split: got train.*'test'"),
        (TfdsData("fashion_mnist_tiny", "test", str(TFDS), pad_to=20), "data.pad_to: got 20"),
    ],
)
def test_tfds_mistakes(config, message):
    with pytest.raises(UserError, match=message) as caught:
        config.open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("pattern", "keep"), [("*.json", 40), ("*.array_record*", 3000)])
def test_damaged_tfds_files_are_one_line(tmp_path, pattern, keep):
    shutil.copytree(TFDS, tmp_path / "copy")
    files = [path for path in (tmp_path / "copy").rglob(pattern) if path.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="data.name: .*damaged") as caught:
        source = TfdsData("fashion_mnist_tiny", "test", str(tmp_path / "copy")).open()
        for index in range(len(source)):
            source[index]
    assert "\n" not in str(caught.value)
