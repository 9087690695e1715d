"""What a sampling run leaves behind: scores, pictures, and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from lavps_jax.config.settings import to_json
from lavps_jax.data.files import ImageFile, write_image
from lavps_jax.io.strict_json import to_text
from lavps_jax.runs.measurements import Measured
from lavps_jax.runs.pictures import StdMap, contact_sheet, save_png
from lavps_jax.samplers import Cost

__all__ = ["Restored", "print_table", "write_results"]


class Restored(NamedTuple):
    """What one sampler made: samples float (B, P, H, W, C), seconds per image, evaluations, and
    bytes of memory that a batch takes (0: not known)."""

    name: str
    samples: np.ndarray
    seconds_per_image: float
    cost: Cost
    memory: int


def write_results(
    folder: Path, config, measured: Measured, restored: list[Restored], metrics
) -> None:
    """Writes configuration, scores, pictures, and what was given restored in its own depth."""
    for name, content in (
        ("config.json", to_json(config)),
        ("metrics.json", {**metrics[0], "compared": metrics[1:]}),
    ):
        (folder / name).write_text(to_text(content))
    rows, several = [], config.num_particles > 1
    for k, (name, row) in enumerate(measured.pictures()):
        observed = [_observation(measured, i) for i in range(row.start, row.stop)]
        observation = np.concatenate(observed, axis=-1)
        # Images of a sub-folder have that in their name; a dot would make it a file's name.
        place = name.replace(".", "_")
        if (folder / "images" / place).exists():  # a.b and a_b
            place = f"{place}_{k}"
        pictures = folder / "images" / place
        pictures.mkdir(parents=True)
        save_png(pictures / "observation.png", observation)
        cells: list[Any] = [observation]
        if measured.x_0 is not None:
            save_png(pictures / "reference.png", measured.x_0[row.start])
            cells.insert(0, measured.x_0[row.start])
        for one in restored:
            samples = measured.joined(measured.shown(one.samples[row]))
            mean, std = samples.mean(0), samples.std(0)
            save_png(pictures / f"{one.name}_mean.png", mean)
            save_png(pictures / f"{one.name}_std.png", std, value_range=(0.0, 0.5))
            for p, x in enumerate(samples):
                save_png(pictures / f"{one.name}_sample_{p:02d}.png", x)
            if measured.files:
                several_files = len(measured.files) > 1
                again = folder / "restored" / place if several_files else folder / "restored"
                _write_file_again(again / one.name, samples, measured.files[k])
            cells += [*samples[:2], *([StdMap(std)] if several else [])]
        rows.append(cells)
    titles = ["observation"] if measured.x_0 is None else ["reference", "observation"]
    for one in restored:
        titles += [f"{one.name} {p + 1}" for p in range(len(one.samples[0][:2]))]
        titles += [f"{one.name} std"] if several else []
    contact_sheet(folder / "contact_sheet.png", rows[:16], column_titles=titles)
    if config.observations is not None and not measured.files:
        _write_arrays(folder / "restored", measured, restored)


def _write_file_again(stem: Path, samples: np.ndarray, file: ImageFile) -> None:
    """Samples and their mean in the depth of an image file, with its channels and alpha."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    channels = file.pixels.shape[-1]  # A grey photo stored in colours stays so.
    samples = np.broadcast_to(samples, (*samples.shape[:-1], channels))
    write_image(f"{stem}_mean", samples.mean(0), file)
    for p, x in enumerate(samples):
        write_image(f"{stem}_sample_{p:02d}", x, file)


def _write_arrays(folder: Path, measured: Measured, restored: list[Restored]) -> None:
    """Samples of measurements that came as arrays: "samples" float32 (B, P, H, W, C)."""
    folder.mkdir()
    for one in restored:
        found = [measured.joined(measured.shown(one.samples[r])) for _, r in measured.pictures()]
        np.savez(folder / f"{one.name}.npz", samples=np.stack(found), names=measured.names)


def _observation(measured: Measured, i: int) -> np.ndarray:
    """Measurement i as a picture, float (H, W, C), brought back to image space if it is none."""
    y = np.asarray(measured.problems.y[i])
    if np.isrealobj(y) and y.ndim == 3 and y.shape[-1] == measured.image_shape[-1]:
        return y
    return measured.shown(np.asarray(measured.problems.x_pinv[i]))


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
