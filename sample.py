"""Draws posterior samples of degraded images: sample.py PRESET [--flags]."""

from lavps_jax.programs import sample

if __name__ == "__main__":
    sample()
