"""Pictures have the right pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lavps_jax.runs.pictures import StdMap, contact_sheet, save_png

MAGENTA = (255, 0, 255)


def test_png_of_grey_and_colour(tmp_path):
    levels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    image = levels / 127.5 - 1
    save_png(tmp_path / "colour.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "colour.png")), levels)
    save_png(tmp_path / "grey.png", image[..., :1])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grey.png")), levels[..., 0])
    save_png(tmp_path / "std.png", np.array([[0.0, 0.1], [0.2, 0.4]]), value_range=(0.0, 0.2))
    pixels = np.asarray(Image.open(tmp_path / "std.png"))
    np.testing.assert_array_equal(pixels, [[0, 128], [255, 255]])
    with pytest.raises(ValueError, match=r"\(2, 2, 2\)"):
        save_png(tmp_path / "none.png", image[..., :2])


def test_png_marks_pixels_without_a_value(tmp_path):
    image = np.zeros((2, 2, 1))
    image[0, 1] = np.nan
    save_png(tmp_path / "bad.png", image)
    pixels = np.asarray(Image.open(tmp_path / "bad.png"))
    assert tuple(pixels[0, 1]) == MAGENTA
    np.testing.assert_array_equal(pixels[1], np.full((2, 3), 128))


def _runs(mask):
    """Start and length of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(start, stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def test_contact_sheet_shows_every_pixel_equally_large(tmp_path):
    """A red, a green and a blue checkerboard must be found again, magnified by whole numbers."""
    board = np.indices((8, 8)).sum(0) % 2 == 0
    images = []
    for channel in range(3):
        image = -np.ones((8, 8, 3))
        image[..., channel] = np.where(board, 1, -1)
        images.append(image)
    small = images[2][::4, ::4] * 0 + np.array([1.0, 1.0, -1.0])  # 2 x 2, yellow.
    rows = [[images[0], images[1]], [images[2], small], [None, StdMap(np.zeros((8, 8, 1)))]]
    path = tmp_path / "sheet.png"
    contact_sheet(
        path, rows, column_titles=["one", "two"], row_titles=["a\nb", "c", "d"], title="T"
    )
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    corners = []
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        mask = (sheet == colour).all(-1)
        line = mask[np.argmax(mask.any(1))]
        lengths = [length for _, length in _runs(line)]
        assert lengths == [16] * 4
        assert mask.sum() == 32 * 16 * 16
        corners.append((np.argmax(mask.any(1)), np.argmax(mask.any(0))))
    (red_y, red_x), (green_y, green_x), (blue_y, blue_x) = corners
    assert red_y == green_y < blue_y and red_x == blue_x < green_x
    yellow = (sheet == (255, 255, 0)).all(-1)
    assert yellow.sum() == 128 * 128 and np.argmax(yellow.any(0)) == green_x
    empty = sheet[blue_y + 140 : blue_y + 250, red_x : red_x + 128]
    assert (empty == 255).all()


def test_contact_sheet_has_room_for_titles_of_two_lines(tmp_path):
    image = np.zeros((8, 8, 1))
    inked = []
    for name, title in (("1.png", "second"), ("2.png", "first\nsecond")):
        contact_sheet(tmp_path / name, [[image]], column_titles=[title])
        with Image.open(tmp_path / name) as opened:
            sheet = np.asarray(opened.convert("L"))
        rows = np.flatnonzero((sheet < 100).any(1))
        inked.append((rows[0], len(sheet)))
    (above, height), (above_two, height_two) = inked
    assert height_two > height + 10  # The first line is above the second one,
    assert 5 < above_two < above  # and is not cut.


def test_contact_sheet_has_one_scale_for_all_deviations(tmp_path):
    """The largest value of the sheet is brightest; the root mean square joins channels."""
    single, double = np.full((4, 4, 1), 0.1), np.full((4, 4, 2), 0.0)
    double[..., 0] = np.sqrt(2) * 0.2
    contact_sheet(
        tmp_path / "sheet.png", [[StdMap(single), StdMap(double)]], column_titles=["a", "b"]
    )
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    height = sheet.shape[0] // 2 + 10
    middle, brightest = (33, 145, 140), (253, 231, 37)  # The published ends of "viridis".
    left, right = sheet[height, 60], sheet[height, 190]
    np.testing.assert_allclose(left, middle, atol=3)
    np.testing.assert_allclose(right, brightest, atol=3)


def test_contact_sheet_marks_failures_and_takes_a_map_without_any_value(tmp_path):
    bad = np.full((4, 4, 1), np.nan)
    contact_sheet(tmp_path / "sheet.png", [[bad, StdMap(bad)]], column_titles=["a", "b"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert (sheet == MAGENTA).all(-1).sum() == 2 * 128 * 128


def test_contact_sheet_refuses_rows_of_other_lengths(tmp_path):
    image = np.zeros((4, 4, 1))
    with pytest.raises(ValueError, match="entry per column"):
        contact_sheet(tmp_path / "sheet.png", [[image]], column_titles=["a", "b"])
    with pytest.raises(ValueError, match="2 row titles for 1 rows"):
        contact_sheet(tmp_path / "sheet.png", [[image]], column_titles=["a"], row_titles=["a", "b"])
