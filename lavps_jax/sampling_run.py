"""One sampling run: degrade, restore with each sampler, measure, write."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lavps_jax.build import build_sampler, load_prior
from lavps_jax.config import (
    ConditionalConfig,
    DPSConfig,
    LAVPSConfig,
    MGDMConfig,
    SampleConfig,
    SamplerConfig,
    to_json,
)
from lavps_jax.errors import UserError
from lavps_jax.lpips import load_lpips_weights, lpips, lpips_enlarges
from lavps_jax.measurements import (
    Measured,
    load_measurements,
    run_keys,
    simulate_measurements,
)
from lavps_jax.memory import check_memory
from lavps_jax.metrics import chi2_band, psnr, residual_chi2, ssim
from lavps_jax.outputs import StdMap, contact_sheet, save_png, write_directory
from lavps_jax.samplers import Cost, make_sample_fn
from lavps_jax.starts import BestOf

__all__ = ["run_sampling"]


class Restored(NamedTuple):
    """What one sampler made: samples float (B, P, H, W, C), seconds per image, evaluations."""

    name: str
    samples: np.ndarray
    seconds_per_image: float
    cost: Cost


def run_sampling(config: SampleConfig, console: Console | None = None) -> Path:
    """Restores the same measurements with every sampler and writes the results.

    metrics.json describes the run of `config.sampler`; those of `config.compare_with` have the
    same form and stand in its list "compared".

    Raises:
      UserError: if a file, the data or a setting is unusable, or a sample is not finite. Nothing
        is written then.
    """
    console = console or Console()
    with write_directory(config.out_dir, overwrite=config.overwrite) as folder:
        if config.observations is None:
            measured = simulate_measurements(config)
        else:
            measured = load_measurements(config.observations, config.operator, config.sigma_y)
        prior, theta = load_prior(config.prior, measured.image_shape)
        samplers = (config.sampler, *(config.compare_with if config.compare else ()))
        # The operators of given measurements may be any of their kind.
        operator = config.operator if config.observations is None else None
        built = [
            build_sampler(
                sampler, prior, theta, measured.image_shape,
                operator=operator, sigma_y=config.sigma_y,
            )
            for sampler in samplers
        ]  # fmt: skip
        for name, one, (sampler, _) in zip(_names(samplers), samplers, built, strict=True):
            if isinstance(one, LAVPSConfig) and one.best_of is None and _compares(sampler):
                console.print(
                    f"{name}: its network was trained on another operator or sigma_y, so that its "
                    "starts are compared with zero-shot ones (best_of)."
                )
        score = _make_score(measured)
        pinv = jax.jit(jax.vmap(lambda problem: problem.operator.pinv(problem.y)))
        baseline = score(np.asarray(pinv(measured.problems))[:, None])
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, refresh_per_second=1) as progress:
            restored = [
                _restore(config, measured, progress, name, *entry)
                for name, entry in zip(_names(samplers), built, strict=True)
            ]
        metrics = [_metrics(config, measured, one, score, baseline) for one in restored]
        _write(folder, config, measured, restored, metrics)
        _print_table(console, metrics)
        if measured.x_0 is not None and lpips_enlarges(measured.image_shape):
            console.print("LPIPS: images enlarged to 64 pixels first.")
    picture = f"pictures: {config.out_dir}/contact_sheet.png"
    console.print(picture, markup=False, soft_wrap=True)
    return Path(config.out_dir)


Score = Callable[[np.ndarray], dict[str, np.ndarray]]


def _names(samplers: Sequence[SamplerConfig]) -> list[str]:
    """One name per sampler, as in files and tables: the method, numbered from its second on."""
    methods = [_method(sampler) for sampler in samplers]
    counts = [methods[: i + 1].count(method) for i, method in enumerate(methods)]
    return [m if k == 1 else f"{m}_{k}" for m, k in zip(methods, counts, strict=True)]


def _method(config: SamplerConfig) -> str:
    match config:
        case LAVPSConfig():
            return "lavps"
        case MGDMConfig():
            return "mgdm"
        case DPSConfig():
            return "dps"
        case ConditionalConfig():
            return "conditional"


def _compares(sampler: Any) -> bool:
    """Whether LAVPS compares starts at the low-noise end."""
    return isinstance(sampler.inner_low_noise.start, BestOf)


def _restore(
    config: SampleConfig, measured: Measured, progress: Progress, name, sampler, params
) -> Restored:
    """All images in batches of one size; the time is that of the batches after compilation."""
    sample_fn: Any = make_sample_fn(sampler, num_particles=config.num_particles)
    plan, rng_key = sampler.plan(), run_keys(config.seed).sampling
    count = len(measured.index)
    size = min(config.batch_size, count)
    bar = progress.add_task(f"{name} (compiling)", total=count)
    seconds, samples = 0.0, []
    for batch, begin in enumerate(range(0, count, size)):
        # The last batch is filled up with repeats, so that one compiled program does all.
        rows = np.minimum(np.arange(begin, begin + size), count - 1)
        problems = jax.tree.map(lambda leaf, rows=rows: leaf[rows], measured.problems)
        args = (rng_key, jnp.asarray(measured.index[rows]), params, problems, plan)
        if batch == 0:
            sample_fn = sample_fn.lower(*args).compile()
            value = f"{size} images x {config.num_particles} particles"
            check_memory(sample_fn, "batch_size, num_particles", value)
            progress.update(bar, description=name)
        start = time.perf_counter()
        out = jax.block_until_ready(sample_fn(*args))
        seconds += time.perf_counter() - start
        # The last prediction belongs to no step.
        ends = jnp.isfinite(out.x_0).all(axis=(2, 3, 4))[..., None]
        finite = np.concatenate([out.info.is_finite, ends], axis=-1)
        if not finite.all():
            image, particle, step = np.argwhere(~finite)[0]
            where = f"{name}, {measured.names[rows[image]]}, particle {particle}, step {step}"
            raise UserError("samples", f"values that are not finite ({where})",
                            "lower learning_rate or gamma")  # fmt: skip
        samples.append(np.asarray(out.x_0)[: count - begin])
        progress.update(bar, advance=len(samples[-1]))
    batches = math.ceil(count / size)
    return Restored(name, np.concatenate(samples), seconds / (batches * size), sampler.cost())


def _metrics(
    config: SampleConfig,
    measured: Measured,
    restored: Restored,
    score: Score,
    baseline: dict[str, np.ndarray],
) -> dict[str, Any]:
    """The contents of metrics.json; scores of an image are means over its particles.

    Without a clean image there is only the residual.
    """
    table = score(restored.samples)
    observed = jax.vmap(lambda problem: problem.operator.num_observed())(measured.problems)
    low, high = np.array([chi2_band(count) for count in np.asarray(observed)]).T
    chi2 = table["residual_chi2"]
    table["residual_inside_99"] = (chi2 >= low[:, None]) & (chi2 <= high[:, None])
    cost = restored.cost
    fixed = {
        "seconds_per_image": restored.seconds_per_image,
        "network_calls": cost.network_calls * config.num_particles,
        "vjps": cost.vjps * config.num_particles,
        "amortized_calls": cost.amortized_calls * config.num_particles,
    }
    return {
        "sampler": restored.name,
        "operator": type(config.operator).__name__,
        "images": len(measured.names),
        "particles": config.num_particles,
        "mean": {key: float(values.mean()) for key, values in table.items()} | fixed,
        "per_image": [
            {"name": name} | {key: float(values[i].mean()) for key, values in table.items()}
            for i, name in enumerate(measured.names)
        ],
        "baseline": {key: float(values.mean()) for key, values in baseline.items()},
    }


def _make_score(measured: Measured) -> Score:
    """The function from samples (B, P, H, W, C) to their scores, each (B, P)."""
    lpips_weights = None if measured.x_0 is None else load_lpips_weights("alexnet")

    def score(samples: np.ndarray) -> dict[str, np.ndarray]:
        found = _scores(lpips_weights, samples, measured.x_0, measured.problems)
        return jax.tree.map(np.asarray, found)

    return score


@jax.jit
def _scores(lpips_weights, samples, x_0, problems) -> dict[str, Array]:
    """Image after image; without clean images there is only the residual."""

    def one(x, x_0, problem):
        chi2 = residual_chi2(problem.operator, x, problem.y, problem.sigma_y)
        if x_0 is None:
            return {"residual_chi2": chi2}
        # PSNR, SSIM and LPIPS are of displayable images; the residual is of the sample as it is.
        shown = jnp.clip(x, -1, 1)
        return {
            "psnr": psnr(shown, x_0),
            "ssim": ssim(shown, x_0),
            "lpips_alex": lpips(lpips_weights, shown, x_0),
            "residual_chi2": chi2,
        }

    over_particles = jax.vmap(one, in_axes=(0, None, None))
    return jax.lax.map(lambda row: over_particles(*row), (samples, x_0, problems))


def _write(folder: Path, config, measured: Measured, restored: list[Restored], metrics) -> None:
    for name, content in (
        ("config.json", to_json(config)),
        ("metrics.json", {**metrics[0], "compared": metrics[1:]}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    rows, several = [], config.num_particles > 1
    for i, name in enumerate(measured.names):
        y = np.asarray(measured.problems.y[i])
        # What does not look like an image is shown brought back to image space.
        is_image = y.ndim == 3 and y.shape[-1] == measured.image_shape[-1]
        observation = y if is_image else np.asarray(measured.problems.x_pinv[i])
        # Images of a sub-folder have that in their name; a dot would make it a file's name.
        pictures = folder / "images" / name.replace(".", "_")
        if pictures.exists():  # a.b and a_b
            pictures = pictures.with_name(f"{pictures.name}_{measured.index[i]}")
        pictures.mkdir(parents=True)
        save_png(pictures / "observation.png", observation)
        cells: list[Any] = [observation]
        if measured.x_0 is not None:
            save_png(pictures / "reference.png", measured.x_0[i])
            cells.insert(0, measured.x_0[i])
        for one in restored:
            mean, std = one.samples[i].mean(0), one.samples[i].std(0)
            save_png(pictures / f"{one.name}_mean.png", mean)
            save_png(pictures / f"{one.name}_std.png", std, value_range=(0.0, 0.5))
            for p, x in enumerate(one.samples[i]):
                save_png(pictures / f"{one.name}_sample_{p:02d}.png", x)
            cells += [*one.samples[i][:2], *([StdMap(std)] if several else [])]
        rows.append(cells)
    titles = ["observation"] if measured.x_0 is None else ["reference", "observation"]
    for one in restored:
        titles += [f"{one.name} {p + 1}" for p in range(len(one.samples[0][:2]))]
        titles += [f"{one.name} std"] if several else []
    contact_sheet(folder / "contact_sheet.png", rows[:16], column_titles=titles)


def _print_table(console: Console, metrics: list[dict[str, Any]]) -> None:
    table = Table()
    heads = ("sampler", "PSNR", "SSIM", "LPIPS", "chi2 in 99 %", "s/image", "calls", "VJPs")
    for head in heads:
        table.add_column(head, justify="right")
    baseline = metrics[0]["baseline"]
    table.add_row("A^+ y", *_distances(baseline), "", "", "", "")
    for one in metrics:
        mean = one["mean"]
        table.add_row(
            one["sampler"],
            *_distances(mean),
            f"{100 * mean['residual_inside_99']:.0f} %",
            f"{mean['seconds_per_image']:.2f}",
            str(mean["network_calls"]),
            str(mean["vjps"]),
        )
    console.print(table)


def _distances(mean: dict[str, float]) -> tuple[str, str, str]:
    if "psnr" not in mean:
        return "", "", ""
    return f"{mean['psnr']:.2f}", f"{mean['ssim']:.3f}", f"{mean['lpips_alex']:.3f}"
