"""Configurations of the samplers: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass

from lavps_jax.errors import check_at_least, check_choices, check_positive
from lavps_jax.samplers.inner import LearningRateUnit
from lavps_jax.samplers.mgdm import TauRule

__all__ = [
    "SupervisedConfig",
    "DAPSConfig",
    "DDIMConfig",
    "DDNMConfig",
    "DDRMConfig",
    "DINGConfig",
    "DPSConfig",
    "DiffPIRConfig",
    "FastDIPSConfig",
    "GuessAndGuideConfig",
    "InnerConfig",
    "LAVPSConfig",
    "MGDMConfig",
    "MGPSConfig",
    "OneStepConfig",
    "PiGDMConfig",
    "REDDiffConfig",
    "SamplerConfig",
    "ZeroShotConfig",
]


@dataclass(frozen=True)
class InnerConfig:
    """How the inner problem of a block is solved."""

    num_inner_steps: int = 1
    """Adam steps on the negative ELBO, >= 0."""
    learning_rate: float = 0.5
    """Of Adam, > 0."""
    learning_rate_unit: LearningRateUnit = "prior_std"
    """Prior_std: times the standard deviation of the block prior. Image: as it is, as published,
    with 0.01 to 0.03."""

    def __post_init__(self):
        check_choices(self)

    def check(self, field: str) -> None:
        """Raises a UserError that names this field of a sampler unless all is in its range."""
        check_at_least(f"{field}.num_inner_steps", self.num_inner_steps, 0)
        check_positive(f"{field}.learning_rate", self.learning_rate)


@dataclass(frozen=True)
class MGDMConfig:
    """Zero-shot sampling with inner fits (MGDM); see `lavps_jax.samplers.MGDM`."""

    inner: InnerConfig = InnerConfig()
    """Away from the low-noise end."""
    inner_low_noise: InnerConfig = InnerConfig(10)
    """For blocks whose t_prev has a grid index in [low_idx, high_idx)."""
    low_idx: int = 1
    """First grid index of the low-noise end, >= 1."""
    high_idx: int | None = None
    """One past its last grid index; None is num_steps // 2."""
    num_steps: int = 100
    """Points of the time grid."""
    num_gibbs: int = 1
    """Repetitions of a step."""
    num_ddim_steps: int = 1
    """Points of the grid on which x_tau is denoised; 1 is a single prediction."""
    eta: float = 1.0
    """Stochasticity of the bridges, in [0, 1]."""
    tau_rule: TauRule = "midpoint"
    """Block time from t_prev: itself (as published), its half, three quarters of it; uniform in
    [min_tau, t_prev); or mix, uniform in the first num_mixed_steps steps and then t_prev."""
    min_tau: int = 10
    """Lowest block time that is drawn, >= 1."""
    num_mixed_steps: int = 70
    """Steps of "mix" that draw the block time."""

    def __post_init__(self):
        check_choices(self)
        self.inner.check("sampler.inner")
        self.inner_low_noise.check("sampler.inner_low_noise")


@dataclass(frozen=True)
class LAVPSConfig(MGDMConfig):
    """MGDM with the start of a network at the low-noise end (LAVPS)."""

    inner_low_noise: InnerConfig = InnerConfig()
    high_idx: int | None = None
    """One past its last grid index; None is as far as the network was trained, and num_steps // 2
    for a conditional denoiser."""
    amortized: str = ""
    """Folder of the exported amortized network; or of a conditional denoiser: blocks then begin at
    what it predicts."""
    best_of: bool | None = None
    """Compare the network's start with the zero-shot one, for each image and particle. None does
    so unless the network was trained on the operator and the sigma_y of this run."""


@dataclass(frozen=True)
class DPSConfig:
    """Diffusion posterior sampling; see `lavps_jax.samplers.DPS`."""

    num_steps: int = 100
    """Points of the time grid."""
    step_size: float = 2.0
    """Of the guidance: times the gradient of ||y - A(D(x_t))||, as the authors have it; >= 0."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""

    def __post_init__(self):
        check_at_least("step_size", self.step_size, 0)


@dataclass(frozen=True)
class PiGDMConfig:
    """Pseudoinverse-guided diffusion, for linear operators; see `lavps_jax.samplers.PiGDM`."""

    num_steps: int = 100
    """Points of the time grid."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""


@dataclass(frozen=True)
class DDNMConfig:
    """Null-space model for noisy measurements (DDNM+); see `lavps_jax.samplers.DDNM`."""

    num_steps: int = 100
    """Points of the time grid."""
    eta: float = 0.85
    """Stochasticity, in [0, 1]."""
    travel_length: int = 1
    """Steps of a stretch that time travel repeats, >= 1."""
    num_travels: int = 1
    """How often each stretch is run, >= 1; 1 is no time travel."""


@dataclass(frozen=True)
class DDRMConfig:
    """Diffusion in the operator's singular vectors; see `lavps_jax.samplers.DDRM`."""

    num_steps: int = 21
    """Points of the time grid."""
    eta: float = 0.85
    """Stochasticity, in [0, 1]."""
    eta_b: float = 1.0
    """Weight of y where it is less noisy than the state, in [0, 1]."""


@dataclass(frozen=True)
class DiffPIRConfig:
    """Plug-and-play restoration, for linear operators; see `lavps_jax.samplers.DiffPIR`."""

    num_steps: int = 100
    """Points of the time grid."""
    strength: float = 1.75
    """Of the prior over the measurement, lambda of the paper, > 0."""
    zeta: float = 0.3
    """Share of fresh noise, in [0, 1]."""


@dataclass(frozen=True)
class REDDiffConfig:
    """An image optimised under y and the denoiser; see `lavps_jax.samplers.REDDiff`."""

    num_steps: int = 1000
    """Points of the time grid, with a step of Adam at each above 0."""
    strength: float = 0.25
    """Of the denoiser over the measurement, lambda of the paper, >= 0."""
    learning_rate: float = 0.1
    """Of Adam, > 0."""


@dataclass(frozen=True)
class DAPSConfig:
    """Decoupled annealing with Langevin dynamics; see `lavps_jax.samplers.DAPS`."""

    num_steps: int = 200
    """Noise levels."""
    num_ode_steps: int = 5
    """Denoiser calls at each, >= 1."""
    num_langevin_steps: int = 100
    """Steps of Langevin dynamics at each, >= 1."""
    step_size: float = 1.0
    """Of Langevin dynamics at the first level, in units of sigma_y^2 / ||A||^2, > 0."""
    step_size_ratio: float = 0.01
    """That of the last level over it, > 0."""
    sigma_max: float = 100.0
    """First noise-to-signal level."""
    sigma_min: float = 0.1
    """Last one."""
    ode_sigma_min: float = 0.01
    """Last level inside of an ODE, before it goes to 0."""


@dataclass(frozen=True)
class MGPSConfig:
    """Steps through a fitted midpoint; see `lavps_jax.samplers.MGPS`."""

    num_inner_steps: int = 2
    """Adam steps of a fit, >= 0."""
    num_refined_steps: int = 20
    """Those of refined diffusion steps, >= num_inner_steps."""
    num_first: int = 5
    """How many diffusion steps are refined at the start, >= 0."""
    refine_every: int = 10
    """And later where the grid index is a multiple of it above 20, >= 1."""
    learning_rate: float = 0.03
    """Of Adam, > 0."""
    estimate_from: float = 0.7
    """Time, over the last one, from which on x_1 is estimated; 1 is never."""
    num_steps: int = 300
    """Points of the time grid."""
    midpoint: float = 0.5
    """Of the midpoint's time over that of the step's end, in [0, 1]."""


@dataclass(frozen=True)
class DINGConfig:
    """Exact Gaussian steps without derivatives; see `lavps_jax.samplers.DING`."""

    num_steps: int = 50
    """Points of the time grid."""
    eta: float = 1.0
    """Stochasticity, in (0, 1]."""


@dataclass(frozen=True)
class FastDIPSConfig:
    """Predictions moved to images that explain y; see `lavps_jax.samplers.FastDIPS`."""

    num_steps: int = 50
    """Points of the time grid."""
    num_admm_steps: int = 3
    """Of ADMM at each, >= 1."""
    num_descent_steps: int = 2
    """Of descent in each of those, >= 1."""
    penalty: float = 200.0
    """rho of ADMM, > 0."""
    radius: float = 0.05
    """How far A(x) may be from y, over all measured values together, >= 0."""


@dataclass(frozen=True)
class GuessAndGuideConfig:
    """A guess at one noise level, guided at few others; see `lavps_jax.samplers.GuessAndGuide`."""

    num_steps: int = 100
    """Points of the time grid."""
    start: float = 0.6
    """Time of the guesses over the last time, in (0, 1]."""
    num_guesses: int = 10
    """Denoisings there, >= 1."""
    guide_every: int = 3
    """Steps from one that is guided to the next, >= 1."""
    num_inner_steps: int = 20
    """Of Adam at each, >= 1."""
    learning_rate: float = 0.1
    """Of Adam, in units of the standard deviation of the noise, > 0."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""


@dataclass(frozen=True)
class SupervisedConfig:
    """DDIM with a supervised conditional denoiser."""

    denoiser: str = ""
    """Folder of the exported conditional denoiser."""
    num_steps: int = 100
    """Points of the time grid."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""


@dataclass(frozen=True)
class OneStepConfig:
    """One evaluation of a generator; see `lavps_jax.samplers.OneStep`."""

    generator: str = ""
    """Folder of the exported generator."""


@dataclass(frozen=True)
class DDIMConfig:
    """Samples of the prior, whatever was measured; see `lavps_jax.samplers.DDIM`."""

    num_steps: int = 100
    """Points of the time grid."""
    eta: float = 1.0
    """Stochasticity, in [0, 1]."""


ZeroShotConfig = (
    DDIMConfig
    | DPSConfig
    | PiGDMConfig
    | DDNMConfig
    | DDRMConfig
    | DiffPIRConfig
    | REDDiffConfig
    | DAPSConfig
    | MGPSConfig
    | DINGConfig
    | FastDIPSConfig
    | GuessAndGuideConfig
)
"""Methods that need the prior alone."""

# LAVPSConfig first: it is an MGDMConfig too, and a command line takes the first kind that fits.
SamplerConfig = LAVPSConfig | MGDMConfig | ZeroShotConfig | SupervisedConfig | OneStepConfig
