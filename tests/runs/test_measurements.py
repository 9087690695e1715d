"""Simulated measurements belong to their images, whatever other images there are."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import FolderData, SyntheticData
from lavps_jax.operators import families
from lavps_jax.runs.measurements import Simulation
from lavps_jax.samplers import DPS

IMAGES = SyntheticData(3, (8, 8, 1)).open()


def measure(folder, num_images, **changes):
    return Simulation(
        SampleConfig(
            "prior",
            FolderData(str(folder)),
            families.RandomPixels(0.4, 0.6),
            DPS(),
            "out",
            num_images=num_images,
            **changes,
        )
    )


def all_of(folder, num_images, **changes):
    return measure(folder, num_images, **changes).batch(0)


def test_an_image_more_changes_no_other(tmp_path):
    for k, name in enumerate("bc"):
        Image.fromarray(IMAGES[k][..., 0]).save(tmp_path / f"{name}.png")
    before = all_of(tmp_path, 2)
    Image.fromarray(IMAGES[2][..., 0]).save(tmp_path / "a.png")
    after = all_of(tmp_path, 3)
    assert after.names[1:] == before.names
    np.testing.assert_array_equal(after.seeds[1:], before.seeds)
    np.testing.assert_array_equal(after.problems.y[1:], before.problems.y)
    masks = np.asarray(after.problems.operator.mask)
    np.testing.assert_array_equal(masks[1:], before.problems.operator.mask)
    assert len({mask.tobytes() for mask in masks}) == 3
    fixed = all_of(tmp_path, 3, stochastic=False)
    assert len({mask.tobytes() for mask in np.asarray(fixed.problems.operator.mask)}) == 1
    for size in (1, 2):
        run = measure(tmp_path, 3, batch_size=size)
        batches = [run.batch(k) for k in range(run.num_batches)]
        assert [name for one in batches for name in one.names] == after.names
        # The last batch is filled up with repeats.
        assert {len(one.problems.y) for one in batches} == {size}
        operators = np.concatenate([one.problems.operator.mask for one in batches])[:3]
        np.testing.assert_array_equal(operators, masks)
        y = np.concatenate([one.problems.y for one in batches])[:3]
        np.testing.assert_allclose(y, after.problems.y, atol=1e-6)
    assert not np.array_equal(all_of(tmp_path, 3, seed=1).problems.y, after.problems.y)
