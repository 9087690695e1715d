"""The one exception a user's mistake raises: field, value and remedy in a single line."""

import difflib
import math
import re
import struct
import tokenize
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from jax.core import Tracer
from PIL import Image

UNREADABLE = (
    OSError,
    EOFError,
    MemoryError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    Image.DecompressionBombError,
)
"""What NumPy, Pillow and tifffile raise, each of them seen, where a file is missing, damaged, of
another kind, or claims to be suspiciously large."""


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


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    """The question whether the known word nearest to the given one was meant; None if none is."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else None


def check_choices(config: Any) -> None:
    """Raises a UserError if a field typed as a Literal, or Literal | None, holds another value.

    Args:
      config: a dataclass instance. Command lines are checked as they are parsed; a preset, or
        a program that builds the object, is not.
    """
    for name, kind in get_type_hints(type(config)).items():
        parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if not all(get_origin(part) is Literal or part is type(None) for part in parts):
            continue
        choices = [choice for part in parts for choice in get_args(part) or (None,)]
        if getattr(config, name) not in choices:
            remedy = f"use one of {', '.join(map(repr, choices))}"
            raise UserError(name, repr(getattr(config, name)), remedy)


def check_fraction(name: str, value: Any) -> None:
    """Raises a UserError unless 0 <= value <= 1."""
    if not _holds(lambda one: 0 <= one <= 1, value):
        raise UserError(name, value, "use a number from 0 to 1")


def check_positive(name: str, value: Any) -> None:
    """Raises a UserError unless the value is positive and finite."""
    if not _holds(lambda one: 0 < one < math.inf, value):
        raise UserError(name, value, "use a positive number")


def _holds(is_right: Callable[[float], bool], value: Any) -> bool:
    """Whether a number is right, all of an array are, or it cannot be known yet: it is traced."""
    if isinstance(value, Tracer):
        return True
    return all(is_right(one) for one in np.ravel(value))


def check_seed(value: int) -> None:
    """Raises a UserError unless the value is one that random keys tell apart."""
    if not 0 <= value < 2**32:
        raise UserError("seed", value, "use a whole number from 0 to 2^32 - 1")


def check_at_least(name: str, value: Any, least: int) -> None:
    """Raises a UserError unless the value is finite and at least `least`."""
    if not _holds(lambda one: least <= one < math.inf, value):
        raise UserError(name, value, f"use at least {least}")


def check_at_most(name: str, value: Any, most: float, reason: str) -> None:
    """Raises a UserError unless the value is at most `most`; the reason says what limits it."""
    if not _holds(lambda one: one <= most, value):
        raise UserError(name, value, f"use at most {most:g}: {reason}")


def first_words(error: BaseException) -> str:
    """What an exception of another library says, on one line and not for ever."""
    return re.sub(r"\s+", " ", str(error)).strip()[:120]
