"""Whose layout a checkpoint has, and the prior that it holds, as far as names and shapes tell."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import nnx

from lavps_jax.diffusion.parameterisations import EDM, VP, Parameterisation
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError, first_words
from lavps_jax.io.layouts.adm import config_from_adm, from_adm
from lavps_jax.io.layouts.ddpm import config_from_ddpm, from_ddpm
from lavps_jax.io.layouts.diffusers import (
    config_from_diffusers,
    config_from_shapes,
    from_diffusers,
)
from lavps_jax.io.layouts.edm import config_from_edm, from_edm, trained_side
from lavps_jax.networks import SongUNetConfig, UNetConfig, sizes

Layout = Literal["adm", "ddpm", "diffusers", "edm", "hdit"]

_LAYOUTS: dict[str, Layout] = {
    r"input_blocks\.0\.0\.weight": "adm",
    r"down\.0\.block\.0\.norm1\.weight": "ddpm",
    r"down_blocks\.0\.resnets\.0\.norm1\.weight": "diffusers",
    r"enc\.\d+x\d+_conv\.weight": "edm",
    r"(unet|residual_nn)\.patch_in\..*": "hdit",
}
_REFUSED = {
    r"(model\.diffusion_model|first_stage_model|cond_stage_model)\..*": (
        "a latent diffusion model",
        "give a prior of pixels: this one also needs its decoder, which this library does not have",
    ),
    r"(quant_conv|post_quant_conv|encoder|decoder)\..*": (
        "an autoencoder of a latent diffusion model", "give a prior of pixels",
    ),
    r".*\.transformer_blocks\..*": (
        "a network that is told texts", "give a prior of pixels without text",
    ),
    r".*(lora_|\.lora\.).*": (
        "a LoRA, small changes to another network", "give the whole network, with them in it",
    ),
    r"(state|param_groups|optimizer|exp_avg)\b.*": (
        "the state of an optimizer", "give the averaged weights of the network",
    ),
}  # fmt: skip
_SHAPE = ("in_channels", "out_channels", "block_channels", "attention", "layers_per_block",
          "num_classes", "time_conditioning", "resample", "architecture",
          "model_channels")  # fmt: skip
PRESETS = {
    "adm_imagenet256_prior": sizes.ADM_IMAGENET256,
    "adm_imagenet256_classes_prior": sizes.ADM_IMAGENET256_CLASSES,
    "adm_imagenet128_prior": sizes.ADM_IMAGENET128,
    "adm_imagenet64_prior": sizes.ADM_IMAGENET64,
    "adm_ffhq256_prior": sizes.ADM_FFHQ256,
    "improved_cifar10_prior": sizes.IMPROVED_CIFAR10,
    "improved_imagenet64_prior": sizes.IMPROVED_IMAGENET64,
    "improved_imagenet64_classes_prior": sizes.IMPROVED_IMAGENET64_CLASSES,
    "improved_bedroom256_prior": sizes.IMPROVED_BEDROOM256,
    "ddpm256_prior": sizes.DDPM256,
    "ddpm_cifar10_prior": sizes.DDPM_CIFAR10,
    "edm_cifar10_prior": sizes.EDM_CIFAR10,
    "edm_cifar10_classes_prior": sizes.EDM_CIFAR10_CLASSES,
    "edm_cifar10_ncsn_prior": sizes.EDM_CIFAR10_NCSN,
    "edm_cifar10_ncsn_classes_prior": sizes.EDM_CIFAR10_NCSN_CLASSES,
    "edm_64_prior": sizes.EDM_64,
    "edm_64_ncsn_prior": sizes.EDM_64_NCSN,
    "edm_imagenet64_prior": sizes.EDM_IMAGENET64,
}
"""Presets of published networks."""
_UNTOLD = {"adm_imagenet64_prior", "adm_imagenet128_prior"}
"""Those of networks of ADM that have another schedule or other heads than the rest."""
_BETAS = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
_SCHEDULERS = (
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
)  # fmt: skip
"""Of diffusers, for networks of variance-preserving diffusion."""
_EDM_SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}


class Recognised(NamedTuple):
    """A prior of another project, as far as its files tell.

    Attributes:
      network: its shape.
      parameterisation: what it is told and predicts, with the schedule of its training.
      side: of the images it was trained on, in pixels; None where files do not tell it.
    """

    network: UNetConfig | SongUNetConfig
    parameterisation: VP | EDM = VP()
    side: int | None = None


def unwrapped(state: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], str]:
    """A state dict without what comes before all of its names, as "module." of parallel training.

    Args:
      state: arrays by name.

    Returns:
      The state dict, and what was taken off its names: nothing, "", unless it has a known layout
      without that and none with it.
    """
    names, prefix = list(state), ""
    while not any(re.fullmatch(known, name) for known in (*_REFUSED, *_LAYOUTS) for name in names):
        first = f"{names[0].partition('.')[0]}." if names else ""
        if not first or not all(name.startswith(first) for name in names):
            return state, ""
        names, prefix = [name.removeprefix(first) for name in names], prefix + first
    return {name.removeprefix(prefix): array for name, array in state.items()}, prefix


def layout_of(names: Iterable[str]) -> Layout:
    """Which layout a state dict has, from its names.

    Raises:
      UserError: if it is none that this library reads, which says what it is if that is known.
    """
    names = list(names)
    for pattern, (what, remedy) in _REFUSED.items():
        if any(re.fullmatch(pattern, name) for name in names):
            raise UserError("checkpoint", what, remedy)
    for pattern, layout in _LAYOUTS.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return layout
    found = f"tensors named {', '.join(names[:3])}" if names else "no tensor"
    known = "give a prior as guided-diffusion (ADM), DDIM, EDM or diffusers' UNet2DModel saves it"
    raise UserError("checkpoint", found, known)


def recognise(
    state: Mapping[str, np.ndarray],
    settings: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> Recognised:
    """What prior a state dict holds.

    Args:
      state: arrays by name.
      settings: content of the config.json beside it, which diffusers' layout needs.
      scheduler: content of diffusers' scheduler_config.json, if there is one.

    Raises:
      UserError: if that cannot be told.
    """
    match layout_of(state):
        case "adm":
            network = config_from_adm(state, head_size=None)
            # DDPM's own have the same shapes for 256 pixels, and are told the time otherwise.
            known = [one for one in _presets_like(network) if not one.startswith("ddpm")]
            if network.resample == "conv" or _UNTOLD & set(known):
                found = "an ADM or Improved DDPM whose schedule or heads shapes do not tell"
                remedy = (
                    "write a preset like configs/improved_cifar10_prior.py, give it as --preset"
                )
                remedy = f"give --preset configs/{known[0]}.py" if known else remedy
                raise UserError("checkpoint", found, remedy)
            return Recognised(config_from_adm(state))
        case "ddpm":
            return Recognised(config_from_ddpm(state))
        case "diffusers":
            if settings is None:
                remedy = "put the config.json of the network beside it, or give --preset"
                raise UserError("checkpoint", "weights in diffusers' layout alone", remedy)
            try:
                network = config_from_diffusers(settings)
                return Recognised(network, _trained_as(scheduler or {}), _side(settings))
            except UserError:
                raise
            except (TypeError, ValueError, AttributeError) as error:
                remedy = "get the file again, it is damaged"
                raise UserError("config.json", first_words(error), remedy) from error
        case "edm":
            return Recognised(config_from_edm(state), EDM(), trained_side(state))
        case "hdit":
            remedy = "give --preset configs/NAME.py of this network"
            raise UserError("checkpoint", "an HDiT, which names do not describe", remedy)


def read_layout(
    state: Mapping[str, np.ndarray], network: Any, *, new_attention_order: bool = False
) -> nnx.State:
    """The weights of a state dict in any of the layouts, NumPy arrays; most are views.

    Args:
      state: arrays by name.
      network: a `UNetConfig` or `SongUNetConfig`, that they are of.
      new_attention_order: see `from_adm`.

    Raises:
      UserError: naming what is missing, not expected, or of another shape.
    """
    match layout_of(state):
        case "adm":
            return from_adm(state, network, new_attention_order=new_attention_order)
        case "ddpm":
            return from_ddpm(state, network)
        case "diffusers":
            return from_diffusers(state, network)
        case "edm":
            return from_edm(state, network)
        case "hdit":
            raise UserError("preset", "a U-Net", "give the preset of the HDiT of this checkpoint")


def check_network(state: Mapping[str, np.ndarray], network: Any) -> None:
    """Raises a UserError that names the preset of a published network if it is another one.

    Args:
      state: arrays by name, in a layout whose shapes tell the network.
      network: a `UNetConfig` or `SongUNetConfig`, what they should be of.
    """
    told: dict[str, Any] = {
        "adm": functools.partial(config_from_adm, head_size=None),
        "ddpm": config_from_ddpm,
        "edm": config_from_edm,
        "diffusers": config_from_shapes,
    }
    found = told.get(layout_of(state), lambda _: network)(state)
    if _shape(found) == _shape(network):
        return
    known = _presets_like(found)
    fields = dict(zip(_SHAPE, zip(_shape(found), _shape(network), strict=True), strict=True))
    changes = [f"{name} {a} instead of {b}" for name, (a, b) in fields.items() if a != b]
    remedy = f"give configs/{known[0]}.py" if known else "leave it out: shapes tell the network"
    raise UserError("preset", f"another network than the file's, {', '.join(changes)}", remedy)


def _presets_like(network: UNetConfig | SongUNetConfig) -> list[str]:
    return [name for name, one in PRESETS.items() if _shape(one) == _shape(network)]


def _shape(network: UNetConfig | SongUNetConfig) -> tuple[Any, ...]:
    null = bool(network.num_classes and getattr(network, "null_class", False))
    facts = {name: getattr(network, name, None) for name in _SHAPE}
    return tuple({**facts, "num_classes": network.num_classes + null}.values())


def _trained_as(scheduler: Mapping[str, Any]) -> VP | EDM:
    """From diffusers' scheduler_config.json; where that says nothing, as DDPM."""
    betas = scheduler.get("beta_schedule", "linear")
    prediction = scheduler.get("prediction_type", "epsilon")
    kind = scheduler.get("_class_name", "DDPMScheduler")
    if kind in _EDM_SCHEDULERS:
        if prediction != "epsilon":  # "v_prediction" there is the negative of it.
            raise UserError("prediction_type", prediction, "convert epsilon, of an EDM")
        return EDM(scheduler.get("sigma_data", 0.5))
    if kind not in _SCHEDULERS or scheduler.get("rescale_betas_zero_snr"):
        kind += " with rescale_betas_zero_snr" * (kind in _SCHEDULERS)
        raise UserError("scheduler", kind, "use lavps_jax.denoiser_from with its parameterisation")
    if betas not in _BETAS or scheduler.get("trained_betas") is not None:
        remedy = f"convert one of {', '.join(_BETAS)}, or use lavps_jax.denoiser_from"
        raise UserError("beta_schedule", betas, remedy)
    if prediction not in _PREDICTIONS:
        raise UserError("prediction_type", prediction, f"convert {', '.join(_PREDICTIONS)}")
    schedule = Schedule(
        scheduler.get("num_train_timesteps", 1000),
        scheduler.get("beta_start", 1e-4),
        scheduler.get("beta_end", 0.02),
        _BETAS[betas],  # type: ignore[arg-type]
        0.0 if betas == "squaredcos_cap_v2" else 1e-6,
    )
    return VP(_PREDICTIONS[prediction], schedule)  # type: ignore[arg-type]


def scheduler_of(parameterisation: Parameterisation) -> dict[str, Any]:
    """The content of diffusers' scheduler_config.json of a prior.

    Raises:
      UserError: if there is no scheduler for it.
    """
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    match parameterisation:
        case EDM(sigma_data=sigma_data):
            return {
                "_class_name": _EDM_SCHEDULERS[0],
                "sigma_data": sigma_data,
                "prediction_type": "epsilon",
            }
        case VP(prediction=prediction, schedule=schedule) if prediction in predictions:
            return {
                "_class_name": "DDPMScheduler",
                "num_train_timesteps": schedule.num_times,
                "beta_start": schedule.beta_min,
                "beta_end": schedule.beta_max,
                "beta_schedule": {b: a for a, b in _BETAS.items()}[schedule.kind],
                "prediction_type": predictions[prediction],
                "clip_sample": parameterisation.clip,
            }
    raise UserError("parameterisation", parameterisation, "diffusers has no scheduler for it")


def _side(settings: Mapping[str, Any]) -> int | None:
    size = settings.get("sample_size")
    return max(size) if isinstance(size, list) else size
