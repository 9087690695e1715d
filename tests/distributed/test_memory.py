"""A program that cannot fit is refused before it runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.distributed.memory import (
    _control_group_bytes,
    available_bytes,
    check_memory,
    required_bytes,
)
from lavps_jax.errors import UserError
from lavps_jax.operators import families
from lavps_jax.runs.restoring import _less_memory
from lavps_jax.samplers import DDIM


def compiled(count):
    return jax.jit(lambda x: jnp.sort(jnp.broadcast_to(x, (count,)))).lower(1.0).compile()


def test_the_result_is_counted():
    needed = required_bytes(compiled(1_000_000))
    assert needed is not None and needed >= 4_000_000


def test_too_large_a_program_is_refused():
    available = available_bytes()
    assert available is not None
    check_memory(compiled(1000), "batch_size", 1, "lower it")
    with pytest.raises(UserError, match="batch_size: got 7, which needs .* GiB of memory; lower"):
        check_memory(compiled(available // 2), "batch_size", 7, "lower it")


@pytest.mark.parametrize(
    ("settings", "batch_size", "words"),
    [
        ({"num_particles": 1}, 1, ("--tile", "--compute-dtype bfloat16")),
        ({"num_particles": 1, "compute_dtype": "bfloat16"}, 1, ("--tile",)),
        ({"num_particles": 3, "tile": 8}, 1, ("num_particles", "--compute-dtype bfloat16")),
        ({"num_particles": 3, "tile": 8, "compute_dtype": "bfloat16"}, 2, ("batch_size", "num_p")),
    ],
)
def test_the_remedy_is_one_that_is_left(settings, batch_size, words):
    config = SampleConfig("p", ShippedData(), families.Identity(), DDIM(), "o", **settings)
    remedy = _less_memory(config, batch_size)
    assert all(word in remedy for word in words) and remedy.count(", or ") == len(words) - 1


def test_a_donated_argument_is_reused():
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    needed = required_bytes(add.lower(jnp.zeros(1_000_000)).compile())
    assert needed is not None and needed < 100_000


def test_the_limit_of_a_container_counts(tmp_path):
    assert _control_group_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert _control_group_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _control_group_bytes(tmp_path) == 450
