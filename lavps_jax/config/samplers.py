"""The samplers that a command line can name."""

from __future__ import annotations

from lavps_jax.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    DING,
    DPS,
    LAVPS,
    MGDM,
    MGPS,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    OneStep,
    PiGDM,
    REDDiff,
    Supervised,
)

# LAVPS first: it is an MGDM too, and a command line takes the first kind that fits.
AnySampler = (
    LAVPS
    | MGDM
    | DDIM
    | DPS
    | PiGDM
    | DDNM
    | DDRM
    | DiffPIR
    | REDDiff
    | DAPS
    | MGPS
    | DING
    | FastDIPS
    | GuessAndGuide
    | Supervised
    | OneStep
)
