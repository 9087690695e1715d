"""Settings that must be in place before JAX is imported, and fixtures for all tests."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

FLAGS: dict[str, str] = {}
if version("jax").startswith("0.10."):
    # The older generator of loops compiles nearly twice as fast. A release that does not know a
    # flag stops the process, so that others do without.
    FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
    # Cutting a program to compile its parts side by side is work that pays only where cores are
    # idle; test processes keep them busy.
    FLAGS["--xla_cpu_parallel_codegen_split_count"] = "1"
for _flag, _value in FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Most of the time of a test is compilation, and most of that is spent on making fast programs. The
# programs that tests start inherit this.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# Where in our files an instruction comes from: a third of the time of lowering, read by nobody.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# What is compiled again, by another test, process or program that a test starts, is read from here;
# a folder of your own is kept for the next run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="lavps-programs-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.chmod(_programs.name, 0o1777)  # Some tests give up the rights of root.
# Another process may be writing what one reads; it is compiled then, and programs that tests start
# should not speak of it.
os.environ.setdefault(
    "PYTHONWARNINGS",
    "ignore:Error reading persistent compilation cache:UserWarning,"
    "ignore:Error writing persistent compilation cache:UserWarning",
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Tracing makes many objects that live on, among which Python would search for garbage all the time.
gc.set_threshold(200_000, 50, 100)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402
from golden_files import Golden  # noqa: E402

from lavps_jax.diffusion.denoisers import NetworkDenoiser  # noqa: E402
from lavps_jax.networks import (  # noqa: E402
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)
from lavps_jax.samplers.starts import Amortized  # noqa: E402

# Eight virtual devices stand in for a machine with several accelerators; programs that tests start
# have one.
jax.config.update("jax_num_cpu_devices", 8)


MUCH_MEMORY = 1.5e9


def memory_in_use() -> float:
    """Bytes of this process; endless where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("inf")
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module", autouse=True)
def _programs_of_some_modules():
    """Compiled programs of all modules would need 12 GB; the small ones are of use to the next."""
    yield
    if memory_in_use() < MUCH_MEMORY:
        return
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # Where the C library is not GNU's.
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def rng_key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def golden():
    """golden("elbo") is the file elbo.npz."""
    return functools.cache(Golden)


@pytest.fixture(scope="session")
def prior(golden) -> NetworkDenoiser:
    """The prior of all golden files."""
    stored = golden("hdit_tiny")
    model, weights = stored.network(stored.backbone, "unet.")
    return NetworkDenoiser(weights, model)


@pytest.fixture(scope="session", params=["palette", "invfussion"])
def amortized(request, golden) -> tuple[Golden, Amortized]:
    """A published amortized network: its file, and the start that it makes."""
    return _amortized(golden, request.param)


@pytest.fixture(scope="session")
def palette(golden) -> tuple[Golden, Amortized]:
    """The same, always in Palette form."""
    return _amortized(golden, "palette")


def _amortized(golden, kind: str) -> tuple[Golden, Amortized]:
    stored = golden(f"amortized_{kind}")
    config = AmortizedNetworkConfig(stored.backbone, noise_embedding="linear", inverse="published")
    model, weights = stored.network(config, "residual_nn.")
    sees = kind == "invfussion"
    return stored, Amortized(weights, model, inverse="published", sees_measurement=sees)


@pytest.fixture(scope="session")
def perturb():
    """A function that adds noise to all weights: nothing is left at its initial zero."""

    def add_noise(weights: nnx.State, seed: int = 0, scale: float = 0.1) -> nnx.State:
        leaves, structure = jax.tree.flatten(weights)
        generator = np.random.default_rng(seed)
        noisy = [
            # Added in NumPy: outside of jit every new shape would be compiled.
            jnp.asarray(
                np.asarray(leaf) + scale * generator.standard_normal(leaf.shape), leaf.dtype
            )
            for leaf in leaves
        ]
        return jax.tree.unflatten(structure, noisy)

    return add_noise


@pytest.fixture
def tiny_config() -> HDiTConfig:
    return HDiTConfig(
        patch_size=2,
        levels=(
            LevelConfig(16, 1, NeighbourhoodAttention(3, 8), dropout=0.3),
            LevelConfig(24, 1, GlobalAttention(8), dropout=0.3),
        ),
        mapping_width=16,
        mapping_depth=1,
    )
