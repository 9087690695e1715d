"""Trains a prior, an amortized network or a supervised baseline: train.py PRESET [--flags]."""

from lavps_jax.programs import train

if __name__ == "__main__":
    train()
