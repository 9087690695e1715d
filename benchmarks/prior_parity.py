"""Published U-Nets at full size against independent implementations in PyTorch.

Every tensor is random and nothing is zero; the same weights go through the layout's reader here.
The error of a network is the largest difference over the largest output, in float32, over images of
32 x 32 and 32 x 64 pixels and the times 0, 437 and 999. Needs diffusers and azula.

Command: python -m benchmarks.prior_parity
"""

from __future__ import annotations

import importlib.metadata
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.io.foreign_files import import_torch
from lavps_jax.io.layouts.adm import config_from_adm, from_adm
from lavps_jax.io.layouts.diffusers import config_from_diffusers, from_diffusers
from lavps_jax.networks import UNetConfig, sizes, split

TIMES = (0, 437, 999)
SHAPES = ((32, 32), (32, 64))
ADM = {
    "image_size": 256,
    "num_channels": 256,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "num_res_blocks": 2,
    "attention_resolutions": [32, 16, 8],
    "num_head_channels": 64,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
FFHQ = ADM | {"num_channels": 128, "num_res_blocks": 1, "attention_resolutions": [16]}
DOWN, DOWN_ATTENDING, UP, UP_ATTENDING = (
    "DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"
)  # fmt: skip
DDPM = {
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (DOWN, DOWN, DOWN, DOWN, DOWN_ATTENDING, DOWN),
    "up_block_types": (UP, UP_ATTENDING, UP, UP, UP, UP),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
CIFAR = DDPM | {
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": (DOWN, DOWN_ATTENDING, DOWN, DOWN),
    "up_block_types": (UP, UP, UP_ATTENDING, UP),
}


@dataclass(frozen=True)
class Config:
    """Where results go."""

    out: str = "docs/results/prior_parity.json"


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a state dict: nothing is zero, and outputs are of order one."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if len(shape) == 1:
        return name.endswith(".weight") + np.float32(0.3) * noise
    return noise / np.float32(math.sqrt(math.prod(shape[1:])))


def error(theirs: Any, evaluate: Callable[..., Any], read: Callable[..., Any]) -> dict[str, Any]:
    """Of a network of PyTorch: read(state) gives its configuration and weights here."""
    torch = import_torch()
    state = {k: drawn(k, tuple(t.shape)) for k, t in theirs.state_dict().items()}
    theirs.load_state_dict({k: torch.from_numpy(array) for k, array in state.items()})
    theirs.eval()
    config, weights = read(state)
    model = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))[0]
    ours = jax.jit(lambda weights, x, t: model(weights, x, t[None]))
    worst = 0.0
    for side in SHAPES:
        x = drawn("image", (3, *side)) * np.float32(math.sqrt(math.prod(side)))
        for t in TIMES:
            with torch.no_grad():
                wanted = evaluate(torch.from_numpy(x)[None], torch.tensor([t]))[0].numpy()
            found = np.moveaxis(ours(weights, np.moveaxis(x, 0, -1), jnp.float32(t)), -1, 0)
            worst = max(worst, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return {"parameters": sum(array.size for array in state.values()), "error": worst}


def of_azula(settings: dict[str, Any], known: UNetConfig) -> dict[str, Any]:
    """An ADM network of azula."""
    from azula.plugins import adm  # type: ignore[import-not-found]

    def read(state):
        assert config_from_adm(state) == known
        return known, from_adm(state, known)

    network = adm.make_model(**settings).backbone
    return error(network, network, read)


def of_diffusers(settings: dict[str, Any], known: UNetConfig) -> dict[str, Any]:
    """A `UNet2DModel` of diffusers."""
    from diffusers import UNet2DModel  # type: ignore[import-not-found]

    network = UNet2DModel(**settings)

    def read(state):
        config = config_from_diffusers(dict(network.config))
        assert config == known
        return config, from_diffusers(state, config)

    return error(network, lambda x, t: network(x, t).sample, read)


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m benchmarks.prior_parity")
    earlier("out", config.out)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "azula")}
    found: dict[str, Any] = {"versions": versions}
    for name, measure, settings, known in (
        ("DDPM 256, diffusers", of_diffusers, DDPM, sizes.DDPM256),
        ("DDPM CIFAR-10, diffusers", of_diffusers, CIFAR, sizes.DDPM_CIFAR10),
        ("ADM FFHQ 256, azula", of_azula, FFHQ, sizes.ADM_FFHQ256),
        ("ADM ImageNet 256, azula", of_azula, ADM, sizes.ADM_IMAGENET256),
    ):
        found[name] = measure(settings, known)
        print(name, found[name], flush=True)
        record(config.out, found)


if __name__ == "__main__":
    cli.main(main)
