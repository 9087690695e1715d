"""What a suite has found, as JSON, Markdown, figures and one HTML page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.figures import Mark, pareto_figure, robustness_figure
from benchmarks.intervals import Interval, mean_interval, paired_interval
from benchmarks.pages import Block, Figure, Heading, Table, Text, to_html, to_markdown
from benchmarks.record import origin_of
from benchmarks.suites import SUITES, points_of
from lavps_jax.errors import UserError
from lavps_jax.pictures import contact_sheet
from lavps_jax.storage import write_file
from lavps_jax.strict_json import to_text

__all__ = ["write_report"]

Entry = Mapping[str, Any]
"""One sampler on one task, as metrics.json has it, with its "method" and "budget"."""

QUALITY = "lpips_alex"
YARDSTICK = "MGDM"
"""Whose point of best quality the others are compared with, image by image."""
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
BUDGETS = (0.02, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds for a sample."""
TITLES = {
    "images": "How good a sample is for its cost",
    "robustness": "Operators that networks were not trained on",
}
ABOUT = """\
Fashion-MNIST at 32 x 32, sigma_y = 0.05, {images} test images that no training saw, {particles} \
samples of each. Scores are means over samples, then over images; ± and brackets are 95 % \
intervals over images, paired where two samplers are compared. LPIPS on images enlarged to 64. \
In band: the residual's chi-square lies in the central 99 % of what the true image has. Spread: \
standard deviation of the samples of a pixel. Coverage: how often the true value lies in the \
central half of them, 50 % if the samples were of the posterior. Fréchet and kernel: distance of \
a set with one sample of each measurement to the {others} other shipped images, mean over samples, \
on AlexNet's last layer averaged over pixels; neither is FID or KID, and for sets this small they \
are mostly bias: they do not rank samplers. Evaluations are of a denoiser's network (the prior's, \
or a supervised one of .4 to .5 times its size), not of amortized ones, and a derivative through \
it counts as two more. Seconds are of one sample among {batch} that are drawn at once; memory is \
that of the compiled program for them. n: points of the time grid; K: gradient steps of a block at \
the low-noise end."""
SETTINGS = {
    "images": "Other settings are the defaults of docs/samplers.md, for MGDM and LAVPS those of "
    "the presets of Fashion-MNIST; the steps of DAPS are half of theirs for motion blur, as its "
    "authors have them. Budgets are ours: MGPS takes its authors' n = 300 on motion blur alone, "
    "for the time; the n of DPS (1,000) and DAPS (200) are not among them.",
    "robustness": "Other settings are those of configs/fashion_mnist.py for LAVPS and MGDM, else "
    "the defaults of docs/samplers.md. On operators that its network does not know LAVPS compares "
    "starts, with more evaluations. Every method has one budget here, and samplers without a "
    "network of their own are left out but for four.",
}
TRAINED = {
    "images": "Networks were not trained equally long: LAVPS's for 2,000 (motion blur) or 6,000 "
    "steps of 16 blocks; those that see the measurement and have no likelihood for {palette:,} "
    "(Palette), {invfussion:,} (InvFussion), {pivot:,} (EPS) and {one_step:,} steps (one step, on "
    "top of Palette) of 32 images. EPS was trained on the three tasks and Gaussian blur, the other "
    "three on motion blur alone.",
    "robustness": "Networks were not trained equally long: LAVPS's for 2,000 steps of 16 blocks; "
    "those that see the measurement and have no likelihood for {palette:,} (Palette), "
    "{invfussion:,} (InvFussion), {one_step:,} (one step, on top of Palette) and {pivot:,} steps "
    "(EPS) of 32 images. EPS was trained on motion blur, Gaussian blur, super-resolution by 2 and "
    "few pixels, the others on motion blur alone.",
}


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
    tasks = {task: entries for task, entries in tasks.items() if entries}
    out.mkdir(parents=True, exist_ok=True)
    facts = {name: records[0][name] for name in ("commit", "machine")} | {
        "command": " and ".join(sorted({one["command"] for one in records})),
        "date": max(one["date"] for one in records),
    }
    _write(out / f"{suite}.json", _rounded({**facts, "tasks": tasks}))
    origin = f"{origin_of(facts)}; weights of this commit's pretrained/ and benchmarks/weights/"
    trained = TRAINED[suite].format(**found[0]["trained"])
    minutes = sum(one["took"] for one in found) / 60
    took = f"All of it took {minutes:.0f} minutes: {origin}."
    about = [Text(words) for words in (_about(tasks), SETTINGS[suite], trained, took)]
    blocks: list[Block] = [Heading(TITLES[suite], 1), *about]
    draw = _pareto if suite == "images" else _robustness
    blocks += draw(out, tasks, origin)
    for task, entries in tasks.items():
        blocks += _of_task(suite, task, entries, work, out, origin)
    _write_text(out / f"{suite}.md", to_markdown(blocks))
    _write_text(out / f"{suite}.html", to_html(TITLES[suite], blocks))


def _about(tasks: Mapping[str, Sequence[Entry]]) -> str:
    found = [entry for entries in tasks.values() for entry in _measured(entries)]
    if not found:
        return "No sampler takes any of these tasks."
    one = found[0]
    images, particles = one["images"], one["particles"]
    return ABOUT.format(
        images=images, particles=particles, batch=images * particles, others=NUM_SHIPPED - images
    )


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


def _pareto(out: Path, tasks: Mapping[str, Sequence[Entry]], origin: str) -> list[Block]:
    blocks: list[Block] = [Heading("Quality and cost")]
    for kind, label, cost in (
        ("time", "seconds for a sample", _seconds),
        ("calls", "evaluations of the network", _evaluations),
    ):
        marks = {
            task: [Mark(one["method"], cost(one), _quality(one)) for one in _measured(entries)]
            for task, entries in tasks.items()
        }
        file = out / f"images_{kind}.svg"
        pareto_figure(file, marks, label, "LPIPS (AlexNet)", origin)
        caption = f"LPIPS against {label}, lower left is better; the grey line joins what no other "
        blocks.append(Figure(file, caption + "point beats in both."))
    return blocks


def _robustness(out: Path, tasks: Mapping[str, Sequence[Entry]], origin: str) -> list[Block]:
    file = out / "robustness.svg"
    order = [point.method for point in points_of("robustness", "")]
    qualities = {
        task: {
            one["method"]: _quality(one)
            for one in sorted(_measured(entries), key=lambda one: order.index(one["method"]))
        }
        for task, entries in tasks.items()
    }
    robustness_figure(file, qualities, "LPIPS (AlexNet)", origin)
    caption = (
        "LPIPS by operator. The networks of LAVPS, Palette, InvFussion and the generator were "
        "trained on the first one alone, EPS's on it, Gaussian blur, super-resolution and few "
        "pixels. LAVPS has the likelihood as well, and the rest have nothing but the likelihood."
    )
    return [Heading("Quality by operator"), Figure(file, caption)]


def _of_task(
    suite: str, task: str, entries: Sequence[Entry], work: Path, out: Path, origin: str
) -> list[Block]:
    measured = sorted(_measured(entries), key=lambda entry: entry["mean"][QUALITY])
    refused = [f"{_name(entry)}: {entry['refused']}" for entry in entries if "refused" in entry]
    not_run = [Text(f"Not run: {'; '.join(refused)}.")] if refused else []
    if not measured:
        return [Heading(task.capitalize()), *not_run]
    baseline = measured[0]["baseline"]
    blocks: list[Block] = [Heading(task.capitalize())]
    if suite == "images":
        blocks += [Text("Which one for how much time:"), _advice(measured)]
    candidates = [entry for entry in measured if entry["method"] == YARDSTICK]
    yardstick = (candidates or measured)[0]
    blocks += [
        Text(
            f"All, best LPIPS first. What y gives without a network has PSNR "
            f"{baseline['psnr']:.2f}, LPIPS {baseline[QUALITY]:.3f}. Difference: to "
            f"{_name(yardstick)}."
        ),
        _scores(measured, yardstick),
    ]
    return [*blocks, *not_run, _panel(suite, task, measured, yardstick, work, out, origin)]


def _advice(measured: Sequence[Entry]) -> Table:
    """For each budget the best quality, and what cannot be told from it."""
    rows = []
    for budget in BUDGETS:
        within = [entry for entry in measured if _seconds(entry) <= budget]
        if not within:
            continue
        best = within[0]
        tied = dict.fromkeys(
            entry["method"]
            for entry in within[1:]
            if entry["method"] != best["method"]
            and paired_interval(entry["per_image"], best["per_image"], QUALITY).low <= 0
        )
        rows.append(
            (f"{budget:g} s", _name(best), _with_error(_quality(best)), "; ".join(tied) or "none")
        )
    return Table(("at most", "best", "LPIPS", "not distinguishable from it"), rows)


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
        _with_error(_quality(entry)),
        "" if entry is yardstick else _as_range(difference),
        f"{mean['lpips_vgg']:.3f}",
        f"{mean['psnr']:.2f}",
        f"{mean['ssim']:.3f}",
        f"{mean['psnr_of_mean']:.2f}",
        f"{100 * mean['residual_inside_99']:.0f} %",
        f"{mean['pixel_std']:.3f}",
        f"{100 * mean['coverage_50']:.0f} %" if "coverage_50" in mean else "",
        *(f"{of_sets[name]:.3g}" if name in of_sets else "" for name in sets),
        f"{calls}, {vjps}",
        f"{_seconds(entry):.2g}",
        f"{mean['memory_bytes'] / 1e6:.0f}" if "memory_bytes" in mean else "",
    )


def _with_error(interval: Interval) -> str:
    return f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}"


def _as_range(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _panel(
    suite: str,
    task: str,
    measured: Sequence[Entry],
    yardstick: Entry,
    work: Path,
    out: Path,
    origin: str,
    num_images: int = 6,
) -> Figure:
    """Each method's best point that takes no more than half of the yardstick's time."""
    fastest = min(map(_seconds, measured))
    limit = max(_seconds(yardstick) / 2, fastest) if suite == "images" else np.inf
    shown: dict[str, Entry] = {}
    for entry in measured:
        if _seconds(entry) <= limit:
            shown.setdefault(entry["method"], entry)
    rows = []
    for image in [one["name"] for one in measured[0]["per_image"]][:num_images]:
        cells: list[np.ndarray] = []
        for entry in shown.values():
            folder = work / task.replace(" ", "_") / entry["folder"] / "images" / image
            files = ["reference", "observation"] if not cells else []
            cells += [_read_png(folder / f"{file}.png") for file in files]
            cells.append(_read_png(folder / f"{entry['sampler']}_sample_00.png"))
        rows.append(cells)
    words = "".join(c if c.isalnum() or c == "-" else " " for c in task).split()
    file = out / f"{suite}_{'_'.join(words)}.png"
    named = (f"{textwrap.fill(name, 16)}\n{_seconds(entry):.2g} s" for name, entry in shown.items())
    titles = ["reference", "observation", *named]
    # About as many letters as fit on the columns.
    footnote = textwrap.fill(origin, 24 * len(titles))
    contact_sheet(file, rows, column_titles=titles, footnote=footnote)
    if suite != "images":
        return Figure(file, "One sample of each.")
    names = "; ".join(map(_name, shown.values()))
    slower = sorted({entry["method"] for entry in measured} - set(shown))
    caption = f"One sample of each at its best budget of at most {limit:.2g} s: {names}."
    return Figure(file, caption + (f" Slower: {', '.join(slower)}." if slower else ""))


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


def _write(path: Path, content: Any) -> None:
    _write_text(path, to_text(content, 1))


def _write_text(path: Path, text: str) -> None:
    with write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
