"""What a suite has found, as JSON, Markdown, figures and one HTML page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.comparison.rankings import RANKED_FROM, Entry, Ranked, rank
from benchmarks.comparison.suites import BUDGETS, SUITES, points_of
from benchmarks.comparison.words import (
    ABOUT,
    ABOUT_SETS,
    BY_OPERATOR,
    IMAGES,
    NO_RANKING,
    SETTINGS,
    TITLES,
    TRAINED,
)
from benchmarks.reporting.figures import Mark, pareto_figure, robustness_figure
from benchmarks.reporting.intervals import Interval, mean_interval, paired_interval
from benchmarks.reporting.pages import Block, Figure, Heading, Table, Text, to_html, to_markdown
from benchmarks.reporting.record import origin_of
from lavps_jax.errors import UserError
from lavps_jax.io.storage import write_file
from lavps_jax.io.strict_json import to_text
from lavps_jax.runs.pictures import contact_sheet

QUALITY = "lpips_alex"
YARDSTICK = "MGDM"
"""Whose last point the others are compared with, image by image."""
NUM_SHIPPED = 64
"""Images that come with the library."""
SETS = {
    "frechet_alexnet": "Fréchet",
    "kernel_alexnet": "kernel",
    "fid": "FID",
    "kid": "KID",
    "cmmd": "CMMD",
}
"""Heads of the columns of distances between sets."""


def write_report(suite: str, work: Path, out: Path) -> None:
    """From the files of `work` to SUITE.json, SUITE.md, SUITE.html and figures in `out`.

    Raises:
      UserError: if there are no results, or those of more than one commit.
    """
    records = [json.loads(file.read_text()) for file in sorted(work.glob("*/*.json"))]
    if not records:
        raise UserError("work", work, "run the suite first: it holds no results")
    for field in ("commit", "machine"):
        several = sorted({str(one[field]) for one in records})
        if len(several) > 1:
            where = f"{work} of {field}s {', '.join(several)}"
            raise UserError("work", where, "delete the older ones")
    known = dict.fromkeys(SUITES[suite].tasks)  # In the order of the suite.
    found = [one["results"] for one in records]
    tasks: dict[str, list[Entry]] = {
        task: [one for one in found if one["task"] == task]
        for task in known | dict.fromkeys(one["task"] for one in found)
    }
    facts = {name: records[0][name] for name in ("commit", "machine")} | {
        "command": " and ".join(sorted({one["command"] for one in records})),
        "date": max(one["date"] for one in records),
        "tasks": {task: entries for task, entries in tasks.items() if entries},
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / f"{suite}.json", to_text(_rounded(facts), 1))
    _draw(suite, facts, work, out)


def redraw_report(suite: str, out: Path) -> None:
    """SUITE.md, SUITE.html and figures in `out` from its SUITE.json; pictures stay as they are.

    Raises:
      UserError: if it is not there.
    """
    stored = out / f"{suite}.json"
    if not stored.is_file():
        raise UserError("out", out, f"measure first, without --redraw: it holds no {stored.name}")
    _draw(suite, json.loads(stored.read_text()), None, out)


def _draw(suite: str, facts: Mapping[str, Any], work: Path | None, out: Path) -> None:
    """The pages and figures; pictures from `work`, or as they are in `out` if that is None."""
    tasks: Mapping[str, Sequence[Entry]] = {
        task: _in_order(suite, task, entries) for task, entries in facts["tasks"].items()
    }
    found = [entry for entries in tasks.values() for entry in entries]
    origin = f"{origin_of(facts)}; weights of this commit's pretrained/ and benchmarks/weights/"
    trained = TRAINED[suite].format(**found[0]["trained"])
    minutes = sum(one["took"] for one in found) / 60
    took = f"All of it took {minutes:.0f} minutes: {origin}."
    about = [Text(words) for words in (_about(suite, tasks), SETTINGS[suite], trained, took)]
    blocks: list[Block] = [Heading(TITLES[suite], 1), *about]
    match suite:
        case "budgets":
            blocks += _equal_budgets(tasks)
        case "images" | "photos":
            blocks += _pareto(suite, out, tasks, origin)
        case _:
            blocks += _robustness(suite, out, tasks, origin)
    for task, entries in tasks.items():
        blocks += _of_task(suite, task, entries, work, out, origin)
    _write_text(out / f"{suite}.md", to_markdown(blocks))
    _write_text(out / f"{suite}.html", to_html(TITLES[suite], blocks))


def _in_order(suite: str, task: str, entries: Sequence[Entry]) -> list[Entry]:
    """As the suite has them, and others behind."""
    names = [point.name for point in points_of(suite, task, search=True)]
    methods = list(dict.fromkeys(point.method for point in points_of(suite, task)))

    def place(entry: Entry) -> tuple[int, int]:
        name, method = _name(entry), entry["method"]
        return (
            methods.index(method) if method in methods else len(methods),
            names.index(name) if name in names else len(names),
        )

    return sorted(entries, key=place)


def _about(suite: str, tasks: Mapping[str, Sequence[Entry]]) -> str:
    found = [entry for entries in tasks.values() for entry in _measured(entries)]
    if not found:
        return "No sampler takes any of these tasks."
    one = found[0]
    images, particles = one["images"], one["particles"]
    batch = (SUITES[suite].batch_size or images) * particles
    what = IMAGES[suite].format(images=images, side=one.get("side"))
    samples = f"{particles} sample{'s' * (particles > 1)}"
    about = ABOUT.format(images=what, samples=samples, batch=batch)
    sets = ABOUT_SETS.format(others=NUM_SHIPPED - images)
    return f"{about} {sets}" if one["of_sets"] else about


def _measured(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if "mean" in entry]


def _name(entry: Entry) -> str:
    return f"{entry['method']}, {entry['budget']}" if entry["budget"] else entry["method"]


def _quality(entry: Entry) -> Interval:
    return mean_interval([image[QUALITY] for image in entry["per_image"]])


def _seconds(entry: Entry) -> float:
    """Of one sample."""
    return entry["mean"]["seconds_per_image"] / entry["particles"]


def _evaluations(entry: Entry) -> float:
    """Of the prior's network for one sample."""
    mean = entry["mean"]
    return (mean["network_calls"] + 2 * mean["vjps"]) / entry["particles"]


def _num_images(tasks: Mapping[str, Sequence[Entry]]) -> int:
    return min((len(e["per_image"]) for one in tasks.values() for e in _measured(one)), default=0)


def _equal_budgets(tasks: Mapping[str, Sequence[Entry]]) -> list[Block]:
    """One table for all tasks, if there are images enough to say anything."""
    if _num_images(tasks) < RANKED_FROM:
        return []
    ranked = rank([_measured(one) for one in tasks.values()], _evaluations, BUDGETS, QUALITY)
    methods = list(dict.fromkeys(e["method"] for one in tasks.values() for e in _measured(one)))
    rows = []
    for budget in BUDGETS:
        for method in methods:
            found = [{one.entry["method"]: one for one in group[budget]} for group in ranked]
            cells = [
                _cell(one[method], next(iter(one.values()))) if method in one else ""
                for one in found
            ]
            if any(cells):
                rows.append((f"{budget}", method, *cells))
    words = (
        "LPIPS of one sample, and its seconds, at no more than so many evaluations of the prior. "
        "Settings and the best of a column, in **bold**, are chosen on the first half of the "
        "images; the scores are of the second half, with 95 % intervals. A cross: worse than it, "
        "p < .05 after Holm's correction for all comparisons of this table; without one it cannot "
        "be told from it on so few images."
    )
    head = ("evaluations", "sampler", *tasks)
    return [Heading("At equal budgets"), Text(words), Table(head, rows)]


def _cell(one: Ranked, winner: Ranked) -> str:
    score = _with_interval(one.second_half)
    if one is winner:
        score = f"**{score}**"
    elif one.p_value < 0.05:
        # A winner of the first half can lose the second.
        score += " ×" if one.second_half.mean > winner.second_half.mean else " (better)"
    return f"{score}, {_seconds(one.entry):.2g} s"


def _pareto(
    suite: str, out: Path, tasks: Mapping[str, Sequence[Entry]], origin: str
) -> list[Block]:
    blocks: list[Block] = [Heading("Quality and cost")]
    for kind, label, cost in (
        ("time", "seconds for a sample", _seconds),
        ("calls", "evaluations of the network", _evaluations),
    ):
        marks = {
            task: [Mark(one["method"], cost(one), _quality(one)) for one in _measured(entries)]
            for task, entries in tasks.items()
        }
        file = out / f"{suite}_{kind}.svg"
        pareto_figure(file, marks, label, "LPIPS (AlexNet)", origin)
        blocks.append(Figure(file, f"LPIPS against {label}; lower left is better."))
    return blocks


def _robustness(
    suite: str, out: Path, tasks: Mapping[str, Sequence[Entry]], origin: str
) -> list[Block]:
    file = out / f"{suite}.svg"
    order = [point.method for point in points_of(suite, "")]
    qualities = {
        task: {
            one["method"]: _quality(one)
            for one in sorted(_measured(entries), key=lambda one: order.index(one["method"]))
        }
        for task, entries in tasks.items()
    }
    robustness_figure(file, qualities, "LPIPS (AlexNet)", origin)
    return [Heading("Quality by operator"), Figure(file, BY_OPERATOR[suite])]


def _of_task(
    suite: str, task: str, entries: Sequence[Entry], work: Path | None, out: Path, origin: str
) -> list[Block]:
    measured = _measured(entries)
    refused = [f"{_name(entry)}: {entry['refused']}" for entry in entries if "refused" in entry]
    not_run = [Text(f"Not run: {'; '.join(refused)}.")] if refused else []
    if not measured:
        return [Heading(task.capitalize()), *not_run]
    baseline, images = measured[0]["baseline"], len(measured[0]["per_image"])
    yardstick = ([entry for entry in measured if entry["method"] == YARDSTICK] or measured)[-1]
    words = (
        f"What y gives without a network has PSNR {baseline['psnr']:.2f}, LPIPS "
        f"{baseline[QUALITY]:.3f}. Difference: to {_name(yardstick)}."
    )
    if images < RANKED_FROM:
        words = f"{NO_RANKING.format(images=images, least=RANKED_FROM)} {words}"
    scores = [Heading(task.capitalize()), Text(words), _scores(measured, yardstick)]
    return [*scores, *not_run, _panel(suite, task, measured, yardstick, work, out, origin)]


def _scores(measured: Sequence[Entry], yardstick: Entry) -> Table:
    sets = [name for name in SETS if any(name in entry["of_sets"] for entry in measured)]
    head = (
        "sampler", "LPIPS", "difference", "LPIPS (VGG16)", "PSNR", "SSIM", "PSNR of mean",
        "in band", "spread", "coverage", *(SETS[name] for name in sets),
        "calls, VJPs", "s", "MB",
    )  # fmt: skip
    return Table(head, [_row(entry, yardstick, sets) for entry in measured])


def _row(entry: Entry, yardstick: Entry, sets: Sequence[str]) -> tuple[str, ...]:
    mean, particles, of_sets = entry["mean"], entry["particles"], entry["of_sets"]
    difference = paired_interval(entry["per_image"], yardstick["per_image"], QUALITY)
    calls, vjps = (round(mean[key] / particles) for key in ("network_calls", "vjps"))
    return (
        _name(entry),
        _with_interval(_quality(entry)),
        "" if entry is yardstick else _as_range(difference),
        _number(mean, "lpips_vgg", ".3f"),
        _number(mean, "psnr", ".2f"),
        _number(mean, "ssim", ".3f"),
        _number(mean, "psnr_of_mean", ".2f"),
        _number(mean, "residual_inside_99", ".0%"),
        _number(mean, "pixel_std", ".3f"),
        _number(mean, "coverage_50", ".0%"),
        *(f"{of_sets[name]:.3g}" if name in of_sets else "" for name in sets),
        f"{calls}, {vjps}",
        f"{_seconds(entry):.2g}",
        f"{mean['memory_bytes'] / 1e6:.0f}" if "memory_bytes" in mean else "",
    )


def _number(mean: Mapping[str, float], key: str, form: str) -> str:
    """Nothing where it was not measured: some scores need several samples."""
    return f"{mean[key]:{form}}".replace("%", " %") if key in mean else ""


def _with_interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _as_range(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _panel(
    suite: str,
    task: str,
    measured: Sequence[Entry],
    yardstick: Entry,
    work: Path | None,
    out: Path,
    origin: str,
    num_images: int = 6,
) -> Figure:
    """Each method's point of least LPIPS that takes no more than half of the yardstick's time."""
    fastest = min(map(_seconds, measured))
    limit = max(_seconds(yardstick) / 2, fastest) if suite in ("images", "photos") else np.inf
    shown: dict[str, Entry] = {}
    for entry in sorted(measured, key=lambda entry: entry["mean"][QUALITY]):
        if _seconds(entry) <= limit:
            shown.setdefault(entry["method"], entry)
    words = "".join(c if c.isalnum() or c == "-" else " " for c in task).split()
    file = out / f"{suite}_{'_'.join(words)}.png"
    if work is not None:
        _draw_panel(file, task, shown, work, origin, num_images)
    if limit == np.inf:
        return Figure(file, "One sample of each.")
    names = "; ".join(map(_name, shown.values()))
    slower = sorted({entry["method"] for entry in measured} - set(shown))
    caption = f"One sample of each, at its budget of least LPIPS in at most {limit:.2g} s: {names}."
    return Figure(file, caption + (f" Slower: {', '.join(slower)}." if slower else ""))


def _draw_panel(
    file: Path, task: str, shown: Mapping[str, Entry], work: Path, origin: str, num_images: int
) -> None:
    rows = []
    for image in [one["name"] for one in next(iter(shown.values()))["per_image"]][:num_images]:
        cells: list[np.ndarray] = []
        for entry in shown.values():
            place = image.replace(".", "_")  # As runs name their folders.
            folder = work / task.replace(" ", "_") / entry["folder"] / "images" / place
            files = ["reference", "observation"] if not cells else []
            cells += [_read_png(folder / f"{file}.png") for file in files]
            cells.append(_read_png(folder / f"{entry['sampler']}_sample_00.png"))
        rows.append(cells)
    named = (f"{textwrap.fill(name, 16)}\n{_seconds(entry):.2g} s" for name, entry in shown.items())
    titles = ["reference", "observation", *named]
    # About as many letters as fit on the columns.
    footnote = textwrap.fill(origin, 24 * len(titles))
    contact_sheet(file, rows, column_titles=titles, footnote=footnote)


def _read_png(file: Path) -> np.ndarray:
    """float (H, W, C) in [-1, 1]."""
    with Image.open(file) as opened:
        pixels = np.asarray(opened, np.float32) / 127.5 - 1
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _rounded(content: Any) -> Any:
    """Floats with six digits: more says nothing here."""
    if isinstance(content, float):
        return float(f"{content:.6g}")
    if isinstance(content, Mapping):
        return {name: _rounded(one) for name, one in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(one) for one in content]
    return content


def _write_text(path: Path, text: str) -> None:
    with write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
