"""What a suite is made of: tasks, and samplers at one budget each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lavps_jax.config.samplers import AnySampler
from lavps_jax.operators.families import OperatorFamily


@dataclass(frozen=True)
class Point:
    """One sampler at one budget."""

    method: str
    budget: str
    sampler: AnySampler

    @property
    def name(self) -> str:
        return f"{self.method}, {self.budget}" if self.budget else self.method

    @property
    def folder(self) -> str:
        """Its name, as one of a folder."""
        kept = "".join(c if c.isalnum() or c == "-" else " " for c in self.name)
        return "_".join(kept.split())


@dataclass(frozen=True)
class Suite:
    """Tasks by name, and how many images restore each, with how many samples."""

    prior: str
    tasks: Mapping[str, OperatorFamily]
    num_images: int
    num_particles: int
    lpips_vgg: bool = True
    """Whether LPIPS on VGG16 is measured too, which takes longer than a fast sampler."""
    batch_size: int | None = None
    """Images at a time; None is all of them."""
