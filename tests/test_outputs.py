"""Outputs: directories that are complete or absent, and pictures with the right pixels."""

from __future__ import annotations

import contextlib
import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from lavps_jax.errors import UserError
from lavps_jax.outputs import StdMap, contact_sheet, save_png, write_directory

MAGENTA = (255, 0, 255)


def _entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_directory_appears_when_complete(tmp_path):
    with write_directory(tmp_path / "deep" / "run") as folder:
        (folder / "a.txt").write_text("done")
        assert not (tmp_path / "deep" / "run").exists()
        assert folder.parent == tmp_path / "deep"
    assert (tmp_path / "deep" / "run" / "a.txt").read_text() == "done"
    assert _entries(tmp_path / "deep") == ["run"]


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with write_directory(tmp_path / "run") as folder:
            (folder / "half.txt").write_text("half")
            raise KeyboardInterrupt
    assert _entries(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupt_at_any_line_leaves_all_or_nothing(tmp_path, existing):
    target = tmp_path / "run"
    if existing:
        target.mkdir()
        (target / "metrics.json").write_text("old")
    before = _entries(tmp_path)

    def write(last_line):
        """Raises at the line of this number, counted through everything that is called."""
        passed = 0

        def trace(frame, event, argument):
            nonlocal passed
            passed += event == "line"
            if passed > last_line:
                raise KeyboardInterrupt
            return trace

        tracer = sys.gettrace()
        sys.settrace(trace)
        try:
            with write_directory(target, overwrite=True) as folder:
                (folder / "new.txt").write_text("new")
        finally:
            sys.settrace(tracer)

    for last_line in itertools.count():
        with contextlib.suppress(KeyboardInterrupt):
            write(last_line)
        if (target / "new.txt").exists():
            break  # What is left is tidying up.
        assert _entries(tmp_path) == before
        assert not existing or (target / "metrics.json").read_text() == "old"
    assert last_line > 20 and _entries(target) == ["new.txt"]


def test_an_existing_directory_is_kept_unless_asked_and_until_the_end(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "metrics.json").write_text("old")
    with pytest.raises(UserError, match="run; choose a new name"):
        with write_directory(target):
            pytest.fail("refused before anything is computed")
    with pytest.raises(RuntimeError):
        with write_directory(target, overwrite=True) as folder:
            raise RuntimeError
    assert (target / "metrics.json").read_text() == "old"
    with write_directory(target, overwrite=True) as folder:
        (folder / "new.txt").write_text("new")
        assert (target / "metrics.json").exists()
    assert _entries(target) == ["new.txt"] and _entries(tmp_path) == ["run"]
    (tmp_path / "file").write_text("file")
    with pytest.raises(UserError, match="this is a file"):
        with write_directory(tmp_path / "file", overwrite=True):
            pass


def test_files_of_somebody_else_are_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("a photo")
    with pytest.raises(UserError, match="it holds other files"):
        with write_directory(tmp_path / "photos", overwrite=True):
            pass
    monkeypatch.chdir(tmp_path / "photos")
    for here in (".", "..", tmp_path):
        with pytest.raises(UserError, match="below the current one"):
            with write_directory(here, overwrite=True):
                pass
    assert _entries(tmp_path / "photos") == ["a.png"]


def test_a_directory_made_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(UserError, match="choose a new name"):
        with write_directory(tmp_path / "run"):
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "theirs.txt").write_text("theirs")
    assert _entries(tmp_path / "run") == ["theirs.txt"] and _entries(tmp_path) == ["run"]


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
