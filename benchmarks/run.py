"""Every sampler on the same ground: `--suite gmm`, `budgets`, `images`, `robustness`, `photos` or
`photos_unseen`.

    python -m benchmarks.run --suite images
    python -m benchmarks.run --suite photos --photographs FOLDER

What is done already is kept in `work`: the same command goes on after an interruption, and measures
only with the code of the same commit, so that a report never mixes two. The report is `SUITE.md`,
`SUITE.html` (one page with everything in it), `SUITE_*.svg` and `SUITE.json` in `out`; those of
"gmm" are called `known_posteriors` and, of LAVPS, `known_posteriors_lavps`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from benchmarks import gaussian_mixture, lavps_mixture
from benchmarks.comparison import photos
from benchmarks.comparison.points import Point, Suite
from benchmarks.comparison.report import redraw_report, write_report
from benchmarks.comparison.suites import SUITES, points_of
from benchmarks.reporting.record import check_report, record, stored_by_this_code
from lavps_jax.compare_sets import Network, distances, features_of, networks, samples_of
from lavps_jax.config import cli
from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import DataConfig, ShippedData
from lavps_jax.errors import UserError
from lavps_jax.io.storage import write_file
from lavps_jax.io.weights import read_card
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.runs.sampling import run_sampling


@dataclass(frozen=True)
class Config:
    """Which suite to run, and how much of it."""

    suite: Literal["gmm", "budgets", "images", "robustness", "photos", "photos_unseen"]
    quick: bool = False
    """Few images and problems, one task and the cheaper samplers: to try it, not to conclude."""
    search: bool = False
    """Of "budgets": three settings of every method; the best on the first half of the images is
    reported on the second."""
    redraw: bool = False
    """Measure nothing: write the report in `out` again, from its own JSON."""
    tasks: tuple[str, ...] = ()
    """Names of tasks; empty is all."""
    methods: tuple[str, ...] = ()
    """Names of methods; empty is all."""
    photographs: str | None = None
    """Of "photos" and "photos_unseen": folder of folders `test` and `kodak`."""
    side: Literal[128, 256] = 256
    """Of "photos" and "photos_unseen": to how many pixels the 256 at the centre are reduced."""
    out: str | None = None
    """Folder of the report; None is docs/results, or `work` of a quick run."""
    work: str = "outputs/benchmarks"
    """Folder of what is done."""
    inception: str | None = None
    """File of InceptionV3, for FID and KID, see `lavps_jax.compare_sets`."""
    clip: str | None = None
    """File of CLIP, for CMMD."""


def main(arguments: list[str]) -> None:
    config, console = cli.from_flags(Config, arguments, prog="python -m benchmarks.run"), Console()
    out = config.out or (config.work if config.quick else "docs/results")
    if config.search and config.suite != "budgets":
        raise UserError("search", config.suite, "use --suite budgets: the others are not searched")
    if config.redraw:
        return _redraw(config.suite, Path(out))
    of_mixtures = ("known_posteriors", "known_posteriors_lavps")
    for name in of_mixtures if config.suite == "gmm" else (config.suite,):
        check_report(Path(out), name)
    if config.suite == "gmm":
        return _mixtures(config, Path(out))
    folder = Path(config.work) / (config.suite + "_quick" * config.quick)
    suite = SUITES[config.suite]
    data = _data(config)
    of = networks(config.inception, config.clip)
    if config.quick:
        suite = dataclasses.replace(suite, num_images=2)
    for task, point in _chosen(config, suite):
        measured = folder / task.replace(" ", "_") / f"{point.folder}.json"
        if not measured.is_file():
            _check_commit(folder)
            pictures = measured.with_suffix("")
            begin = time.monotonic()
            found = measure(suite, data, suite.tasks[task], point, pictures, of)
            names = {"task": task, "method": point.method, "budget": point.budget}
            made = {"folder": point.folder, "trained": _trained(), "took": time.monotonic() - begin}
            if config.photographs is not None:
                made |= {"side": config.side}
            record(measured, names | made | found)
            score = found["mean"]["lpips_alex"] if "mean" in found else found["refused"]
            console.print(f"{task}: {point.name}: {score}", markup=False, soft_wrap=True)
    write_report(config.suite, folder, Path(out))
    console.print(f"report: {out}/{config.suite}.html", soft_wrap=True)


def _redraw(suite: str, out: Path) -> None:
    """Raises a UserError if there are no results."""
    if suite != "gmm":
        return redraw_report(suite, out)
    for table in (gaussian_mixture, lavps_mixture):
        table.TABLE.report(out / Path(table.Config().out).name)


def _mixtures(config: Config, out: Path) -> None:
    """Measures mixtures in `work`, and writes results and their reports to `out`.

    Raises:
      UserError: if a method does not exist, what is given is for images, or results in `work` are
        of other code or settings.
    """
    for field in ("tasks", "inception", "clip"):
        if given := getattr(config, field):
            raise UserError(field, given, "leave it out: mixtures are no images")
    known = dict.fromkeys((*gaussian_mixture.TABLE.costs, *lavps_mixture.TABLE.costs))
    for name in config.methods:
        if name not in known:
            raise UserError("methods", name, f"use some of {'; '.join(known)}")
    trained = [name for name in config.methods if name not in gaussian_mixture.TABLE.costs]
    if config.quick and trained:
        raise UserError("methods", trained[0], "leave --quick out: networks have to be trained")
    tables: list[Any] = []
    if not config.methods or len(trained) < len(config.methods):
        tables.append(gaussian_mixture)
    if trained or not (config.quick or config.methods):
        tables.append(lavps_mixture)
    small = {"dims": ((8, 1), (8, 2)), "num_problems": 2} if config.quick else {}
    runs = []
    for table in tables:
        usual = table.Config()
        found = Path(config.work) / f"{Path(usual.out).stem}{'_quick' * config.quick}.json"
        chosen = tuple(name for name in config.methods if name in table.TABLE.costs)
        runs.append(
            (table.TABLE, dataclasses.replace(usual, methods=chosen, out=str(found), **small))
        )
    for table, settings in runs:
        try:
            table.check(settings)
        except UserError as error:
            raise _in_work(error) from error
    for table, settings in runs:
        table.measure(settings)
        found, report = Path(settings.out), out / Path(settings.out).name
        if report.resolve() != found.resolve():
            out.mkdir(parents=True, exist_ok=True)
            with write_file(report) as copy:
                shutil.copyfile(found, copy)
        table.report(report)


def _in_work(error: UserError) -> UserError:
    """What a table of mixtures calls `out` lies in `work` here."""
    if error.field != "out":
        return error
    return UserError("work", error.value, "delete this file, or give another folder")


def _check_commit(folder: Path) -> None:
    """Raises a UserError if results in the folder are of other code than this."""
    for file in folder.glob("*/*.json"):
        stored_by_this_code("work", file, "delete the folder, or check that commit out")


def _trained() -> dict[str, int]:
    """Steps of the networks that see the measurement, by their folder."""
    return {
        card.parent.name: read_card(card.parent)["step"]
        for card in (Path(__file__).parent / "weights").glob("*/card.json")
    }


def _chosen(config: Config, suite: Suite) -> Iterator[tuple[str, Point]]:
    """Tasks and their points.

    Raises:
      UserError: if a task or a method does not exist.
    """
    methods = {point.method for task in suite.tasks for point in points_of(config.suite, task)}
    for field, known in (("tasks", suite.tasks), ("methods", methods)):
        for name in getattr(config, field):
            if name not in known:
                raise UserError(field, name, f"use some of {', '.join(sorted(known))}")
    tasks = config.tasks or (tuple(suite.tasks)[:1] if config.quick else tuple(suite.tasks))
    for task in tasks:
        taken = set()
        for point in points_of(config.suite, task, config.search):
            if config.methods and point.method not in config.methods:
                continue
            if config.quick and point.method in taken:
                continue
            taken.add(point.method)
            yield task, point


def _data(config: Config) -> DataConfig:
    """What the suite restores.

    Raises:
      UserError: if there are no photographs, or they are not needed.
    """
    of_photographs = SUITES[config.suite].prior == photos.PRIOR
    if not of_photographs:
        if config.photographs is not None:
            remedy = "leave it out: this suite restores what is shipped"
            raise UserError("photographs", config.photographs, remedy)
        return ShippedData()
    if config.photographs is None:
        remedy = f"give a folder of {' and '.join(photos.FOLDERS)}"
        raise UserError("photographs", config.photographs, remedy)
    crops = Path(config.work) / f"crops_{config.side}"
    return photos.prepare_crops(Path(config.photographs), crops, config.side)


def measure(
    suite: Suite,
    data: DataConfig,
    operator: OperatorFamily,
    point: Point,
    folder: Path,
    of: Mapping[str, Network],
) -> dict[str, Any]:
    """The scores of one point, or why it refuses the task; pictures are left in the folder.

    Samples are compared, as a set, with the shipped images that are not restored, if there are any.
    """
    config = SampleConfig(
        prior=suite.prior,
        data=data,
        operator=operator,
        sampler=point.sampler,  # type: ignore[arg-type]
        out_dir=str(folder),
        num_images=suite.num_images,
        num_particles=suite.num_particles,
        batch_size=suite.batch_size or suite.num_images,
        lpips_vgg=suite.lpips_vgg,
        overwrite=True,
    )
    try:
        run_sampling(config, Console(quiet=True))
    except UserError as error:
        if error.field not in ("operator", "samples"):
            raise
        return {"refused": str(error)}
    metrics = json.loads((folder / "metrics.json").read_text())
    others = [] if suite.prior == photos.PRIOR else _others(suite)
    if not others:
        return metrics | {"of_sets": {}}
    sets = [features_of(one, of) for one in samples_of(folder, metrics["sampler"])]
    return metrics | {"of_sets": distances(sets, features_of(others, of))}


def _others(suite: Suite) -> list[np.ndarray]:
    """The shipped images that are not restored."""
    source = ShippedData().open()
    return [source[i] for i in range(suite.num_images, len(source))]


if __name__ == "__main__":
    cli.main(main)
