"""What a program needs, as compiled for eight virtual devices, and for TPUs where that works."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from lavps_jax import aot
from lavps_jax.aot import Needs, describe, sampling_needs, training_needs
from lavps_jax.config.settings import (
    AmortizedTask,
    PriorTask,
    SampleConfig,
    SupervisedTask,
    TrainConfig,
)
from lavps_jax.data import SyntheticData
from lavps_jax.distributed.collectives import bytes_sent
from lavps_jax.distributed.slices import CHIPS
from lavps_jax.errors import UserError
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    SupervisedNetworkConfig,
    split,
)
from lavps_jax.operators import families
from lavps_jax.samplers import LAVPS, MGDM

ROOT = Path(__file__).parents[2]
NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(64, 1, GlobalAttention(16)),), 64, 1)


def config(task=None, **changes) -> TrainConfig:
    data = SyntheticData(32, (8, 8, 1))
    return TrainConfig(
        task or PriorTask(NETWORK), data, data, run_dir="none", batch_size=16, **changes
    )


def num_bytes(config) -> int:
    _, weights = split(nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0))))
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(weights))


def bytes_given(lowered) -> int:
    leaves = jax.tree.leaves(lowered.args_info)
    return sum(math.prod(one.shape) * one.dtype.itemsize for one in leaves)


def test_gradients_are_all_that_goes_between_devices():
    needs = training_needs(config(), None, 8, jax.devices())
    assert set(needs.collectives) == {"all-reduce"}
    # Every gradient once, and a few scalars; buffers have none.
    sent = 2 * 7 / 8 * num_bytes(config())
    assert 0.8 * sent < needs.collectives["all-reduce"] < 1.1 * sent
    alone = training_needs(config(), None, 8, jax.devices()[:1])
    assert not alone.collectives and alone.flops > 4 * needs.flops


def test_cut_weights_need_less_memory_and_are_gathered():
    replicated = training_needs(config(), None, 8, jax.devices())
    cut = training_needs(config(fsdp=8), None, 8, jax.devices())
    assert cut.memory < 0.7 * replicated.memory
    assert cut.collectives["all-gather"] > 0.5 * num_bytes(config())
    with pytest.raises(UserError, match="batch_size: got 16; use a multiple of 32, 8 devices x 4"):
        training_needs(config(num_microbatches=4), None, 8, jax.devices())


def test_training_and_sampling_with_an_amortized_network(monkeypatch):
    task = AmortizedTask(
        AmortizedNetworkConfig(NETWORK),
        "no folder",
        families.RandomPixels(0.4, 0.6),
        num_steps=12,
        high_idx=4,
        states="chain",
    )
    amortized, data = config(task), SyntheticData(32, (8, 8, 1))
    assert training_needs(amortized, config(), 8, jax.devices()).flops > 0
    sample = SampleConfig("no folder", data, families.RandomPixels(0.4, 0.6),
                          LAVPS(num_steps=12, high_idx=4), "out", batch_size=2)  # fmt: skip
    device = jax.devices()[0]
    lavps = sampling_needs(sample, config(), amortized, 8, device)
    assert not lavps.collectives and lavps.memory > num_bytes(config()) + num_bytes(amortized)
    # A compiler for CPUs widens products in bfloat16, and copies the weights for that.
    weights = num_bytes(config()) + num_bytes(amortized)
    with monkeypatch.context() as patch:
        patch.setattr(aot, "compiled", lambda lowered, remedy: lowered)
        patch.setattr(aot, "needs_of", bytes_given)
        whole, half = (
            sampling_needs(dataclasses.replace(sample, compute_dtype=dtype), config(), amortized, 8,
                           device)
            for dtype in ("float32", "bfloat16")
        )  # fmt: skip
    assert 0.45 * weights < whole - half <= 0.5 * weights
    supervised = config(
        SupervisedTask(SupervisedNetworkConfig(NETWORK), families.RandomPixels(0.4, 0.6))
    )
    assert sampling_needs(sample, config(), supervised, 8, device).flops > 0
    with pytest.raises(UserError, match="amortized: got no preset"):
        sampling_needs(sample, config(), None, 8, device)
    with pytest.raises(UserError, match="prior: got no preset of a prior; give --prior"):
        training_needs(amortized, None, 8, jax.devices())


def test_bytes_of_collectives_are_read_off_the_program():
    text = """
  %a = f32[8,4]{1,0} all-reduce(%x), replica_groups={}
  %b = (bf16[16]{0}, f32[2]{0}) all-reduce-start(%y, %z), replica_groups={{0,1},{2,3}}, to_apply=%s
  %c = ((f32[2]{0}, f32[1]{0}), (f32[8]{0}, f32[4]{0})) all-gather-start(%v, %w), dimensions={0}
  %d = f32[16]{0} all-gather-done(%c)
  %e = f32[4]{0} add(%u, %v), metadata={op_name="all-reduce(x)"}
  %f = f32[4]{0} reduce-scatter(%u), replica_groups=[2,4]<=[8], dimensions={0}
  %g = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%u)
"""
    found = bytes_sent(text, 4)
    assert found == {
        "all-reduce": 2 * 128 * 3 / 4 + 2 * (32 + 8) / 2,
        "all-gather": (32 + 16) * 3 / 4,
        "reduce-scatter": 16 * 3,
        "collective-permute": 16,
    }


def test_the_description_says_what_decides():
    needs = Needs(20e9, 197e9, 819e9, {"all-reduce": 1e9})
    lines = "\n".join(describe(needs, CHIPS["v5e"]))
    assert "20.00 of 16 GB, DOES NOT FIT" in lines and "all-reduce 1000.0 MB" in lines
    assert "1.00 ms for arithmetic, 1000.00 ms for memory, 5.00 ms for links: memory" in lines
    assert "16 GB, fits" in describe(needs._replace(memory=1e9), CHIPS["v5e"])[0]


def test_what_does_not_exist_is_named():
    with pytest.raises(UserError, match="topology: got v1:2x2; use one of v5e, v6e, v5p"):
        aot.run(["configs/ffhq256_prior.py", "--topology", "v1:2x2"])
    with pytest.raises(UserError, match="amortized: got x; leave it out: configs/ffhq256_prior.py"):
        aot.run(["configs/ffhq256_prior.py", "--amortized", "x"])
    with pytest.raises(UserError, match="remat: got layers; leave it out: configs/ffhq256.py"):
        aot.run(["configs/ffhq256.py", "--remat", "layers"])
    sampling = SampleConfig("p", SyntheticData(), families.RandomPixels(), MGDM(), "out")
    with pytest.raises(UserError, match="prior: got no preset"):
        sampling_needs(sampling, None, None, 8, jax.devices()[0])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jax[tpu]")
def test_a_slice_of_tpus_that_is_not_here():
    command = [sys.executable, "-m", "lavps_jax.aot", "configs/fashion_mnist_prior.py",
               "--topology", "v5e:2x2", "--image-size", "32"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "on 4 chips" in done.stdout and "all-reduce 15.1 MB" in done.stdout
    done = subprocess.run([*command, "--batch-size", "262144"], cwd=ROOT, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("error: memory of a chip: got Ran out of memory on HBM")
    assert "lower batch_size, raise num_microbatches" in told
