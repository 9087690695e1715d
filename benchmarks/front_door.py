"""What the Python interface costs: importing it, and calling `sample` again with other numbers.

Times of imports are medians of fresh interpreters that take turns. The call is MGDM with 20 steps
on the shipped prior and one blurred image, one particle: first with everything to compile, then, in
turns, with the same sampler and with another step size each time, as a sweep does.

Command: python -m benchmarks.front_door
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import jax

import lavps_jax as lavps
from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli

IMPORTS = {"libraries": "import jax, flax.nnx, optax", "lavps_jax": "import lavps_jax"}


@dataclass(frozen=True)
class Config:
    """What to measure."""

    repeats: int = 7
    """Of imports and of calls."""
    out: str = "docs/results/front_door.json"


def seconds_of(statement: str) -> float:
    """Of a statement in a fresh interpreter, without its own start."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def imports(repeats: int) -> dict[str, float]:
    """Median seconds of each of `IMPORTS`."""
    times = [{name: seconds_of(code) for name, code in IMPORTS.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in times) for name in IMPORTS}


def calls(repeats: int) -> dict[str, float]:
    """Seconds of the first call of `sample`, and medians of later ones."""
    prior = lavps.load_prior("fashion_mnist")
    x_0 = lavps.data.shipped("fashion_mnist")[0]
    blur = lavps.operators.families.MotionBlur(size=9).draw(jax.random.key(0), x_0.shape)
    problem = lavps.simulate(jax.random.key(1), x_0, blur, lavps.Gaussian(0.05))

    def seconds(learning_rate: float) -> float:
        inner = lavps.samplers.Inner(1, learning_rate)
        sampler = lavps.MGDM(num_steps=20, inner=inner)
        start = time.perf_counter()
        lavps.sample(jax.random.key(2), sampler, prior, problem).x_0.block_until_ready()
        return time.perf_counter() - start

    first = seconds(0.5)
    same, other = zip(
        *((seconds(0.5), seconds(0.5 + 0.01 * (k + 1))) for k in range(repeats)), strict=True
    )
    return {
        "first call": first,
        "same sampler": statistics.median(same),
        "another step size": statistics.median(other),
    }


def main(config: Config) -> None:
    earlier("out", config.out)
    found = {"imports": imports(config.repeats), "calls": calls(config.repeats)}
    for name, table in found.items():
        print(name, {key: round(value, 4) for key, value in table.items()})
    record(config.out, found)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.front_door")
        )
    )
