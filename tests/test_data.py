"""Data: conversions, the order of training, and every source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lavps_jax.data import (
    ArraySource,
    FolderData,
    ShippedData,
    SyntheticData,
    TfdsData,
    batch_indices,
    in_memory,
    load_batch,
    pad_image,
    to_float,
    to_uint8,
)
from lavps_jax.data.files import read_image
from lavps_jax.errors import UserError

TFDS = Path(__file__).parent / "data" / "tfds"


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
    root = Path(__file__).parents[1]
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
    read = in_memory(OneByOne())
    assert isinstance(read, ArraySource) and read.name(5) == source.name(5)
    np.testing.assert_array_equal(load_batch(read, indices), batch)
    assert isinstance(in_memory(OneByOne(), limit_bytes=359), OneByOne)
    assert isinstance(in_memory(OneByOne(), limit_bytes=360), ArraySource)


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
    bare = ShippedData(pad_to=None).open()
    np.testing.assert_array_equal(source[9], pad_image(bare[9], 32))
    # Sums of the grey levels of images 0 to 3 of the original file t10k-images-idx3-ubyte.
    assert [int(bare[index].sum()) for index in range(4)] == [33456, 100994, 51520, 35377]


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


def _save(path: Path, *shape: int, seed: int = 0, **options) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return image


def test_folder_order_names_and_pixels(tmp_path):
    late = _save(tmp_path / "b" / "1.PNG", 6, 4, 3, seed=1)
    early = _save(tmp_path / "a.webp", 6, 4, 3, seed=2, lossless=True)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    source = FolderData(str(tmp_path)).open()
    assert len(source) == 2 and source.image_shape == (6, 4, 3)
    assert [source.name(0), source.name(1)] == ["a.webp", "b/1.PNG"]
    np.testing.assert_array_equal(source[0], early)
    np.testing.assert_array_equal(source[1], late)


def test_folder_with_a_file_of_classes(tmp_path):
    for name in ("b/1 2.png", "a.png"):
        _save(tmp_path / name, 6, 4, seed=1)
    classes = tmp_path / "classes.txt"
    classes.write_text("b/1 2.png 7\n\na.png 3\nunknown.png 1\n")
    source = FolderData(str(tmp_path), classes=str(classes)).open()
    assert [source.label(0), source.label(1)] == [3, 7]
    assert FolderData(str(tmp_path)).open().label(0) is None
    for text, words in (("a.png 3", "of b/1 2.png"), ("a.png cat", "lines of a path")):
        classes.write_text(text)
        with pytest.raises(UserError, match=f"data.classes: got .*classes.txt.*{words}"):
            FolderData(str(tmp_path), classes=str(classes)).open()


def test_folder_applies_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: shown rotated by 90 degrees clockwise.
    image = np.zeros((16, 8), np.uint8)
    image[:8] = 255
    Image.fromarray(image).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    source = FolderData(str(tmp_path)).open()
    assert source.image_shape == (8, 16, 1)
    np.testing.assert_allclose(source[0][..., 0], np.rot90(image, -1), atol=3)


def test_folder_crops_the_centre_and_resizes(tmp_path):
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 4:12] = 200
    image[4:, 4:12] = 100
    Image.fromarray(image).save(tmp_path / "wide.png")
    _save(tmp_path / "other.png", 9, 9, 3)
    source = FolderData(str(tmp_path), size=4).open()
    assert source.image_shape == (4, 4, 3)
    shown = source[1].astype(int)
    assert (shown[0] >= 190).all() and (np.abs(shown[3] - 100) <= 20).all()


def test_folder_converts_channels_only_if_asked(tmp_path):
    grey = _save(tmp_path / "a.png", 5, 5)
    colour = _save(tmp_path / "b.png", 5, 5, 3)
    with pytest.raises(UserError, match=r"b\.png, which is colour; .*channels.*a\.png is grey"):
        FolderData(str(tmp_path)).open()
    as_colour = FolderData(str(tmp_path), channels=3).open()
    np.testing.assert_array_equal(as_colour[0], np.repeat(grey[..., None], 3, axis=-1))
    as_grey = FolderData(str(tmp_path), channels=1).open()
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as JPEG.
    np.testing.assert_allclose(as_grey[1][..., 0], luma, atol=1)


def test_folder_mistakes_name_the_file(tmp_path):
    with pytest.raises(UserError, match="data.path.*existing folder"):
        FolderData(str(tmp_path / "missing")).open()
    with pytest.raises(UserError, match="data.path.*folder with images .*png"):
        FolderData(str(tmp_path)).open()
    _save(tmp_path / "a.png", 5, 5)
    _save(tmp_path / "b.png", 5, 6)
    with pytest.raises(UserError, match=r"b\.png of 5x6 pixels.*a\.png has 5x5"):
        FolderData(str(tmp_path)).open()
    (tmp_path / "b.png").write_bytes(b"these are no pixels")
    with pytest.raises(UserError, match=r"b\.png; remove or replace"):
        FolderData(str(tmp_path)).open()


def test_folder_of_all_formats_and_depths(tmp_path):
    """The same picture in every file, in 8 bits: none is left out, wrapped or clipped."""
    image = _save(tmp_path / "a.PNG", 5, 6)
    deep = 257 * image.astype(np.uint16)
    Image.fromarray(image).save(tmp_path / "b.bmp")
    tifffile.imwrite(tmp_path / "c.Tif", image, photometric="minisblack")
    Image.fromarray(deep).save(tmp_path / "d.png")
    tifffile.imwrite(tmp_path / "e.tiff", deep, photometric="minisblack")
    np.save(tmp_path / "f.npy", deep)
    np.save(tmp_path / "g.npy", image / np.float32(127.5) - 1)
    tifffile.imwrite(tmp_path / "h.tif", image / np.float32(127.5) - 1, photometric="minisblack")
    twelve = np.rint(image / 255 * 4095).astype(np.uint16)
    declared = {"photometric": "minisblack", "extratags": [(50717, "H", 1, 4095, True)]}
    tifffile.imwrite(tmp_path / "i.tif", twelve, **declared)
    source = FolderData(str(tmp_path)).open()
    assert len(source) == 9 and source.image_shape == (5, 6, 1)
    for index in range(9):
        np.testing.assert_array_equal(source[index][..., 0], image, source.name(index))


def test_folder_of_numbers_whose_range_is_given(tmp_path):
    image = _save(tmp_path / "a.png", 5, 6)
    (tmp_path / "a.png").unlink()
    np.save(tmp_path / "a.npy", image / 255)
    with pytest.raises(UserError, match="a.npy with numbers from .*--data.value-range 0 1"):
        FolderData(str(tmp_path)).open()[0]
    source = FolderData(str(tmp_path), value_range=(0, 1)).open()
    np.testing.assert_array_equal(source[0][..., 0], image)
    with pytest.raises(UserError, match="data.value_range: got"):
        FolderData(str(tmp_path), value_range=(1, 0)).open()


def test_folder_follows_links_but_not_into_themselves(tmp_path):
    data, store = tmp_path / "data", tmp_path / "store"
    _save(store / "x" / "1.png", 5, 5)
    _save(data / "0.png", 5, 5)
    (data / "shoes").symlink_to(store)
    (store / "x" / "again").symlink_to(store)
    (data / "self").symlink_to(data)
    (data / "2.png").symlink_to(store / "x" / "1.png")
    source = FolderData(str(data)).open()
    assert [source.name(i) for i in range(len(source))] == ["0.png", "2.png", "shoes/x/1.png"]
    (data / "9.png").symlink_to(store / "nothing")
    with pytest.raises(UserError, match="9.png; give an existing file"):
        FolderData(str(data)).open()


def test_folder_leaves_hidden_folders_out_and_tells_of_other_formats(tmp_path, caplog):
    for name in ("cat.png", ".ipynb_checkpoints/cat-checkpoint.png", ".cat.png"):
        _save(tmp_path / name, 5, 5)
    for name in ("b.heic", "sub/c.gif", ".DS_Store", "classes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("cat.png 1")
    source = FolderData(str(tmp_path), classes=str(tmp_path / "classes.txt")).open()
    assert [source.name(i) for i in range(len(source))] == ["cat.png"]
    (line,) = caplog.messages
    assert line == "data.path: 2 files of other kinds left out: b.heic, sub/c.gif"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may not allow the name")
def test_folder_with_a_name_that_is_not_utf8(tmp_path):
    _save(tmp_path / "a.png", 5, 5)
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    classes = tmp_path / "classes.txt"
    # As Windows writes it, with the same bytes.
    classes.write_bytes(b"\xef\xbb\xbfcaf\xe9.png 3\r\n")
    source = FolderData(str(tmp_path), classes=str(classes)).open()
    assert source.name(0) == r"caf\xe9.png" and source.label(0) == 3
    assert source[0].shape == (5, 5, 1) and json.dumps(source.name(0)).encode()


@contextmanager
def another_user():
    """The system refuses a superuser nothing."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.skipif(sys.platform == "win32", reason="rights of files are others there")
def test_a_folder_without_rights_is_not_called_empty(mode):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder) / "closed"
        _save(closed / "sub" / "a.png", 5, 5)
        os.chmod(closed, mode)
        try:
            with another_user():
                for path in (closed, Path(folder)):
                    with pytest.raises(UserError, match="data.path: got .*Permission denied"):
                        FolderData(str(path)).open()
                with pytest.raises(UserError, match="p: got .*Permission denied"):
                    read_image(closed / "sub" / "a.png", field="p")
        finally:
            os.chmod(closed, 0o755)


@pytest.mark.parametrize("shape", [(5,), (5, 5, 7), (1, 5, 5, 1), (0, 5)])
def test_folder_with_an_array_that_is_no_image(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="a.npy, of shape .*; give .H, W."):
        FolderData(str(tmp_path)).open()


def test_folder_with_a_suspiciously_large_image(tmp_path, monkeypatch):
    _save(tmp_path / "a.png", 40, 40, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(UserError, match=r"a\.png; remove or replace it: .* exceeds limit"):
        FolderData(str(tmp_path)).open()


def test_folder_truncated_image_names_the_file(tmp_path):
    """The header is sound: only reading the pixels finds the damage."""
    _save(tmp_path / "a.png", 40, 40, 3)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    source = FolderData(str(tmp_path)).open()
    with pytest.raises(UserError, match=r"a\.png; remove or replace"):
        source[0]
