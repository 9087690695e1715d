"""Losses, the training step and its sharding."""
