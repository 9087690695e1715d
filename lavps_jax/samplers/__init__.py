"""Samplers of the prior and of posteriors, behind one interface."""

from lavps_jax.samplers.base import Cost, Plan, Sampler, Segment, State
from lavps_jax.samplers.daps import DAPS
from lavps_jax.samplers.ddim import DDIM
from lavps_jax.samplers.ddnm import DDNM
from lavps_jax.samplers.ddrm import DDRM
from lavps_jax.samplers.diffpir import DiffPIR
from lavps_jax.samplers.ding import DING
from lavps_jax.samplers.dps import DPS
from lavps_jax.samplers.fastdips import FastDIPS
from lavps_jax.samplers.guess_and_guide import GuessAndGuide
from lavps_jax.samplers.inner import Inner
from lavps_jax.samplers.mgdm import MGDM
from lavps_jax.samplers.mgps import MGPS
from lavps_jax.samplers.one_step import OneStep
from lavps_jax.samplers.pigdm import PiGDM
from lavps_jax.samplers.reddiff import REDDiff
from lavps_jax.samplers.run import Samples, make_sample_fn, sample

__all__ = [
    "DAPS",
    "DDIM",
    "DDNM",
    "DDRM",
    "DING",
    "DPS",
    "MGDM",
    "MGPS",
    "Cost",
    "DiffPIR",
    "FastDIPS",
    "GuessAndGuide",
    "Inner",
    "OneStep",
    "PiGDM",
    "Plan",
    "REDDiff",
    "Sampler",
    "Samples",
    "Segment",
    "State",
    "make_sample_fn",
    "sample",
]
