"""Trains a prior, an amortized network or a supervised baseline: train.py PRESET [--flags]."""

from lavps_jax.config import cli
from lavps_jax.config.settings import TrainConfig
from lavps_jax.runs.training import run_training


def run(arguments: list[str]) -> None:
    config = cli.parse(arguments, TrainConfig)
    print(f"weights: {run_training(config)}")


if __name__ == "__main__":
    cli.main(run)
