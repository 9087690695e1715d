"""Colour images that networks of grey images restore channel by channel."""

from __future__ import annotations

import numpy as np
from given_arrays import given, load
from PIL import Image

from lavps_jax.operators import families

RNG = np.random.default_rng(0)


def test_batches_have_whole_pictures(tmp_path):
    pixels = RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    for size, rows in ((1, 3), (5, 3), (6, 6)):
        run = given(str(tmp_path), families.Identity(), channels=1, batch_size=size)
        batches = [run.batch(k) for k in range(run.num_batches)]
        assert {len(one.problems.y) for one in batches} == {rows}
        assert [name for one in batches for name in one.names] == run.names
        assert [len(one.files) for one in batches] == [len(one.names) // 3 for one in batches]
        y = np.concatenate([one.problems.y[: len(one.names)] for one in batches])
        found = y.reshape(3, 3, 8, 8).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, pixels / 127.5 - 1, atol=1e-6)


def test_a_folder_of_colour_images_is_restored_channel_by_channel(tmp_path):
    for name in ("a", "b"):
        pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    measured = load(str(tmp_path), families.Identity(), channels=1)
    assert measured.names[3:] == ["b.png-red", "b.png-green", "b.png-blue"]
    assert measured.pictures() == [slice(0, 3), slice(3, 6)]
    np.testing.assert_allclose(
        measured.joined(np.asarray(measured.problems.y[3:])), measured.files[1].pixels
    )
