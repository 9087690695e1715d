"""What a training run trains: a prior, an amortized start, a supervised denoiser or a generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from etils import epy

from lavps_jax.diffusion.parameterisations import EDM, VE, VP, Flow
from lavps_jax.errors import UserError, check_choices, check_fraction, check_positive
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    HDiTConfig,
    LocalUNetConfig,
    SongUNetConfig,
    SupervisedNetworkConfig,
    UNetConfig,
)
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.operators.families.base import Setting, check_bounds
from lavps_jax.training.amortized import BlockWeight

with epy.lazy_imports():  # Only a command line needs it, and it takes long to import.
    import tyro


def _check_sigma_y(sigma_y: Setting) -> None:
    check_bounds("sigma_y", sigma_y, 1e-6, math.inf)  # What is below has no square in float32.


@dataclass(frozen=True)
class PriorTask:
    """Train the diffusion prior E[x_0 | x_t]."""

    network: HDiTConfig | UNetConfig | SongUNetConfig | LocalUNetConfig
    log_sigma_mean: float = -0.8
    """Mean of log sigma over the noise levels seen in training."""
    log_sigma_std: float = 1.5
    """Standard deviation of log sigma, > 0."""
    label_dropout: float = 0.1
    """Of a network with classes: how often it is shown an image without its class, in [0, 1]."""
    parameterisation: Annotated[EDM | VP | VE | Flow, tyro.conf.Suppress] = EDM()
    """What the network predicts. Another one than EDM() is for converted weights: only that is
    trained."""

    def __post_init__(self):
        check_positive("task.log_sigma_std", self.log_sigma_std)
        check_fraction("task.label_dropout", self.label_dropout)

    @property
    def trained_classes(self) -> int:
        """How many classes of images the network learns."""
        return self.network.num_classes


@dataclass(frozen=True)
class AmortizedTask:
    """Train the amortized start of LAVPS for one family of operators, on a fixed prior."""

    network: AmortizedNetworkConfig
    prior: str
    """Folder of the exported prior, on disk or gs://."""
    operator: OperatorFamily
    sigma_y: Setting = 0.05
    """Standard deviation of the measurement noise, > 0; or a range, of which it is log-uniform."""
    num_steps: int = 100
    """Steps of the sampler whose blocks are learned."""
    grid_power: float = 1.0
    """How dense the points of its time grid lie at little noise, see `time_grid`."""
    low_idx: int = 1
    """First grid index of t_prev that is learned, >= 1."""
    high_idx: int = 50
    """One past the last grid index of t_prev that is learned."""
    tau_rule: Literal["previous", "midpoint", "three_quarters"] = "midpoint"
    """Block time from the grid time t_prev: itself (as published), its half, or three quarters."""
    states: Literal["forward", "chain"] = "forward"
    """Where the blocks come from: the forward process on the training image, as published, or the
    sampler's own runs with the network as it is so far."""
    block_weight: BlockWeight = "none"
    """Weight of a block's loss: none, as published, or the inverse of the residual expected at its
    noise level."""

    def __post_init__(self):
        check_choices(self)
        _check_sigma_y(self.sigma_y)
        check_positive("task.grid_power", self.grid_power)
        if not 1 <= self.low_idx < self.high_idx <= self.num_steps - 2:
            value = (self.low_idx, self.high_idx)
            remedy = f"use 1 <= low_idx < high_idx <= num_steps - 2 = {self.num_steps - 2}"
            raise UserError("task.low_idx, task.high_idx", value, remedy)

    @property
    def trained_classes(self) -> int:
        """None: starts are learned without."""
        return 0


@dataclass(frozen=True)
class SupervisedTask:
    """Train the supervised baseline E[x_0 | x_t, y] for one family of operators."""

    network: SupervisedNetworkConfig
    operator: OperatorFamily
    sigma_y: Setting = 0.05
    """Standard deviation of the measurement noise, > 0; or a range, of which it is log-uniform."""
    log_sigma_mean: float = -0.8
    """Mean of log sigma over the noise levels seen in training."""
    log_sigma_std: float = 1.5
    """Standard deviation of log sigma, > 0."""
    label_dropout: float = 0.1
    """Of a network with classes: how often it is shown an image without its class, in [0, 1]."""

    def __post_init__(self):
        _check_sigma_y(self.sigma_y)
        check_positive("task.log_sigma_std", self.log_sigma_std)
        check_fraction("task.label_dropout", self.label_dropout)

    @property
    def trained_classes(self) -> int:
        """How many classes of images the network learns."""
        return self.network.backbone.num_classes


@dataclass(frozen=True)
class OneStepTask:
    """Train a generator that samples in one step, for one family of operators (DAVI)."""

    network: SupervisedNetworkConfig
    denoiser: str
    """Folder of an exported supervised denoiser of the same network, which it begins as."""
    prior: str
    """Folder of the exported prior, on disk or gs://."""
    operator: OperatorFamily
    sigma_y: float = 0.05
    """Standard deviation of the measurement noise, > 0."""
    start_sigma: float = 2.5
    """Noise level of the pure noise that becomes a sample, > 0."""
    sigma_min: float = 0.005
    """Least noise level at which samples are compared with the prior, > 0, well below sigma_y."""
    sigma_max: float = 20.0
    """Largest one, > sigma_min."""
    critic_rate: float = 4.0
    """Learning rate of the critic over that of the generator, > 0."""

    def __post_init__(self):
        check_positive("sigma_y", self.sigma_y)
        check_positive("task.start_sigma", self.start_sigma)
        check_positive("task.sigma_min", self.sigma_min)
        check_positive("task.critic_rate", self.critic_rate)
        if self.network.backbone.num_classes:
            found = self.network.backbone.num_classes
            raise UserError("task.network.backbone.num_classes", found, "use 0")
        if self.sigma_min > self.sigma_y / 4:
            remedy = f"use at most a quarter of sigma_y = {self.sigma_y}"
            raise UserError("task.sigma_min", self.sigma_min, remedy)
        if not self.sigma_min < self.sigma_max:
            remedy = f"use more than sigma_min = {self.sigma_min}"
            raise UserError("task.sigma_max", self.sigma_max, remedy)

    @property
    def trained_classes(self) -> int:
        """None: generators are learned without."""
        return 0
