"""What a table of mixtures holds, as Markdown, a figure and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.reporting.figures import interval_figure
from benchmarks.reporting.intervals import mean_interval
from benchmarks.reporting.pages import Block, Figure, Heading, Table, Text, to_html, to_markdown
from lavps_jax.errors import UserError
from lavps_jax.io.storage import write_file
from lavps_jax.samplers.base import Cost

Found = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]
"""By "d,d_y": of every problem, the scores of every row."""

SCORES = {
    "distance": (
        "Sliced Wasserstein distance to exact samples",
        "{slices} slices; less is better.",
    ),
    "coverage_50": ("Coverage of central intervals, 50 %", "Exact samples have .50."),
    "coverage_90": ("Coverage of central intervals, 90 %", "Exact samples have .90."),
    "mode_error": (
        "Error of the weights of the modes",
        "Total variation distance: 0 is right, 1 is all in wrong modes.",
    ),
}


EVALUATIONS = ("denoiser", "derivatives of it", "network")
COST = """\
Of one sample, as the methods are set here. Evaluations inside of a derivative are counted, too; \
"network" is one that was trained to see the measurement."""


def write_mixture_report(found: Path, title: str, about: str, costs: Mapping[str, Cost]) -> None:
    """Beside the JSON of results, under its name: .md, .html and .svg.

    Args:
      found: the JSON, of `MixtureTable.measure`.
      title: of the page.
      about: what the tables hold, with places for {counts} of problems and of {samples}.
      costs: of the methods, by their names.

    Raises:
      UserError: if there are no results.
    """
    try:
        stored = json.loads(found.read_text())
    except FileNotFoundError as error:
        raise UserError("out", found, "run the suite first: it holds no results") from error
    results = stored["results"]
    settings, sizes = results["settings"], sorted(results["problems"], key=_numbers)
    problems = {size: results["problems"][size] for size in sizes}
    origin = _origin({size: results["origins"][size] for size in sizes})
    counts = sorted({len(rows) for rows in problems.values()})
    about = about.format(
        counts=" or ".join(map(str, counts)),
        samples=settings["num_samples"],
    )
    figure = found.with_suffix(".svg")
    distances = {
        f"d = {size.replace(',', ', d_y = ')}": {
            name: mean_interval([one[name]["distance"] for one in rows]) for name in rows[0]
        }
        for size, rows in problems.items()
    }
    interval_figure(figure, distances, "sliced Wasserstein distance", origin)
    caption = "Sliced Wasserstein distance to exact samples with 95 % intervals; less is better."
    blocks: list[Block] = [Heading(title, 1), Text(about), Text(origin), Figure(figure, caption)]
    for score, (heading, words) in SCORES.items():
        words = words.format(slices=settings["num_slices"])
        blocks += [Heading(heading), Text(words), _table(problems, score)]
    rows = next(iter(problems.values()))[0]
    cost = [(name, *map(str, costs[name])) for name in rows if name in costs]
    blocks += [Heading("Evaluations"), Text(COST), Table(("", *EVALUATIONS), cost)]
    for suffix, text in ((".md", to_markdown(blocks)), (".html", to_html(title, blocks))):
        with write_file(found.with_suffix(suffix)) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _numbers(size: str) -> tuple[int, ...]:
    return tuple(map(int, size.split(",")))


def _origin(origins: Mapping[str, Sequence[str]]) -> str:
    """Whence the results are; of which sizes, if they are not all from the same."""
    sizes: dict[str, list[str]] = {}
    for size, made_by in origins.items():
        for one in made_by:
            sizes.setdefault(one, []).append(f"({size.replace(',', ', ')})")
    if len(sizes) == 1:
        return next(iter(sizes))
    return "; ".join(f"{' '.join(those)}: {one}" for one, those in sizes.items())


def _table(problems: Found, score: str) -> Table:
    names = next(iter(problems.values()))[0]
    lines = [
        (name, *(_summary([one[name][score] for one in rows]) for rows in problems.values()))
        for name in names
    ]
    several = len({len(rows) for rows in problems.values()}) > 1
    heads = [
        size.replace(",", ", ") + f" ({len(rows)} problems)" * several
        for size, rows in problems.items()
    ]
    return Table(("", *heads), lines)


def _summary(values: Sequence[float]) -> str:
    """Mean and its 95 % interval."""
    mean, low, high = mean_interval(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if len(values) > 1 else f"{mean:.2f}"
