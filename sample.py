"""Draws posterior samples of degraded images: sample.py PRESET [--flags]."""

from lavps_jax.config import cli
from lavps_jax.config.settings import SampleConfig
from lavps_jax.runs.sampling import run_sampling


def run(arguments: list[str]) -> None:
    run_sampling(cli.parse(arguments, SampleConfig))


if __name__ == "__main__":
    cli.main(run)
