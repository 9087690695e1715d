"""Tables of methods on mixtures: measures problem by problem, keeps what there is, reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from benchmarks.mixtures.report import write_mixture_report
from benchmarks.reporting.record import (
    check_report,
    origin_of,
    provenance,
    record,
    stored_by_this_code,
)
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.samplers.base import Cost

WIDE = 800
"""From this d on, chains start from the noised mixture."""
_UNSETTLED = ("dims", "num_problems", "num_wide_problems", "out")
"""Settings that may differ from those of stored problems."""


@dataclass(frozen=True)
class Config:
    """Which problems to measure."""

    dims: tuple[tuple[int, int], ...] = tuple((d, d_y) for d in (8, 80, 800) for d_y in (1, 2, 4))
    """Pairs (d, d_y)."""
    num_problems: int = 20
    num_wide_problems: int = 5
    """Where d >= 800, which takes minutes for each."""
    num_samples: int = 1000
    num_slices: int = 100
    seed: int = 0
    methods: tuple[str, ...] = ()
    """Names of rows; empty is all."""
    out: str = "docs/results/known_posteriors.json"


class ProblemsOfSize(Protocol):
    """Random problems of one size."""

    def measure(self, number: int) -> dict[str, dict[str, float]]:
        """Scores of every row on one problem."""
        ...


@dataclass(frozen=True)
class MixtureTable:
    """Rows of methods, columns of sizes.

    Attributes:
      title, about: of the report, see `write_mixture_report`.
      costs: of every method, by its name.
      problems_of: (config, d, d_y) -> problems of one size.
    """

    title: str
    about: str
    costs: Mapping[str, Cost]
    problems_of: Callable[[Config, int, int], ProblemsOfSize]

    def measure(self, config: Config) -> None:
        """Measures what `config.out` does not hold yet.

        Raises:
          UserError: as `check`.
        """
        found, origins = self.check(config)
        settings, origin, console = self._settings(config), origin_of(provenance()), Console()
        for d, d_y in config.dims:
            rows = found.setdefault(f"{d},{d_y}", [])
            made_by = origins.setdefault(f"{d},{d_y}", [])
            problems = self.problems_of(config, d, d_y)
            count = config.num_wide_problems if d >= WIDE else config.num_problems
            for number in range(len(rows), count):
                rows.append(problems.measure(number))
                made_by += [origin] if origin not in made_by else []
                results = {"settings": settings, "problems": found, "origins": origins}
                record(config.out, results)
                console.print(f"d={d}, d_y={d_y}: {len(rows)} of {count}")

    def check(self, config: Config) -> tuple[dict[str, list[Any]], dict[str, list[str]]]:
        """Problems measured before, and what each was measured on, by "d,d_y".

        Raises:
          UserError: if a size or a method does not exist, or what is stored is of other code or
            has other settings, or was not written by a benchmark.
        """
        check_at_least("num_problems", config.num_problems, 1)
        check_at_least("num_wide_problems", config.num_wide_problems, 1)
        for d, d_y in config.dims:
            if d < 2 or d % 2 or not 1 <= d_y <= d:
                remedy = "give an even d from 2, and a d_y from 1 to d"
                raise UserError("dims", f"{d} {d_y}", remedy)
        for name in config.methods:
            if name not in self.costs:
                raise UserError("methods", name, f"use some of {'; '.join(self.costs)}")
        out = Path(config.out)
        check_report(out.parent, out.stem)
        if not out.exists():
            return {}, {}
        remedy = "delete it, or give another file"
        results = stored_by_this_code("out", out, remedy)["results"]
        if results.get("settings") != self._settings(config):
            raise UserError("out", f"{config.out}, of another table or settings", remedy)
        return results["problems"], results["origins"]

    def report(self, found: Path) -> None:
        """As `write_mixture_report`, and says where it is."""
        write_mixture_report(found, self.title, self.about, self.costs)
        Console().print(f"report: {found.with_suffix('.html')}", soft_wrap=True)

    def _settings(self, config: Config) -> dict[str, Any]:
        """What all stored problems share, as it comes back from the file of results."""
        settings = {name: value for name, value in vars(config).items() if name not in _UNSETTLED}
        return json.loads(json.dumps({"table": self.title, **settings}))
