"""The image encoder of CLIP, computed from the published weights.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv:2103.00020; the vision transformer is that of Dosovitskiy et al., ICLR 2021,
arXiv:2010.11929, with a norm before its layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError

HEAD_SIZE = 64
"""Of all published vision transformers."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels of its training images, in [0, 1]."""
_OUTER = (
    "conv1.weight", "class_embedding", "positional_embedding", "proj",
    "ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias",
)  # fmt: skip
_INNER = (
    "ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias",
    "attn.out_proj.weight", "attn.out_proj.bias", "ln_2.weight", "ln_2.bias",
    "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip
_LAYER = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)")


class CLIPWeights(NamedTuple):
    """Arrays under their published names, those of layers stacked on axis 0; float32.

    Attributes:
      outer: what is there once, without "visual.".
      layers: of the transformer.
    """

    outer: dict[str, Array]
    layers: dict[str, Array]


def clip_weights(state: Mapping[str, np.ndarray]) -> CLIPWeights:
    """Those of the image encoder in a published state dict.

    Raises:
      UserError: if it is not one of CLIP with a vision transformer.
    """
    outer, layers = {}, {}
    for name, array in state.items():
        found = _LAYER.fullmatch(name)
        if found:
            layers.setdefault(found[2], {})[int(found[1])] = array
        elif name.startswith("visual."):
            outer[name.removeprefix("visual.")] = jnp.asarray(array, jnp.float32)
    whole = all(name in outer for name in _OUTER) and all(name in layers for name in _INNER)
    if not whole:
        raise UserError("clip", "another network", "give the archive of a CLIP with a ViT")
    stacked = {
        name: jnp.asarray(np.stack([one[i] for i in sorted(one)]), jnp.float32)
        for name, one in layers.items()
    }
    return CLIPWeights(outer, stacked)


def clip_embedding(weights: CLIPWeights, x: Float[Array, "H W C"]) -> Float[Array, " F"]:
    """The embedding of an image, of length 1, float32 (F,).

    The image is resized (cubic) to the square that the encoder was trained on.

    Args:
      x: image, float (H, W, C) in [-1, 1], C = 1 or 3.
    """
    outer = weights.outer
    width, _, patch, _ = outer["conv1.weight"].shape
    side = patch * math.isqrt(len(outer["positional_embedding"]) - 1)
    x = jnp.broadcast_to((x + 1) / 2, (*x.shape[:2], 3))
    mean, std = jnp.array(MEAN)[None, None], jnp.array(STD)[None, None]
    x = (jax.image.resize(x, (side, side, 3), "cubic") - mean) / std
    with jax.default_matmul_precision("highest"):
        patches = jax.lax.conv_general_dilated(
            x[None], outer["conv1.weight"], (patch, patch), "VALID",
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )[0].reshape(-1, width)  # fmt: skip
        tokens = jnp.concatenate([outer["class_embedding"][None], patches])
        tokens = _norm(tokens + outer["positional_embedding"], outer, "ln_pre")
        tokens, _ = jax.lax.scan(lambda t, layer: (_layer(t, layer), None), tokens, weights.layers)
        embedding = (_norm(tokens[:1], outer, "ln_post") @ outer["proj"])[0]
    return embedding / jnp.linalg.norm(embedding)


def _layer(tokens: Float[Array, "T D"], w: Mapping[str, Array]) -> Float[Array, "T D"]:
    """tokens + attention, then + two dense layers, each of the normalised tokens."""
    count, width = tokens.shape
    heads = (count, width // HEAD_SIZE, HEAD_SIZE)
    qkv = _norm(tokens, w, "ln_1") @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"][None]
    q, k, v = (part.reshape(heads) for part in jnp.split(qkv, 3, axis=-1))
    attended = jax.nn.dot_product_attention(q, k, v).reshape(count, width)
    tokens += _dense(attended, w, "attn.out_proj")
    hidden = _dense(_norm(tokens, w, "ln_2"), w, "mlp.c_fc")
    return tokens + _dense(hidden * jax.nn.sigmoid(1.702 * hidden), w, "mlp.c_proj")


def _dense(x: Array, w: Mapping[str, Array], name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"][None]


def _norm(x: Array, w: Mapping[str, Array], name: str) -> Array:
    normed = jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    return normed * w[f"{name}.weight"][None] + w[f"{name}.bias"][None]
