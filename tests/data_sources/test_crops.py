"""Random crops: what they show, how often, and that they follow from seed and step alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavps_jax.data import (
    ArraySource,
    FolderData,
    SyntheticData,
    cached,
    load_ahead,
    load_batch,
    to_uint8,
    view_numbers,
)
from lavps_jax.data.crops import Crops
from lavps_jax.errors import UserError


def coordinates(height: int, width: int) -> np.ndarray:
    """An image that shows at every pixel where it is."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows ^ columns], -1).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three images of different sizes; the largest is shown lying and stored upright."""
    Image.fromarray(coordinates(40, 50)).save(tmp_path / "a.png")
    Image.fromarray(coordinates(16, 20)).save(tmp_path / "b.png")
    Image.fromarray(coordinates(33, 70)).convert("L").save(tmp_path / "c.webp", lossless=True)
    return tmp_path


def crops_of(image: np.ndarray, *settings) -> Crops:
    return Crops(ArraySource(image[None], ("image",)), *settings)


def test_every_corner_and_its_mirror_image_is_as_likely():
    image = coordinates(6, 5)
    crops = crops_of(image, 4, (1,), True)
    count = 3000
    seen = Counter(crops.view(0, row).tobytes() for row in view_numbers(0, 0, count))
    windows = [image[i : i + 4, j : j + 4] for i in range(3) for j in range(2)]
    known = [view.tobytes() for window in windows for view in (window, window[:, ::-1])]
    assert set(seen) == set(known) and len(known) == 12
    # Chi-squared of 11 degrees of freedom, p = 0.001.
    assert sum((seen[one] - count / 12) ** 2 / (count / 12) for one in known) < 31.3


def test_reduced_crops_are_means_over_squares_of_any_part_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (13, 14, 3), np.uint8)
    crops = crops_of(image, 4, (3,), False)
    windows = [
        image[i : i + 12, j : j + 12].reshape(4, 3, 4, 3, 3).mean((1, 3))
        for i in range(2) for j in range(3)
    ]  # fmt: skip
    found = set()
    for row in view_numbers(1, 0, 60):
        view = crops.view(0, row)
        errors = [np.abs(view - window).max() for window in windows]
        assert min(errors) < 0.56  # Pillow rounds 5/9 down.
        found.add(int(np.argmin(errors)))
    assert found == set(range(6))
    grey = crops_of(image[..., :1], 4, (3,), False)
    np.testing.assert_array_equal(grey[0], crops[0][..., :1])


def test_only_factors_that_fit_are_drawn_and_double_ones_twice_as_often():
    ramp = np.arange(12, dtype=np.uint8)[None, :, None] * np.ones((12, 1, 1), np.uint8)
    crops = crops_of(ramp, 4, (1, 2, 2, 4), False)  # A reduced ramp is as much steeper.
    slopes = Counter(
        int(view[0, 1, 0]) - int(view[0, 0, 0])
        for view in (crops.view(0, row) for row in view_numbers(2, 0, 3000))
    )
    assert set(slopes) == {1, 2}
    assert abs(slopes[2] - 2000) < 4 * (3000 * 2 / 9) ** 0.5


def test_crops_without_numbers_are_central_and_take_the_factors_in_turn(folder):
    source = FolderData(str(folder), channels=3, crop=16, reduce=(1, 2), flip=True).open()
    assert source.image_shape == (16, 16, 3) and len(source) == 3
    np.testing.assert_array_equal(source[0], coordinates(40, 50)[12:28, 17:33])
    np.testing.assert_array_equal(source[1], coordinates(16, 20)[:, 2:18])  # Only 1 fits.
    lying = np.asarray(Image.open(folder / "c.webp").convert("RGB"))
    np.testing.assert_array_equal(source[2], lying[8:24, 27:43])
    np.testing.assert_array_equal(load_batch(source, [0, 2]), load_batch(source, [0, 2]))
    other = FolderData(str(folder), channels=3, crop=16, reduce=(2, 1)).open()
    assert not np.array_equal(other[0], source[0]) and other.name(2) == "c.webp"


def test_flips_need_no_crops(folder):
    source = FolderData(str(folder), size=16, channels=1, flip=True).open()
    numbers = view_numbers(0, 0, 20)
    batch = to_uint8(load_batch(source, [0] * 20, numbers))
    mirrored = (numbers[:, 3] % 2).astype(bool)
    assert 0 < mirrored.sum() < 20
    for image, is_mirrored in zip(batch, mirrored, strict=True):
        np.testing.assert_array_equal(image[:, ::-1] if is_mirrored else image, source[0])
    # Sources without random views give the image itself.
    plain = SyntheticData(2).open()
    np.testing.assert_array_equal(load_batch(plain, [1], numbers[:1]), load_batch(plain, [1]))


def test_numbers_of_views_depend_on_the_seed_and_the_images_seen_before():
    whole = view_numbers(7, 0, 12)
    np.testing.assert_array_equal(whole[8:], view_numbers(7, 2, 4))
    np.testing.assert_array_equal(whole[6:], view_numbers(7, 1, 6))
    assert len(np.unique(whole)) == 48
    assert not np.isin(view_numbers(8, 0, 12), whole).any()
    # For ever: a run resumed under another NumPy must not change.
    assert view_numbers(7, 1, 1).tolist() == [
        [1528177845972429030, 12850608683640892364, 5466832663749895058, 11447348607159190017]
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 0}, "data.crop: got 0; give a whole number from 1"),
        ({"crop": 8, "reduce": (2, 0)}, r"data.reduce: got \(2, 0\); give whole numbers from 1"),
        ({"crop": 8, "reduce": ()}, "data.reduce: got .*; give whole numbers"),
        ({"reduce": (1, 2)}, "data.reduce: got .*; set data.crop too"),
        ({"crop": 17}, r"b.png of 16x20 pixels .*; remove it, or lower data.crop .*17 x 1 a side"),
        ({"crop": 8, "reduce": (4, 3)}, "b.png of 16x20 .*: a crop needs 8 x 3 a side"),
        ({}, "b.png of 16x20 .* a.png has 40x50, or data.crop"),
    ],
)
def test_mistakes_in_settings_of_crops_are_one_line(folder, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        FolderData(str(folder), channels=3, **settings).open()
    assert "\n" not in str(caught.value)


# ---- Images that stay in memory ----


class Counted:
    """A source that counts how often an image is read."""

    def __init__(self):
        self.source = SyntheticData(6, (5, 4, 3)).open()
        self.image_shape, self.name, self.label = (5, 4, 3), self.source.name, self.source.label
        self.reads = Counter()

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index, /):
        self.reads[index] += 1
        return self.source[index]


@pytest.mark.parametrize(("limit_bytes", "kept"), [(360, 6), (359, 5), (0, 0)])
def test_images_stay_in_memory_up_to_the_limit(limit_bytes, kept):
    counted = Counted()
    source = cached(counted, limit_bytes=limit_bytes)
    expected = load_batch(counted.source, range(6))
    for _ in range(3):
        np.testing.assert_array_equal(load_batch(source, range(6)), expected)
    assert sorted(counted.reads.values()) == [1] * kept + [3] * (6 - kept)
    assert len(source) == 6 and source.name(5) == counted.name(5) and source.label(0) is None


def test_whole_images_stay_in_memory_where_crops_are_drawn(folder):
    plain = FolderData(str(folder), channels=3, crop=8, reduce=(1, 2), flip=True).open()
    kept = cached(plain)
    indices, first, second = [0, 1, 2] * 4, view_numbers(0, 0, 12), view_numbers(0, 1, 12)
    batches = [load_batch(kept, indices, numbers) for numbers in (first, second)]
    for file in folder.iterdir():
        file.unlink()
    np.testing.assert_array_equal(load_batch(kept, indices, first), batches[0])
    assert not np.array_equal(*batches)
    with pytest.raises(UserError, match="a.png; give an existing file"):
        load_batch(plain, indices, first)


# ---- Reading ahead ----


def load_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("load")]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_come_in_order_and_no_further_ahead_than_threads(num_threads):
    begun, gate = [], threading.Event()

    def load(step):
        begun.append(step)
        gate.wait(0.01 * (step % 3))  # Later ones may be ready first.
        return step * step

    with closing(load_ahead(load, range(2, 20), num_threads)) as batches:
        for step, batch in enumerate(batches, 2):
            assert batch == step * step
            assert max(begun) <= step + num_threads
    assert sorted(begun) == list(range(2, 20)) and not load_threads()
    assert list(load_ahead(load, range(3, 3))) == []


def test_errors_come_at_their_step_and_end_the_threads():
    def load(step):
        if step == 2:
            raise UserError("image", "x.png", "remove it")
        return step

    given = []
    with pytest.raises(UserError, match="x.png"), closing(load_ahead(load, range(9))) as batches:
        for batch in batches:
            given.append(batch)
    assert given == [0, 1] and not load_threads()


def test_leaving_early_cancels_what_has_not_begun():
    begun, held = [], threading.Event()

    def load(step):
        begun.append(step)
        held.wait(0.05)

    with pytest.raises(KeyboardInterrupt), closing(load_ahead(load, range(99), 2)) as batches:
        next(batches)
        raise KeyboardInterrupt
    assert len(begun) <= 3 and not load_threads()


# ---- The way in ----


def test_importing_the_data_loads_neither_tensorflow_datasets_nor_matplotlib():
    code = (
        "import sys, lavps_jax.data as data; print(data.shipped('fashion_mnist').shape); "
        "print({'tensorflow_datasets', 'matplotlib', 'tensorflow'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["(64, 32, 32, 1)", "set()"], done.stderr
