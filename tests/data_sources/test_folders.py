"""Folders of images as data: which files are read, in which order, and what is refused."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lavps_jax.data import (
    FolderData,
)
from lavps_jax.data.files import read_image
from lavps_jax.errors import UserError

TFDS = Path(__file__).parents[1] / "data" / "tfds"


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
