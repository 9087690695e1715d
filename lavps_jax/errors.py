"""The one exception a user's mistake raises: field, value and remedy in a single line."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["UserError", "check_choices"]


class UserError(ValueError):
    """A mistake in what the user gave; the programs print it as one line and exit with code 2.

    Args:
      field: what is wrong, named as the user knows it (a flag, a file, a config field).
      value: what was given.
      remedy: what to do instead, a short imperative phrase.
    """

    def __init__(self, field: str, value: object, remedy: str):
        super().__init__(f"{field}: got {value}; {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy


def check_choices(config: Any) -> None:
    """Raises a UserError if a field typed as a Literal holds none of its values.

    Args:
      config: a dataclass instance. Command lines are checked as they are parsed; a preset, or
        a program that builds the object, is not.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            choices = ", ".join(map(repr, get_args(kind)))
            raise UserError(name, repr(getattr(config, name)), f"use one of {choices}")
