"""Draws posterior samples of degraded images: sample.py PRESET [--flags]; restores a photograph:
sample.py photo FILE --task TASK."""

from lavps_jax.programs import sample

if __name__ == "__main__":
    sample()
