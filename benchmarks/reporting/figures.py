"""Figures of the suites, as SVG; each says below whence its numbers are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from benchmarks.reporting.intervals import Interval

STYLE: Any = {
    "svg.hashsalt": "lavps",  # The same figure is the same file.
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MARKERS = "osD^vPX*<>hpd8"


class Mark(NamedTuple):
    """A point of a figure: what it cost and how good it was."""

    method: str
    cost: float
    quality: Interval


def pareto_figure(
    path: Path,
    tasks: Mapping[str, Sequence[Mark]],
    cost_label: str,
    quality_label: str,
    origin: str,
) -> None:
    """Cost against a quality of which less is better, with a line for each method's budgets.

    Intervals are cut where they leave the picture.
    """
    methods = list(dict.fromkeys(mark.method for marks in tasks.values() for mark in marks))
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(tasks), 4.4), layout="constrained")
        axes = figure.subplots(1, len(tasks), squeeze=False)
        for axis, (task, marks) in zip(axes[0], tasks.items(), strict=True):
            for method in dict.fromkeys(mark.method for mark in marks):
                own = sorted((m for m in marks if m.method == method), key=lambda m: m.cost)
                number = methods.index(method)
                axis.errorbar(
                    [mark.cost for mark in own], [mark.quality.mean for mark in own],
                    yerr=_errors([mark.quality for mark in own]), label=method,
                    color=colormaps["tab20"](number % 20), marker=MARKERS[number % len(MARKERS)],
                    markersize=5, linewidth=1, elinewidth=0.6,
                )  # fmt: skip
            axis.set(title=task, xlabel=cost_label, xscale="log", yscale="log")
            # Some intervals reach zero, which would leave the points a corner of the picture.
            means = [mark.quality.mean for mark in marks]
            axis.set_ylim(0.6 * min(means), 1.6 * max(means))
        axes[0][0].set_ylabel(quality_label)
        handles = {}
        for axis in axes[0]:
            handles |= {
                label: handle
                for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
            }
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", frameon=False,
            ncols=max(2, round(2.6 * len(tasks))),
        )  # fmt: skip
        _save(figure, path, origin)


def robustness_figure(
    path: Path, tasks: Mapping[str, Mapping[str, Interval]], quality_label: str, origin: str
) -> None:
    """A quality by task, one mark for each method, which tasks hold by name in one order."""
    methods = list(dict.fromkeys(method for found in tasks.values() for method in found))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * len(tasks) + 2, 4.2), layout="constrained")
        axis = figure.subplots()
        for number, method in enumerate(methods):
            shift = (number - (len(methods) - 1) / 2) * 0.8 / len(methods)
            places = [i + shift for i, found in enumerate(tasks.values()) if method in found]
            quality = [found[method] for found in tasks.values() if method in found]
            axis.errorbar(
                places, [one.mean for one in quality], yerr=_errors(quality), label=method,
                color=colormaps["tab10"](number), marker=MARKERS[number], linestyle="",
                markersize=6, elinewidth=1,
            )  # fmt: skip
        axis.set_xticks(range(len(tasks)), [name.replace(" ", "\n", 1) for name in tasks])
        axis.set(ylabel=quality_label, yscale="log")
        axis.grid(axis="y", color="0.9")
        for edge in range(1, len(tasks)):
            axis.axvline(edge - 0.5, color="0.8", linewidth=0.8)
        axis.set_xlim(-0.5, len(tasks) - 0.5)
        figure.legend(loc="outside upper center", ncols=len(methods), frameon=False)
        _save(figure, path, origin)


def interval_figure(
    path: Path, columns: Mapping[str, Mapping[str, Interval]], label: str, origin: str
) -> None:
    """A number for each method, with a panel for each column; less is better."""
    methods = list(dict.fromkeys(method for found in columns.values() for method in found))
    with rc_context(STYLE):
        size = (1.5 * len(columns) + 3, 0.2 * len(methods) + 1.2)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
        for axis, (title, found) in zip(panels, columns.items(), strict=True):
            places = [methods.index(method) for method in found]
            axis.errorbar(
                [one.mean for one in found.values()], places, xerr=_errors(list(found.values())),
                color="tab:blue", marker="o", linestyle="", markersize=4, elinewidth=1,
            )  # fmt: skip
            axis.set_xlim(left=0)
            axis.set_title(title, fontsize=8)
            axis.set_xlabel(label, fontsize=7)
            axis.grid(axis="x", color="0.9")
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].invert_yaxis()
        _save(figure, path, origin)


def _errors(intervals: Sequence[Interval]) -> list[list[float]]:
    low = [one.mean - one.low for one in intervals]
    return [low, [one.high - one.mean for one in intervals]]


def _save(figure: Figure, path: Path, origin: str) -> None:
    # About as many letters as fit.
    lines = textwrap.fill(origin, round(26 * figure.get_figwidth()))
    figure.supxlabel(lines, fontsize=5, color="0.4", x=0.01, ha="left")
    figure.savefig(path, format="svg", metadata={"Date": None})
