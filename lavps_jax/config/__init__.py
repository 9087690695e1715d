"""Frozen settings, presets and the command line."""
