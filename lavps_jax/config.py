"""Configurations of the two programs: plain frozen data, and the presets that hold them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lavps_jax import data, networks, operators
from lavps_jax.amortized_training import BlockWeight
from lavps_jax.data import DataConfig
from lavps_jax.errors import UserError, check_choices
from lavps_jax.networks import (
    ConditionalDenoiserConfig,
    HDiTConfig,
    PaletteConfig,
    UNetConfig,
)
from lavps_jax.operators import OperatorFamily
from lavps_jax.samplers.mgdm import LearningRateUnit, TauRule
from lavps_jax.schedules import Schedule

__all__ = [
    "AmortizedTask",
    "ConditionalConfig",
    "ConditionalTask",
    "DPSConfig",
    "InnerConfig",
    "LAVPSConfig",
    "MGDMConfig",
    "OptimizerConfig",
    "PriorTask",
    "SampleConfig",
    "SamplerConfig",
    "TrainConfig",
    "from_json",
    "load_preset",
    "to_json",
]


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(name, value, "use a positive number")


def _check_at_least(name: str, value: float, least: int) -> None:
    if not least <= value < math.inf:
        raise UserError(name, value, f"use at least {least}")


@dataclass(frozen=True)
class PriorTask:
    """Train the diffusion prior E[x_0 | x_t]."""

    network: HDiTConfig | UNetConfig
    log_sigma_mean: float = -0.8
    """Mean of log sigma over the noise levels seen in training."""
    log_sigma_std: float = 1.5
    """Standard deviation of log sigma, > 0."""

    def __post_init__(self):
        _check_positive("task.log_sigma_std", self.log_sigma_std)


@dataclass(frozen=True)
class AmortizedTask:
    """Train the amortized start of LAVPS for one family of operators, on a fixed prior."""

    network: PaletteConfig
    prior: str
    """Folder of the exported prior."""
    operator: OperatorFamily
    sigma_y: float = 0.05
    """Standard deviation of the measurement noise, > 0."""
    num_steps: int = 100
    """Steps of the sampler whose blocks are learned."""
    low_idx: int = 1
    """First grid index of t_prev that is learned, >= 1."""
    high_idx: int = 30
    """One past the last grid index of t_prev that is learned."""
    tau_rule: Literal["previous", "midpoint", "three_quarters"] = "previous"
    """Block time from the grid time t_prev: itself, its half, or three quarters of it."""
    states: Literal["forward", "chain"] = "forward"
    """Where the blocks come from: the forward process on the training image, as published, or the
    sampler's own runs with the network as it is so far."""
    block_weight: BlockWeight = "none"
    """Weight of a block's loss: none, as published, or the inverse of the residual expected at its
    noise level."""

    def __post_init__(self):
        check_choices(self)
        _check_positive("sigma_y", self.sigma_y)
        if not 1 <= self.low_idx < self.high_idx <= self.num_steps - 2:
            value = (self.low_idx, self.high_idx)
            remedy = f"use 1 <= low_idx < high_idx <= num_steps - 2 = {self.num_steps - 2}"
            raise UserError("task.low_idx, task.high_idx", value, remedy)


@dataclass(frozen=True)
class ConditionalTask:
    """Train the supervised baseline E[x_0 | x_t, y] for one family of operators."""

    network: ConditionalDenoiserConfig
    operator: OperatorFamily
    sigma_y: float = 0.05
    """Standard deviation of the measurement noise, > 0."""
    log_sigma_mean: float = -0.8
    """Mean of log sigma over the noise levels seen in training."""
    log_sigma_std: float = 1.5
    """Standard deviation of log sigma, > 0."""

    def __post_init__(self):
        _check_positive("sigma_y", self.sigma_y)
        _check_positive("task.log_sigma_std", self.log_sigma_std)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, gradient clipping and an average of the weights."""

    peak_lr: float = 1e-3
    """Learning rate after the warm-up, > 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After the warm-up: constant, or a cosine down to zero at the last step."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from zero, >= 0."""
    weight_decay: float = 0.0
    """Of AdamW, >= 0; biases and scales decay too, buffers do not."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it, > 0."""
    ema_decay: float = 0.999
    """Decay of the average of the weights, in [0, 1)."""

    def __post_init__(self):
        check_choices(self)
        _check_positive("optimizer.peak_lr", self.peak_lr)
        _check_positive("optimizer.clip_norm", self.clip_norm)
        _check_at_least("optimizer.warmup_steps", self.warmup_steps, 0)
        _check_at_least("optimizer.weight_decay", self.weight_decay, 0)
        if not 0 <= self.ema_decay < 1:
            raise UserError("optimizer.ema_decay", self.ema_decay, "use a number in [0, 1)")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    task: PriorTask | AmortizedTask | ConditionalTask
    train_data: DataConfig
    validation_data: DataConfig
    run_dir: str
    """Folder of the run: checkpoints, log, exported weights."""
    batch_size: int = 32
    """Images per step."""
    num_train_steps: int = 10_000
    """Steps of the whole run."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Schedule = Schedule()
    seed: int = 0
    """Of the initial weights, the order of images, and all random draws."""
    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 1000
    """Steps between validations; weights are exported at the same time."""
    num_validation_images: int = 128
    """The first ones of `validation_data`."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted run goes on."""
    keep_last: int = 2
    """Number of checkpoints to keep."""
    export_dtype: Literal["float32", "float16"] = "float32"
    """In which exported weights are stored."""

    def __post_init__(self):
        check_choices(self)
        for name in ("batch_size", "num_train_steps", "log_every", "validate_every",
                     "num_validation_images", "checkpoint_every", "keep_last"):  # fmt: skip
            _check_at_least(name, getattr(self, name), 1)
        _check_at_least("seed", self.seed, 0)


@dataclass(frozen=True)
class InnerConfig:
    """How the inner problem of a block is solved."""

    num_inner_steps: int = 3
    """Adam steps on the negative ELBO, >= 0."""
    learning_rate: float = 0.03
    """Of Adam, > 0."""
    learning_rate_unit: LearningRateUnit = "image"
    """Image: as it is, as published. Prior_std: times the standard deviation of the block prior."""

    def __post_init__(self):
        check_choices(self)
        _check_at_least("num_inner_steps", self.num_inner_steps, 0)
        _check_positive("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class MGDMConfig:
    """Zero-shot sampling with inner fits (MGDM); see `lavps_jax.samplers.MGDM`."""

    inner: InnerConfig = InnerConfig(1)
    """Away from the low-noise end."""
    inner_low_noise: InnerConfig = InnerConfig(10)
    """For blocks whose t_prev has a grid index in [low_idx, high_idx)."""
    low_idx: int = 1
    """First grid index of the low-noise end, >= 1."""
    high_idx: int = 30
    """One past its last grid index."""
    num_steps: int = 100
    """Points of the time grid."""
    num_gibbs: int = 1
    """Repetitions of a step."""
    num_ddim_steps: int = 1
    """Points of the grid on which x_tau is denoised; 1 is a single prediction."""
    eta: float = 1.0
    """Stochasticity of the bridges, in [0, 1]."""
    tau_rule: TauRule = "previous"
    """Block time from t_prev: itself, its half, three quarters of it; uniform in [min_tau, t_prev);
    or mix, uniform in the first num_mixed_steps steps and then t_prev."""
    min_tau: int = 10
    """Lowest block time that is drawn, >= 1."""
    num_mixed_steps: int = 70
    """Steps of "mix" that draw the block time."""

    def __post_init__(self):
        check_choices(self)


@dataclass(frozen=True)
class LAVPSConfig(MGDMConfig):
    """MGDM with an amortized start at the low-noise end (LAVPS)."""

    inner_low_noise: InnerConfig = InnerConfig(1)
    amortized: str = ""
    """Folder of the exported amortized network."""
    best_of: bool | None = None
    """Compare the amortized start with the zero-shot one, for each image and particle. None does
    so unless the network was trained on the operator and the sigma_y of this run."""


@dataclass(frozen=True)
class DPSConfig:
    """Diffusion posterior sampling; see `lavps_jax.samplers.DPS`."""

    num_steps: int = 100
    """Points of the time grid."""
    gamma: float = 1.0
    """Step size of the guidance, >= 0."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""

    def __post_init__(self):
        _check_at_least("gamma", self.gamma, 0)


@dataclass(frozen=True)
class ConditionalConfig:
    """DDIM with a supervised conditional denoiser."""

    denoiser: str = ""
    """Folder of the exported conditional denoiser."""
    num_steps: int = 100
    """Points of the time grid."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""


# LAVPSConfig first: it is an MGDMConfig too, and a command line takes the first kind that fits.
SamplerConfig = LAVPSConfig | MGDMConfig | DPSConfig | ConditionalConfig


@dataclass(frozen=True)
class SampleConfig:
    """One sampling run: degrade images and restore them."""

    prior: str
    """Folder of the exported prior."""
    data: DataConfig
    operator: OperatorFamily
    sampler: SamplerConfig
    out_dir: str
    """Folder to make; it must not exist unless overwrite is set."""
    sigma_y: float = 0.05
    """Standard deviation of the measurement noise, > 0."""
    stochastic: bool = True
    """A new operator for every image; otherwise the same for all."""
    first_image: int = 0
    """Number of the first image in `data`."""
    num_images: int = 8
    """How many images of `data`, from there on."""
    num_particles: int = 4
    """Posterior samples per image."""
    batch_size: int = 8
    """Images at a time; does not change the results."""
    seed: int = 0
    """Of operators, noise and samples."""
    overwrite: bool = False
    """Replace out_dir if it exists."""
    observations: str | None = None
    """Restore these measurements instead of degrading images of `data`: a .npz file or a folder,
    see `lavps_jax.measurements.load_measurements`. All of it is restored."""
    compare: bool = True
    """Run `compare_with` too."""
    compare_with: Annotated[tuple[SamplerConfig, ...], tyro.conf.Suppress] = ()
    """Other samplers that restore the same measurements."""

    def __post_init__(self):
        _check_positive("sigma_y", self.sigma_y)
        for name in ("num_images", "num_particles", "batch_size"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("first_image", "seed"):
            _check_at_least(name, getattr(self, name), 0)


def load_preset(path: str) -> Any:
    """Runs get_config() of a preset file.

    Raises:
      UserError: if the file does not exist or defines no get_config.
    """
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        found = sorted(str(p) for p in Path("configs").glob("*.py"))
        remedy = f"give one of {', '.join(found)}" if found else "give the path of a .py file"
        raise UserError("preset", path, remedy)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError("preset", path, "define get_config() in it")
        return module.get_config()
    except UserError:
        raise
    except Exception as error:  # Whatever a user's file may raise.
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(file)]  # fmt: skip
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        remedy = f"mend line {line}: {type(error).__name__}: {error}"
        raise UserError("preset", path, " ".join(remedy.split())) from error


# The classes that a stored configuration may name.
_CLASSES: tuple[type, ...] = (
    PriorTask, AmortizedTask, ConditionalTask, OptimizerConfig, TrainConfig, Schedule,
    SampleConfig, InnerConfig, MGDMConfig, LAVPSConfig, DPSConfig, ConditionalConfig,
    networks.HDiTConfig, networks.LevelConfig, networks.GlobalAttention,
    networks.NeighbourhoodAttention, networks.UNetConfig, networks.PaletteConfig,
    networks.ConditionalDenoiserConfig,
    data.TfdsData, data.FolderData, data.ShippedData, data.SyntheticData,
    operators.RandomBox, operators.CentreBox, operators.RandomPixels, operators.SuperResolve,
    operators.MotionBlur, operators.GaussianBlur, operators.Denoise,
)  # fmt: skip


def to_json(config: Any) -> Any:
    """A configuration as JSON data; every dataclass becomes an object with its class under "is"."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"is": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [to_json(item) for item in config]
    return config


def from_json(stored: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
      UserError: if the data name an unknown class or field.
    """
    if isinstance(stored, list):
        return tuple(from_json(item) for item in stored)
    if not isinstance(stored, dict):
        return stored
    known = {cls.__name__: cls for cls in _CLASSES}
    name = stored.get("is")
    if name not in known:
        raise UserError("stored configuration", name, f"expected one of {', '.join(known)}")
    fields = {key: from_json(value) for key, value in stored.items() if key != "is"}
    try:
        return known[name](**fields)
    except TypeError as error:
        raise UserError("stored configuration", json.dumps(stored)[:80], str(error)) from error
