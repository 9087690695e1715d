"""Non-linear operators against other implementations and against what they stand for."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lavps_jax.errors import UserError
from lavps_jax.operators import (
    JPEG,
    Blur,
    Clipping,
    FourierMagnitude,
    LightBlur,
    ToneCurve,
    families,
)
from lavps_jax.operators.jpeg import quantization_tables


def picture(height: int = 45, width: int = 70, channels: int = 3) -> np.ndarray:
    """Smooth colours, edges and some grain, uint8."""
    rows, columns = np.linspace(0, 3, height)[:, None], np.linspace(0, 4, width)[None]
    planes = [np.sin(rows + k) * np.cos(columns * (k + 1)) for k in range(channels)]
    image = 127.5 + 100 * np.stack(planes, -1)
    image[10:20, 30:50] = (250, 30, 60)[:channels]
    grain = np.random.default_rng(0).normal(0, 8, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def file_of(image: np.ndarray, quality: int, subsampling: int) -> Image.Image:
    packed = io.BytesIO()
    Image.fromarray(image.squeeze()).save(packed, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(io.BytesIO(packed.getvalue()))


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 100])
def test_tables_are_those_of_libjpeg(quality):
    stored = file_of(picture(), quality, 0).quantization  # type: ignore[attr-defined]
    for kind in (0, 1):
        expected = np.array(stored[kind]).reshape(8, 8)
        np.testing.assert_array_equal(quantization_tables(quality)[kind], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 30, 90])
def test_images_are_those_of_a_jpeg_file(channels, quality):
    image = picture(channels=channels)
    decoded = np.asarray(file_of(image, quality, 0)).reshape(image.shape)
    operator = JPEG(jnp.float32(quality), False, x_shape=image.shape)
    y = jax.jit(operator.forward)(image / jnp.float32(127.5) - 1)
    difference = np.abs((np.asarray(y) + 1) * 127.5 - decoded)
    loss = np.abs(image - decoded.astype(float)).mean()
    assert loss > 1
    # Only roundings of the coder and the decoder differ.
    assert difference.mean() < (0.5 if channels == 1 else 1.0)
    assert difference.mean() < loss / 3 and difference.max() < 0.25 * 255


def test_halved_colour_is_near_a_jpeg_file():
    image = picture()
    decoded = np.asarray(file_of(image, 80, 2))
    x = image / jnp.float32(127.5) - 1
    whole, halved = (
        (np.asarray(JPEG(jnp.float32(80), halve, x_shape=image.shape).forward(x)) + 1) * 127.5
        for halve in (False, True)
    )
    # Decoders differ in how they enlarge colours: near, and much nearer than without.
    assert np.abs(halved - decoded).mean() < 0.6 * np.abs(whole - decoded).mean()


def test_rounding_lets_gradients_through():
    operator = JPEG(jnp.float32(95), x_shape=(16, 16, 1))
    x = jax.random.uniform(jax.random.key(0), (16, 16, 1), minval=-0.5, maxval=0.5)
    target = 0.3 * jnp.ones_like(x)
    gradient = jax.grad(lambda x: jnp.sum((operator.forward(x) - target) ** 2) / 2)(x)
    # At high quality JPEG is nearly the identity.
    np.testing.assert_allclose(gradient, x - target, atol=0.08)


def test_magnitudes_hide_shifts_and_half_turns():
    operator = FourierMagnitude((8, 8), x_shape=(16, 16, 1))
    inner = jax.random.uniform(jax.random.key(0), (8, 8, 1), minval=-1, maxval=1)
    images = [
        jnp.pad(shape, ((a, 8 - a), (b, 8 - b), (0, 0)), constant_values=-1)
        for shape, a, b in ((inner, 4, 4), (inner, 1, 6), (inner[::-1, ::-1], 4, 4))
    ]
    first, *others = (operator.forward(image) for image in images)
    assert first.shape == (32, 32, 1)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)
    # Orthonormal: the energy of u.
    np.testing.assert_allclose(jnp.sum(first**2), jnp.sum(((images[0] + 1) / 2) ** 2), rtol=1e-5)
    for sides, padding in (((16, 16), (8, 8)), ((48, 80), (24, 40)), ((33, 16), (17, 8))):
        assert families.PhaseRetrieval(2.0).draw(jax.random.key(0), (*sides, 1)).padding == padding


def test_too_bright_is_lost():
    operator = Clipping(jnp.float32(2.0), x_shape=(1, 4, 1))
    x = jnp.asarray([-0.9, -0.2, 0.4, 0.6]).reshape(1, 4, 1)
    np.testing.assert_allclose(operator.forward(x).ravel(), [-1, -0.4, 0.8, 1], rtol=1e-6)
    expected = [-0.5, -0.2, 0.4, 0.5]
    np.testing.assert_allclose(operator.estimate(operator.forward(x), 0.1).ravel(), expected)


def test_tones_are_few_and_follow_the_curve():
    operator = ToneCurve(jnp.float32(2.0), 2, x_shape=(1, 101, 1))
    u = jnp.linspace(0, 1, 101).reshape(1, 101, 1)
    y = np.asarray(operator.forward(2 * u - 1))
    np.testing.assert_allclose(np.unique(np.round(y, 5)), [-1, -0.33333, 0.33333, 1], atol=1e-5)
    fine = ToneCurve(jnp.float32(2.0), 16, x_shape=(1, 101, 1))
    np.testing.assert_allclose((fine.forward(2 * u - 1) + 1) / 2, u**2, atol=1e-5)
    back = fine.estimate(fine.forward(2 * u - 1), 0.1)
    np.testing.assert_allclose(back[:, 1:], (2 * u - 1)[:, 1:], atol=2e-3)


def test_black_stays_black_for_every_curve():
    for gamma in (1 / 2.2, 3.0):
        operator = ToneCurve(jnp.float32(gamma), 8, x_shape=(1, 2, 1))
        ends = jnp.asarray([-1.0, 1.0]).reshape(1, 2, 1)
        np.testing.assert_array_equal(operator.forward(ends), ends)
        slope = jax.grad(lambda x: operator.forward(x).sum())(ends)  # noqa: B023
        assert np.isfinite(slope).all() and slope[0, 0, 0] > 0


def test_light_adds_up():
    """Half black and half white give the code value of half the light: 0.735."""
    kernel = jnp.zeros((3, 3)).at[1, 1].set(0.5).at[1, 2].set(0.5)
    operator = LightBlur(Blur(kernel, x_shape=(4, 4, 1)), x_shape=(4, 4, 1))
    x = jnp.tile(jnp.asarray([-1.0, 1.0]), 8).reshape(4, 4, 1)
    np.testing.assert_allclose((operator.forward(x) + 1) / 2, 0.7354, atol=1e-3)
    grey = jnp.full((4, 4, 1), 0.2)
    np.testing.assert_allclose(operator.forward(grey), grey, atol=1e-5)


@pytest.mark.parametrize(
    "make,field",
    [
        (lambda: FourierMagnitude((0, -1), x_shape=(4, 4, 1)), "padding"),
        (lambda: ToneCurve(jnp.float32(1), 0, x_shape=(4, 4, 1)), "bits"),
        (lambda: JPEG(jnp.float32(5), x_shape=(8, 8, 2)), "channels of the images"),
    ],
)
def test_operators_that_cannot_be(make, field):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.field == field
