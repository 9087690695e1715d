"""What a sampling run leaves behind: scores, pictures, and a table.

`measured_batch` and `restored_batch` make what is kept of a batch, `write_results` puts the batches
of all processes together, with one of them in memory at a time.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lavps_jax.config.settings import SampleConfig, to_json
from lavps_jax.data.files import ImageFile, write_image
from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.io.strict_json import to_text
from lavps_jax.metrics.lpips import LPIPSNet
from lavps_jax.operators import LinearOperator
from lavps_jax.runs.measurements import Measured
from lavps_jax.runs.pictures import StdMap, contact_sheet, save_before_after, save_png
from lavps_jax.runs.prepare import Run
from lavps_jax.runs.sampling_job import MEASURED, Batch, SamplingJob
from lavps_jax.runs.scores import (
    ensemble_scores,
    finite_mean,
    fit_warnings,
    num_observed,
    sample_scores,
)

SHEET_ROWS = 16
"""Pictures on the contact sheet: the first ones."""

Arrays = dict[str, np.ndarray]

# ---- A batch ----


def measured_batch(run: Run, number: int, measured: Measured) -> Batch:
    """What is kept of a batch of measurements: the scores of what samplers must beat, pictures of
    the measurements and, where they are known, of the clean images."""
    rows = slice(len(measured.names))
    facts = {"sums": run.sums[number], "num_observed": num_observed(measured)[rows]}
    if run.estimates_noise:
        facts["sigma_y"] = measured.sigma_y[rows]
    naive = np.asarray(_naive(measured.problems))[:, None]
    scores = sample_scores(naive, measured, _lpips_nets(run.config))

    def draw(place: Path, rows: slice) -> Arrays:
        observed = [_observation(measured, i) for i in range(rows.start, rows.stop)]
        images = {"observation": np.concatenate(observed, axis=-1)}
        if measured.x_0 is not None:
            images["reference"] = measured.x_0[rows.start]
        for name, image in images.items():
            save_png(place / f"{name}.png", image)
        return images

    return _batch(run, number, measured, facts, scores, draw)


def restored_batch(
    run: Run,
    number: int,
    measured: Measured,
    sampler: str,
    samples: np.ndarray,
    facts: Mapping[str, Any],
) -> Batch:
    """What is kept of a batch of samples: scores, pictures, and what was given restored in its own
    depth, or as an array.

    Args:
      run: the run.
      number: of the batch.
      measured: the batch.
      sampler: its name.
      samples: float (B, P, H, W, C).
      facts: that are kept too.
    """
    scores = sample_scores(samples, measured, _lpips_nets(run.config))
    scores |= ensemble_scores(samples, measured)
    arrays: list[np.ndarray] = []

    def draw(place: Path, rows: slice) -> Arrays:
        x = measured.joined(measured.shown(samples[rows]))
        mean, std = x.mean(0), x.std(0)
        save_png(place / f"{sampler}_mean.png", mean)
        save_png(place / f"{sampler}_std.png", std, value_range=(0.0, 0.5))
        for p, one in enumerate(x):
            save_png(place / f"{sampler}_sample_{p:02d}.png", one)
        if measured.files:
            restored = place.parents[1] / "restored"
            if len(run.measurements.folders) > 1:
                restored /= place.name
            file = measured.files[rows.start // run.measurements.each]
            _write_file_again(restored / sampler, x, file)
        elif run.config.observations is not None:
            arrays.append(x)
        return {"samples": x[:2], "std": std}

    batch = _batch(run, number, measured, facts, scores, draw)
    return batch._replace(samples={"x_0": np.stack(arrays)} if arrays else {})


def _batch(
    run: Run,
    number: int,
    measured: Measured,
    facts: Mapping[str, Any],
    scores: Arrays,
    draw: Callable[[Path, slice], Arrays],
) -> Batch:
    """Puts a batch together.

    Args:
      run, number, measured, facts: as of `restored_batch`.
      scores: also of the repeats that the last batch is filled up with.
      draw: writes the pictures of some measurements into a folder, and gives arrays for the contact
        sheet.
    """
    count, shown = len(measured.names), defaultdict(list)
    first = number * run.measurements.size // run.measurements.each
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k, rows in enumerate(measured.pictures(), start=first):
            place = folder / "images" / run.measurements.folders[k]
            place.mkdir(parents=True)
            for key, array in draw(place, rows).items():
                shown[key] += [array] if k < SHEET_ROWS else []
        files = {
            file.relative_to(folder).as_posix(): np.frombuffer(file.read_bytes(), np.uint8)
            for file in folder.rglob("*")
            if file.is_file()
        }
    sheet = {key: np.stack(some) for key, some in shown.items() if some}
    scores = {key: values[:count] for key, values in scores.items()}
    return Batch(dict(facts), scores, sheet, files, {})


def _lpips_nets(config: SampleConfig) -> tuple[LPIPSNet, ...]:
    return ("alexnet", "vgg16") if config.lpips_vgg else ("alexnet",)


@jax.jit
def _naive(problems):
    """What samplers must beat, (B, H, W, C): A^+ y, or an estimate where A is not linear."""

    def one(problem):
        operator = problem.operator
        linear = isinstance(operator, LinearOperator)
        return operator.pinv(problem.y) if linear else estimate(problem)

    return jax.vmap(one)(problems)


def _observation(measured: Measured, i: int) -> np.ndarray:
    """Measurement i as a picture, float (H, W, C), brought back to image space if it is none."""
    y = np.asarray(measured.problems.y[i])
    if np.isrealobj(y) and y.ndim == 3 and y.shape[-1] == measured.image_shape[-1]:
        return y
    problem = jax.tree.map(lambda leaf: leaf[i], measured.problems)
    return measured.shown(np.asarray(jax.jit(estimate)(problem)))


def _write_file_again(stem: Path, samples: np.ndarray, file: ImageFile) -> None:
    """Samples in the depth of an image file, with its channels and alpha; their mean and standard
    deviation, 0 as black and .5 as white, if there are several; the file beside the mean."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    channels = file.pixels.shape[-1]  # A grey photo stored in colours stays so.
    samples = np.broadcast_to(samples, (*samples.shape[:-1], channels))
    save_before_after(f"{stem}_before_after.png", file, samples.mean(0))
    if len(samples) > 1:
        write_image(f"{stem}_mean", samples.mean(0), file)
        write_image(f"{stem}_std", 4 * samples.std(0) - 1, file)
    for p, x in enumerate(samples):
        write_image(f"{stem}_sample_{p:02d}", x, file)


# ---- All of them ----


def write_results(
    folder: Path, run: Run, job: SamplingJob, waiting: Callable[[], None]
) -> list[dict[str, Any]]:
    """Puts the batches of all processes together, as they come: configuration, scores, pictures.

    Args:
      folder: for the results.
      run: the run.
      job: where the batches are.
      waiting: called once if a batch of another process has to be waited for.

    Returns:
      The contents of metrics.json, of each sampler.

    Raises:
      UserError: see `SamplingJob.collect`.
    """
    names, numbers = [MEASURED, *run.samplers], range(run.measurements.num_batches)
    wanted = [(name, number) for number in numbers for name in names]
    kept: dict[str, list[Batch]] = {name: [] for name in names}
    for (name, _), batch in zip(wanted, job.collect(wanted, waiting), strict=True):
        for path, content in batch.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content.tobytes())
        kept[name].append(batch._replace(files={}, samples={}))
    measured, *restored = (_joined(batches) for batches in kept.values())
    results = dict(zip(run.samplers, restored, strict=True))
    metrics = [_metrics(run, name, one, measured) for name, one in results.items()]
    for name, content in (
        ("config.json", to_json(run.config)),
        ("metrics.json", {**metrics[0], "compared": metrics[1:]}),
    ):
        (folder / name).write_text(to_text(content))
    _write_sheet(folder / "contact_sheet.png", measured.sheet, results)
    if run.config.observations is not None and not (folder / "restored").exists():
        (folder / "restored").mkdir()
        for name in results:
            _write_arrays(folder / "restored" / f"{name}.npz", run, job, name)
    return metrics


def _joined(batches: list[Batch]) -> Batch:
    """Batches as one; only the first of them have pictures on the contact sheet."""

    def joined(part: Sequence[Arrays]) -> Arrays:
        return {
            key: np.concatenate([np.atleast_1d(one[key]) for one in part if key in one])
            for key in part[0]
        }

    return Batch(*map(joined, zip(*batches, strict=True)))


def _write_sheet(path: Path, images: Arrays, results: Mapping[str, Batch]) -> None:
    """The contact sheet: the clean image, the measurement, and two samples of every sampler."""
    columns = {key: list(images[key]) for key in ("reference", "observation") if key in images}
    for name, one in results.items():
        samples = one.sheet["samples"]
        columns |= {f"{name} {p + 1}": list(samples[:, p]) for p in range(samples.shape[1])}
        if samples.shape[1] > 1:
            columns[f"{name} std"] = [StdMap(std) for std in one.sheet["std"]]
    contact_sheet(path, list(zip(*columns.values(), strict=True)), column_titles=list(columns))


def _write_arrays(path: Path, run: Run, job: SamplingJob, sampler: str) -> None:
    """Samples of measurements that came as arrays: "samples" float32 (B, P, H, W, C), as
    `numpy.savez` writes it, but batch by batch."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("names.npy", "w") as file:
            np.lib.format.write_array(file, np.array(run.measurements.names))
        with archive.open("samples.npy", "w", force_zip64=True) as file:
            for number in range(run.measurements.num_batches):
                (batch,) = job.collect([(sampler, number)], lambda: None)
                x = batch.samples["x_0"]
                if not number:
                    shape = (len(run.measurements.names), *x.shape[1:])
                    header = {"descr": x.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(x.tobytes())


def _metrics(run: Run, name: str, restored: Batch, measured: Batch) -> dict[str, Any]:
    """The contents of metrics.json: `sample_scores` of an image, means over its particles, and
    `ensemble_scores`. Means leave out what is infinite, such as the PSNR of an exact sample; how
    much that is stands in "infinite"."""
    table, particles, names = restored.scores, run.config.num_particles, run.measurements.names
    cost = run.samplers[name].cost(run.prior.schedule)
    fixed = {
        "seconds_per_image": float(restored.facts["seconds"].mean()) / run.measurements.size,
        "network_calls": cost.network_calls * particles,
        "vjps": cost.vjps * particles,
        "amortized_calls": cost.amortized_calls * particles,
    }
    if memory := int(restored.facts["memory"].max()):
        fixed["memory_bytes"] = memory
    rows: list[dict[str, Any]] = [{"name": one} for one in names]
    for row, sigma_y in zip(rows, measured.facts.get("sigma_y", ()), strict=False):
        row["sigma_y"] = float(sigma_y)
    return {
        "sampler": name,
        "operator": type(run.config.operator).__name__,
        "images": len(names),
        "particles": particles,
        "warnings": run.warnings + fit_warnings(name, table, measured.facts["num_observed"]),
        "mean": {key: finite_mean(values) for key, values in table.items()} | fixed,
        "infinite": {
            key: count for key, values in table.items() if (count := int(np.sum(np.isinf(values))))
        },
        "per_image": [
            row | {key: finite_mean(values[i]) for key, values in table.items()}
            for i, row in enumerate(rows)
        ],
        "baseline": {key: finite_mean(values) for key, values in measured.scores.items()},
    }


def print_table(console: Console, metrics: list[dict[str, Any]], naive: str) -> None:
    """Scores of all samplers; `naive` is what the first row is called, which all must beat.

    Where the clean images are not known there are no distances to them, and no such row.
    """
    table, known = Table(), "psnr" in metrics[0]["baseline"]
    distances = ("PSNR", "SSIM", "LPIPS") if known else ()
    for head in ("sampler", *distances, "chi2 in 99 %", "s/image", "calls", "VJPs"):
        table.add_column(head, justify="right")
    if known:
        table.add_row(naive, *_distances(metrics[0]["baseline"]), "", "", "", "")
    for one in metrics:
        mean = one["mean"]
        table.add_row(
            one["sampler"],
            *(_distances(mean) if known else ()),
            f"{100 * mean['residual_inside_99']:.0f} %",
            f"{mean['seconds_per_image']:.2f}",
            str(mean["network_calls"]),
            str(mean["vjps"]),
        )
    console.print(table)
    legend = "PSNR (dB) and SSIM: higher is better; LPIPS: lower is better.\n" if known else ""
    legend += (
        "chi2 in 99 %: how many samples fit y as well as 99 % of true images do; 99 % is right.\n"
        "calls, VJPs: evaluations of the network, and derivatives of it, for an image's samples."
    )
    console.print(legend, markup=False, highlight=False)


def _distances(mean: dict[str, float | None]) -> tuple[str, ...]:
    digits = {"psnr": 2, "ssim": 3, "lpips_alex": 3}
    values = [(mean[name], count) for name, count in digits.items()]
    return tuple("inf" if value is None else f"{value:.{count}f}" for value, count in values)
