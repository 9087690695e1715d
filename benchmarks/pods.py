"""What the 256-pixel presets need on slices of TPUs, compiled on a machine without any.

The presets of training are compiled for every slice with the same number of images for a chip, in
bfloat16 with remat: the rows of one preset say how efficiency falls with the number of chips. The
last column is the share of the time that chips wait for each other, if nothing is sent while they
compute and all of their links are used. The samplers are compiled for one chip, because sampling
does not connect them. Loops are counted once, and the compiler does not search for good tilings:
see lavps_jax/aot.py.
Rows that the file of results holds already are not compiled again, each names its commit; delete it
to start anew. Prints the table of docs/pods.md.

It needs the compiler for TPUs, pip install 'jax[tpu]'.

Command: python -m benchmarks.pods
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.reporting.record import current_commit, earlier, record
from lavps_jax.aot import Needs, least_times, sampling_needs, training_needs
from lavps_jax.config import cli
from lavps_jax.config.settings import SampleConfig, TrainConfig, load_preset
from lavps_jax.distributed.slices import CHIPS, compile_only, devices_of
from lavps_jax.errors import UserError

HEAD = """\
| preset | on | memory, GB | TFLOP | GB of traffic | MB sent | least ms: arithmetic, memory, links \
| waiting |
| --- | --- | --- | --- | --- | --- | --- | --- |"""
"""Of the table; all but the names are for one chip and one step."""
SLICES = ("v5e:2x2", "v5e:4x4", "v5e:16x16", "v6e:4x4")


@dataclass(frozen=True)
class Case:
    """A preset, those of the networks it refers to, and how it is spread.

    Attributes:
      images: of one step on one chip.
      fsdp: chips that share one copy of the weights.
    """

    preset: str
    images: int
    fsdp: int = 1
    prior: str | None = None
    amortized: str | None = None


CASES = (
    Case("ffhq256_prior", 8),
    Case("ffhq256_amortized", 4, prior="ffhq256_prior"),
    Case("imagenet256_prior", 4, fsdp=4),
    Case("imagenet256_amortized", 2, fsdp=4, prior="imagenet256_prior"),
    Case("ffhq256", 1, prior="ffhq256_prior", amortized="ffhq256_amortized"),
    Case("imagenet256", 1, prior="imagenet256_prior", amortized="imagenet256_amortized"),
    Case("adm_ffhq256", 1, prior="adm_ffhq256_prior"),
    Case("adm_imagenet256", 1, prior="adm_imagenet256_prior"),
)


@dataclass(frozen=True)
class Config:
    """What to compile."""

    slices: tuple[str, ...] = SLICES
    presets: tuple[str, ...] = tuple(case.preset for case in CASES)
    out: str = "docs/results/pods.json"


def main(config: Config) -> None:
    path, console = Path(config.out), Console(stderr=True)
    rows = (earlier("out", path) or {"results": {}})["results"]
    known = [case.preset for case in CASES]
    if unknown := set(config.presets) - set(known):
        raise UserError("presets", ", ".join(sorted(unknown)), f"use some of {', '.join(known)}")
    for case in CASES:
        for topology in config.slices:
            kind = topology.partition(":")[0]
            preset = _preset(case.preset)
            # One program for each chip: the slice makes no difference.
            where = topology if isinstance(preset, TrainConfig) else kind
            name = f"{case.preset}, {case.images} images, fsdp {case.fsdp} on {where}"
            if case.preset not in config.presets or name in rows:
                continue
            began, devices = time.perf_counter(), devices_of(topology)
            needs = _needs(case, preset, devices)
            rows[name] = {
                "commit": current_commit(),
                "chips": len(devices) if isinstance(preset, TrainConfig) else 1,
                "images of a chip": case.images,
                "fsdp": case.fsdp,
                **needs._asdict(),
                "memory of the chip": CHIPS[kind].memory,
                "least times": least_times(needs, CHIPS[kind]),
                "seconds to compile": round(time.perf_counter() - began, 1),
            }
            record(path, rows)
            console.print(f"{name}: {time.perf_counter() - began:.0f} s")
    print(HEAD)
    for name, row in rows.items():
        print(_line(name, row))


def _needs(case: Case, preset: TrainConfig | SampleConfig, devices: Any) -> Needs:
    if isinstance(preset, SampleConfig):
        one = dataclasses.replace(preset, batch_size=case.images, num_particles=1)
        networks = _preset(case.prior), _preset(case.amortized)
        return sampling_needs(one, *networks, 256, devices[0])
    run = dataclasses.replace(
        preset,
        batch_size=case.images * len(devices),
        fsdp=case.fsdp,
        compute_dtype="bfloat16",
        remat="layers",
    )
    return training_needs(run, _preset(case.prior), 256, devices)


def _preset(name: str | None) -> Any:
    return None if name is None else load_preset(f"configs/{name}.py")


def _line(name: str, row: dict[str, Any]) -> str:
    times = row["least times"]
    busy = max(times["arithmetic"], times["memory"])
    waiting = times["links"] / (busy + times["links"])
    cells = [
        name.replace(" on ", " | "),
        f"{row['memory'] / 1e9:.1f} of {row['memory of the chip'] / 1e9:.0f}",
        f"{row['flops'] / 1e12:.2f}",
        f"{row['accessed'] / 1e9:.0f}",
        f"{sum(row['collectives'].values()) / 1e6:.0f}",
        f"{1e3 * times['arithmetic']:.0f}, {1e3 * times['memory']:.0f}, {1e3 * times['links']:.1f}",
        f"{100 * waiting:.1f} %",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    compile_only()
    prog = "python -m benchmarks.pods"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
