"""Noise schedules, bridges and denoisers."""
