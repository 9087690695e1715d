"""Samplers of the prior and of posteriors, behind one interface."""

from lavps_jax.samplers.base import Cost, GridSampler, Plan, Sampler, Segment, State
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
from lavps_jax.samplers.lavps import LAVPS
from lavps_jax.samplers.mgdm import MGDM
from lavps_jax.samplers.mgps import MGPS
from lavps_jax.samplers.one_step import OneStep
from lavps_jax.samplers.pigdm import PiGDM
from lavps_jax.samplers.reddiff import REDDiff
from lavps_jax.samplers.run import Samples, sample
from lavps_jax.samplers.supervised import Supervised

__all__ = [
    "DAPS",
    "DDIM",
    "DDNM",
    "DDRM",
    "DING",
    "DPS",
    "LAVPS",
    "MGDM",
    "MGPS",
    "Cost",
    "DiffPIR",
    "FastDIPS",
    "GridSampler",
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
    "Supervised",
    "sample",
]
