"""Simulated measurements belong to their images, whatever other images there are."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lavps_jax.config.settings import DPSConfig, SampleConfig
from lavps_jax.data import FolderData, SyntheticData
from lavps_jax.operators import families
from lavps_jax.runs.measurements import simulate_measurements

IMAGES = SyntheticData(3, (8, 8, 1)).open()


def measure(folder, num_images, **changes):
    return simulate_measurements(
        SampleConfig(
            "prior",
            FolderData(str(folder)),
            families.RandomPixels(0.4, 0.6),
            DPSConfig(),
            "out",
            num_images=num_images,
            **changes,
        )
    )


def test_an_image_more_changes_no_other(tmp_path):
    for k, name in enumerate("bc"):
        Image.fromarray(IMAGES[k][..., 0]).save(tmp_path / f"{name}.png")
    before = measure(tmp_path, 2)
    Image.fromarray(IMAGES[2][..., 0]).save(tmp_path / "a.png")
    after = measure(tmp_path, 3)
    assert after.names[1:] == before.names
    np.testing.assert_array_equal(after.seeds[1:], before.seeds)
    np.testing.assert_array_equal(after.problems.y[1:], before.problems.y)
    masks = np.asarray(after.problems.operator.mask)
    np.testing.assert_array_equal(masks[1:], before.problems.operator.mask)
    assert len({mask.tobytes() for mask in masks}) == 3
    fixed = measure(tmp_path, 3, stochastic=False)
    assert len({mask.tobytes() for mask in np.asarray(fixed.problems.operator.mask)}) == 1
    for size in (1, 2):
        batches = measure(tmp_path, 3, batch_size=size)
        np.testing.assert_array_equal(batches.problems.operator.mask, masks)
        np.testing.assert_allclose(batches.problems.y, after.problems.y, atol=1e-6)
    assert not np.array_equal(measure(tmp_path, 3, seed=1).problems.y, after.problems.y)
