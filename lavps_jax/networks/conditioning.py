"""Conditioning inputs that all backbones share, and the checks of what a caller gives."""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.networks.initial import normal


def require(condition: bool, field: str, value: object, remedy: str) -> None:
    """Raises `UserError(field, value, remedy)` unless the condition holds."""
    if not condition:
        raise UserError(field, value, remedy)


class BackboneConfig(Protocol):
    """What the configurations of all backbones say."""

    @property
    def in_channels(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def num_noise_levels(self) -> int: ...
    @property
    def size_multiple(self) -> int: ...
    @property
    def sees_measurement(self) -> bool: ...


class ClassEmbedding(nnx.Module):
    """A vector per class, and one for the null class in the last row if there is that class."""

    def __init__(self, num_classes: int, features: int, *, null_class: bool = True, rngs: nnx.Rngs):
        self.null_class = null_class
        rows = num_classes + 1 if null_class else num_classes
        self.weight = nnx.Param(normal(rngs.params(), (rows, features)))

    def __call__(self, label: Float[Array, " K"] | None) -> Float[Array, " M"]:
        table = self.weight[...]
        if not self.null_class:
            if label is None:
                raise UserError("label", label, "give one, this network has no null class")
            return jnp.dot(label.astype(table.dtype), table)
        if label is None:
            return table[-1]
        null = jnp.where(jnp.any(label != 0), 0.0, 1.0).astype(table.dtype)
        return jnp.dot(jnp.concatenate([label.astype(table.dtype), null[None]]), table)


def check_inputs(
    config: BackboneConfig,
    x: Array,
    noise_levels: Array,
    label: Array | None,
    measurement: object | None,
) -> None:
    """Raises `UserError` unless the inputs of one call fit the configuration of the network."""
    require(
        x.ndim == 3 and x.shape[-1] == config.in_channels,
        "x",
        x.shape,
        f"give one image of shape (H, W, {config.in_channels}); use jax.vmap for a batch",
    )
    multiple = config.size_multiple
    require(
        x.shape[0] % multiple == 0 and x.shape[1] % multiple == 0,
        "image size",
        f"{x.shape[0]} x {x.shape[1]}",
        f"use sides that are multiples of {multiple}, as this network requires",
    )
    require(
        noise_levels.shape == (config.num_noise_levels,),
        "noise_levels",
        noise_levels.shape,
        f"give an array of shape ({config.num_noise_levels},)",
    )
    require(
        (measurement is not None) == config.sees_measurement,
        "measurement",
        type(measurement).__name__,
        "give a Measurement" if config.sees_measurement else "this network sees none; give None",
    )
    if label is not None:
        classes = config.num_classes
        require(classes > 0, "label", label.shape, "this network has no classes; give None")
        fits = label.shape == (classes,)
        require(fits, "label", label.shape, f"give a one-hot array of shape ({classes},)")
