"""What reading photographs costs a training step: crops of a folder against a batch in memory.

A prior of about two million parameters is trained on square crops of a folder of photographs, by
the training step and the input of train.py. Blocks of steps take turns: the same batch, on the
device already, in every step ("in memory"); crops of photographs that stay in memory once they
were decoded ("kept"); and of photographs decoded anew for every batch ("decoded anew"), as those
of far larger folders are. The first block of each kind is not counted: it decodes what is kept.
Seconds are those of a step, medians over the blocks; CPU seconds are those of all threads, which
other programs on the machine change less. Costs are medians of each block over the block in memory
of the same turn, less one. The last column is the CPU time of reading a batch in one thread.

Command: python -m benchmarks.input_speed --folder DIR
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.config.settings import PriorTask, TrainConfig
from lavps_jax.data import FolderData, cached, load_ahead
from lavps_jax.errors import check_at_least
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig
from lavps_jax.runs.build_training import build_optimizer, build_trainee
from lavps_jax.runs.training import batches_of
from lavps_jax.training.sharding import make_mesh, replicated
from lavps_jax.training.step import init_train_state, make_train_step

LEVELS = (LevelConfig(128, 2, GlobalAttention(32)), LevelConfig(192, 2, GlobalAttention(32)))
NETWORK = HDiTConfig(3, 3, 4, LEVELS, mapping_width=128, mapping_depth=1)
UNITS = ("seconds", "CPU seconds")
HEAD = """\
| input | seconds of a step | cost | CPU seconds of a step | cost | CPU seconds of reading a batch |
| --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Config:
    """How much to measure."""

    folder: str
    """Of photographs."""
    crop: int = 64
    """Pixels of a side."""
    batch_size: int = 32
    steps: int = 5
    """Of a block."""
    turns: int = 4
    """Blocks of each kind, besides the first."""
    num_threads: int = 2
    """That read."""
    out: str = "docs/results/input_speed.json"


def blocks(
    config: Config, step: Callable[[Array], None], load: Callable[[int], Array]
) -> Iterator[tuple[float, float]]:
    """Seconds, and CPU seconds, of a step; the mean over one block after the other."""
    for turn in range(config.turns + 1):
        due = range(turn * config.steps, (turn + 1) * config.steps)
        began, cpu_began = time.perf_counter(), time.process_time()
        # Nothing is read before or after the block.
        for batch in load_ahead(load, due, config.num_threads):
            step(batch)
        yield (
            (time.perf_counter() - began) / config.steps,
            (time.process_time() - cpu_began) / config.steps,
        )


def reading_seconds(load: Callable[[int], Array]) -> float:
    """CPU seconds of this thread for one batch; the median of those that the blocks have read."""
    measured = []
    for number in range(20):
        began = time.thread_time()
        load(number)
        measured.append(time.thread_time() - began)
    return statistics.median(measured)


def main(config: Config) -> None:
    for name in ("steps", "turns", "num_threads"):
        check_at_least(name, getattr(config, name), 1)
    earlier("out", config.out)
    data = FolderData(config.folder, channels=3, crop=config.crop, reduce=(1, 2, 4), flip=True)
    train = TrainConfig(
        PriorTask(NETWORK), data, data, run_dir="unused", batch_size=config.batch_size
    )
    source, mesh = data.open(), make_mesh(devices=jax.devices()[:1])
    trainee = build_trainee(train, source.image_shape)
    optimizer = build_optimizer(train, trainee.weights)
    train_step = make_train_step(trainee.loss_fn, optimizer, ema_decay=0.999)
    everywhere = replicated(mesh)
    state = jax.device_put(init_train_state(trainee.weights, optimizer, ()), everywhere)
    rng_key = jax.device_put(jax.random.key(0), everywhere)

    def step(images: Array) -> None:
        nonlocal state
        state, metrics = train_step(state, trainee.frozen, images, rng_key, None)
        jax.block_until_ready(metrics)

    def loader(of: Any) -> Callable[[int], Array]:
        load = batches_of(train, of, mesh)
        return lambda number: load(number)[0]

    batch = loader(source)(0)
    loads = {
        "in memory": lambda _: batch,
        "kept": loader(cached(source)),
        "decoded anew": loader(source),
    }
    kinds = {name: blocks(config, step, load) for name, load in loads.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for turn in range(config.turns + 1):
        for name, measured in kinds.items():
            one = next(measured)
            if turn:
                found[name].append(one)
            print(f"turn {turn}, {name}: {one[0]:.3f} s, {one[1]:.3f} CPU s a step", flush=True)
    rows: dict[str, dict[str, float]] = {}
    for name, measured in found.items():
        rows[name] = {}
        for unit, values, bases in zip(
            UNITS, zip(*measured, strict=True), zip(*found["in memory"], strict=True), strict=True
        ):
            costs = [value / base - 1 for value, base in zip(values, bases, strict=True)]
            rows[name][f"{unit} of a step"] = statistics.median(values)
            rows[name][f"cost in {unit}"] = statistics.median(costs)
        rows[name]["CPU seconds of reading"] = reading_seconds(loads[name])
    weights = sum(leaf.size for leaf in jax.tree.leaves(trainee.weights))
    settings = {"photographs": len(source), "parameters": weights, "crop": config.crop,
                "batch_size": config.batch_size, "threads": config.num_threads}  # fmt: skip
    record(config.out, {**settings, "rows": rows})
    print(HEAD)
    for name, row in rows.items():
        seconds, cost, cpu, cpu_cost, reading = row.values()
        cells = f"{seconds:.3f} | {cost:+.1%} | {cpu:.3f} | {cpu_cost:+.1%} | {reading:.4f}"
        print(f"| {name} | {cells} |")


if __name__ == "__main__":
    prog = "python -m benchmarks.input_speed"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
