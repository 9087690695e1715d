"""From configurations to the samplers that need the prior alone."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lavps_jax.config.samplers import (
    DAPSConfig,
    DDIMConfig,
    DDNMConfig,
    DDRMConfig,
    DiffPIRConfig,
    DINGConfig,
    DPSConfig,
    FastDIPSConfig,
    GuessAndGuideConfig,
    InnerConfig,
    MGPSConfig,
    PiGDMConfig,
    REDDiffConfig,
    ZeroShotConfig,
)
from lavps_jax.diffusion.denoisers import EDMDenoiser
from lavps_jax.errors import UserError
from lavps_jax.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    DING,
    DPS,
    MGPS,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    Inner,
    PiGDM,
    REDDiff,
    Sampler,
)
from lavps_jax.samplers.starts import Start

__all__ = ["OwnSamplerConfig", "build_zero_shot", "inner_problem"]


@runtime_checkable
class OwnSamplerConfig(Protocol):
    """Settings of a sampler that a preset brings along: a frozen dataclass with this method."""

    def build(self, prior: EDMDenoiser) -> Sampler:
        """The sampler with this prior."""
        ...


def build_zero_shot(config: ZeroShotConfig | OwnSamplerConfig, prior: EDMDenoiser) -> Sampler:
    """The configured sampler with this prior.

    Raises:
      UserError: if a setting is out of range, or the configuration is of no sampler.
    """
    schedule = prior.schedule
    match config:
        case DDIMConfig():
            return DDIM(prior, config.num_steps, config.eta, schedule)
        case DPSConfig():
            return DPS(prior, config.num_steps, config.step_size, config.eta, schedule)
        case PiGDMConfig():
            return PiGDM(prior, config.num_steps, config.eta, schedule)
        case DDNMConfig():
            return DDNM(
                prior,
                config.num_steps,
                config.eta,
                config.travel_length,
                config.num_travels,
                schedule,
            )
        case DDRMConfig():
            return DDRM(prior, config.num_steps, config.eta, config.eta_b, schedule)
        case DiffPIRConfig():
            return DiffPIR(prior, config.num_steps, config.strength, config.zeta, schedule)
        case REDDiffConfig():
            return REDDiff(prior, config.num_steps, config.strength, config.learning_rate, schedule)
        case DAPSConfig():
            return DAPS(
                prior,
                config.num_steps,
                config.num_ode_steps,
                config.num_langevin_steps,
                config.step_size,
                config.step_size_ratio,
                config.sigma_max,
                config.sigma_min,
                config.ode_sigma_min,
                schedule,
            )
        case MGPSConfig():
            return MGPS(
                prior,
                config.num_inner_steps,
                config.num_refined_steps,
                config.num_first,
                config.refine_every,
                config.learning_rate,
                config.estimate_from,
                config.num_steps,
                config.midpoint,
                schedule,
            )
        case DINGConfig():
            return DING(prior, config.num_steps, config.eta, schedule)
        case FastDIPSConfig():
            return FastDIPS(
                prior,
                config.num_steps,
                config.num_admm_steps,
                config.num_descent_steps,
                config.penalty,
                config.radius,
                schedule,
            )
        case GuessAndGuideConfig():
            return GuessAndGuide(
                prior,
                config.num_steps,
                config.start,
                config.num_guesses,
                config.guide_every,
                config.num_inner_steps,
                config.learning_rate,
                config.eta,
                schedule,
            )
        case OwnSamplerConfig():
            return config.build(prior)
        case _:
            remedy = "use one of lavps_jax.config.settings, or give its class build(prior), see "
            remedy += "lavps_jax.runs.build_zero_shot.OwnSamplerConfig"
            raise UserError("sampler", type(config).__name__, remedy)


def inner_problem(config: InnerConfig, start: Start) -> Inner:
    """How blocks are solved, from this start on."""
    return Inner(config.num_inner_steps, config.learning_rate, start, config.learning_rate_unit)
