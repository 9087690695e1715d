"""What both programs do around their work: preset, flags, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from lavps_jax.config import load_preset
from lavps_jax.errors import UserError

__all__ = ["main", "parse"]

Config = TypeVar("Config")


def parse(arguments: list[str], kind: type[Config]) -> Config:
    """The configuration of `PRESET.py --flag value ...`.

    Raises:
      UserError: if the preset is missing or of another kind.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UserError("preset", " ".join(arguments) or "nothing", "name a file of configs/ first")
    default: Any = load_preset(arguments[0])
    if not isinstance(default, kind):
        remedy = f"its get_config() must give a {kind.__name__}"
        raise UserError("preset", arguments[0], remedy)
    return tyro.cli(kind, default=default, args=arguments[1:], config=(tyro.conf.AvoidSubcommands,))


def main(run: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake becomes one line and exit code 2."""
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
