"""Scores of a training run on images that it does not train on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lavps_jax.config.settings import TrainConfig
from lavps_jax.data import ImageSource, load_batch, load_labels
from lavps_jax.runs.build_training import Trainee
from lavps_jax.training.losses import PriorLoss
from lavps_jax.training.sharding import on_all_devices, replicated
from lavps_jax.types import Weights

VALIDATION_SIGMAS = (0.2, 1.0, 5.0)
"""Noise levels at which the denoising error of a prior is reported."""
_VALIDATION_SEED = 1


def make_validation(
    config: TrainConfig, trainee: Trainee, frozen: Any, source: ImageSource, mesh: Mesh
) -> Callable[[Weights], dict[str, float]]:
    """A function of the averaged weights: mean losses over fixed images, noise and operators.

    Every device computes all of it: it is little.

    Args:
      frozen: those of the trainee, over the mesh.
      source: of the images; the first ones are taken.
    """
    count = min(config.num_validation_images, len(source))
    images = load_batch(source, range(count))
    num_classes = config.task.trained_classes
    labels = load_labels(source, range(count), num_classes) if num_classes else None
    keys = jax.random.split(jax.random.key(_VALIDATION_SEED), count)
    # No more at a time than a device takes in training.
    at_once = max(config.batch_size // (mesh.size * config.num_microbatches), 1)
    keys, images, labels = on_all_devices((keys, images, labels), replicated(mesh))

    @partial(jax.jit, out_shardings=replicated(mesh))
    def scores(weights, frozen, keys, images, labels):
        def one(row):
            key, x_0, label = row
            key_loss, key_noise = jax.random.split(key)
            loss, metrics, _ = trainee.loss_fn(
                weights, key_loss, frozen, x_0, (), train=False, label=label
            )
            if isinstance(trainee.loss_fn, PriorLoss):
                noise = jax.random.normal(key_noise, x_0.shape)
                shown = None if label is None else jax.nn.one_hot(label, num_classes)
                denoiser = trainee.loss_fn.denoiser.replace(weights=weights)
                for sigma_t in VALIDATION_SIGMAS:
                    z = x_0 + sigma_t * noise
                    x_0_hat = denoiser.at_sigma(z, jnp.float32(sigma_t), shown)
                    metrics[f"mse_at_sigma_{sigma_t:g}"] = jnp.mean((x_0_hat - x_0) ** 2)
            return {"loss": loss, **metrics}

        rows = jax.lax.map(one, (keys, images, labels), batch_size=at_once)
        return jax.tree.map(jnp.mean, rows)

    def validate(weights) -> dict[str, float]:
        found = scores(weights, frozen, keys, images, labels)
        values = {f"validation_{k}": float(v) for k, v in found.items()}
        at_prior = values.get("validation_block_loss_at_prior")
        if at_prior is not None:
            values["validation_ratio"] = values["validation_block_loss"] / at_prior
        return values

    return validate


def validation_line(step: int, scores: dict[str, float]) -> str:
    parts = (f"{k.removeprefix('validation_')} {v:.5g}" for k, v in scores.items())
    return f"validation at step {step}: " + ", ".join(parts)
