"""The programs `lavps-sample` and `lavps-train`; sample.py and train.py are the same."""

from __future__ import annotations

import sys

from lavps_jax.config import cli
from lavps_jax.config.settings import SampleConfig, TrainConfig

# Each imports what it runs by itself: neither waits for the libraries of the other.


def sample() -> None:
    """Draws posterior samples of degraded images: PRESET [--flags] on the command line; or restores
    a photograph: photo FILE --task TASK [--flags]."""
    cli.main(_sample)


def _sample(arguments: list[str]) -> None:
    if arguments[:1] == ["photo"]:
        from lavps_jax.config.photo import PhotoConfig
        from lavps_jax.runs.photo import run_photo

        run_photo(cli.from_flags(PhotoConfig, arguments[1:], prog=f"{sys.argv[0]} photo"))
    else:
        from lavps_jax.runs.sampling import run_sampling

        run_sampling(cli.parse(arguments, SampleConfig))


def train() -> None:
    """Trains a prior, an amortized network or a supervised baseline, as `sample` reads it."""
    from lavps_jax.runs.training import run_training

    cli.main(lambda arguments: print(f"weights: {run_training(cli.parse(arguments, TrainConfig))}"))
