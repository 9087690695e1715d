"""Programs that tests start as processes of their own, with `python -c`."""

from __future__ import annotations

TRAIN = (
    "import json; from lavps_jax.config import cli; "
    "from lavps_jax.config.settings import from_json; "
    "from lavps_jax.runs.training import run_training; "
    "cli.main(lambda arguments: print(run_training(from_json(json.loads(arguments[0])))))"
)
"""A training run; the argument is its configuration as JSON."""
