"""What both programs do around their work: preset, flags, and errors in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import itertools
import logging
import os
import re
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import tyro

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.distributed.memory import LESS_MEMORY
from lavps_jax.errors import UserError, did_you_mean, first_words
from lavps_jax.io.shipped import shipped
from lavps_jax.io.storage import absolute, as_path, on_disk, reached

Config = TypeVar("Config")

_PROGRAMS = {
    "SampleConfig": "sample.py (lavps-sample)",
    "TrainConfig": "train.py (lavps-train)",
    "PublishedPrior": "python -m lavps_jax.convert CHECKPOINT OUT --preset",
}
_UNREACHABLE = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
)


def parse(arguments: list[str], kind: type[Config]) -> Config:
    """The configuration of `PRESET.py --flag value ...`.

    A field that can be of several kinds is of the preset's kind, unless a word such as
    `operator:gaussian-blur` chooses another; words and flags may stand in any order.

    A wrong flag ends the program with one line.

    Raises:
      UserError: if the preset is missing or of another kind, or a value is out of range.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {sys.argv[0]} PRESET.py [flags]; PRESET.py --help lists the flags")
        if kind is SampleConfig:
            print(f"a photograph of your own: {sys.argv[0]} photo --help")
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise UserError("preset", " ".join(arguments) or "nothing", "name a file of configs/ first")
    preset = on_disk(arguments[0], "preset")
    with reached(preset, "preset"):
        default: Any = load_preset(str(preset))
    if not isinstance(default, kind):
        remedy = f"its get_config() must give a {kind.__name__}"
        if (given := type(default).__name__) in _PROGRAMS:
            remedy = f"start it with {_PROGRAMS[given]}: its get_config() gives a {given}, "
            remedy += f"this program needs a {kind.__name__}"
        beside = arguments[0].replace("_prior.py", ".py")
        if kind is SampleConfig and beside != arguments[0] and os.path.exists(shipped(beside)):
            remedy += f"; {beside} samples with this prior"
        raise UserError("preset", arguments[0], remedy)
    prog = f"{sys.argv[0]} {arguments[0]}"
    config = from_flags(kind, arguments[1:], prog=prog, default=default)
    return config if "--overwrite" in arguments else _replaces_its_own(config, default)


def _replaces_its_own(config: Any, preset: Any) -> Any:
    """A preset allows to replace the folder that it names, not another one."""
    if not isinstance(config, SampleConfig):
        return config
    own, chosen = (absolute(as_path(one.out_dir, "out_dir")) for one in (preset, config))
    return dataclasses.replace(config, overwrite=config.overwrite and chosen == own)


def from_flags(
    kind: type[Config],
    arguments: list[str],
    *,
    prog: str,
    default: Any = tyro.MISSING_NONPROP,
) -> Config:
    """A configuration from flags alone; a wrong flag ends the program with one line.

    Texts that begin with ~ are paths below a home folder.

    Raises:
      UserError: if a value is out of range.
    """
    known = list(_known(kind, default))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), warnings.catch_warnings():
            # tyro warns of a class that a preset brings along, and takes it.
            warnings.simplefilter("ignore", UserWarning)
            found, unknown = tyro.cli(
                kind,
                prog=prog,
                default=default,
                args=_words_first(arguments, known),
                config=(tyro.conf.CascadeSubcommandArgs,),
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        if (mistake := _user_error(stop)) is not None:
            raise mistake from None
        wrong = _first_part(printed.getvalue())
    else:
        if not unknown:
            return _at_home(found)
        wrong = f"Unrecognized options: {', '.join(unknown)}"
        hints = (_hint(*pair, known) for pair in itertools.pairwise([*unknown, ""]))
        wrong = "; ".join([wrong, *dict.fromkeys(hint for hint in hints if hint)])
    fail(f"{wrong}{' ' if wrong.endswith('?') else '; '}{prog} --help lists all flags")


def _at_home(value: Any, field: str = "") -> Any:
    """A configuration, or a part of it, whose paths that begin with ~ are whole."""
    if isinstance(value, str) and value.startswith("~"):
        return str(on_disk(value, field))
    if isinstance(value, tuple):
        return tuple(_at_home(one, field) for one in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
    whole = {name: _at_home(one, f"{field}.{name}".lstrip(".")) for name, one in fields.items()}
    changed = {name: one for name, one in whole.items() if one is not fields[name]}
    return dataclasses.replace(value, **changed) if changed else value


def _user_error(error: BaseException | None) -> UserError | None:
    """The UserError of a configuration that tyro caught, whose words need no frame."""
    while error is not None and not isinstance(error, UserError):
        error = error.__context__
    return error


_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a name in camel case is parted."""


def _known(kind: Any, default: Any, above: str = "", word: str = "") -> Iterator[tuple[str, str]]:
    """Every flag with the word that it goes with, or "", and every word that chooses a kind.

    Args:
      kind: of a configuration, a dataclass.
      default: one of this kind, whose parts may be of kinds of their own, or anything else.
      above: the name of the field that it is, with a dot behind it.
      word: that chooses the kind.
    """
    for name, hint in get_type_hints(kind).items():
        field, value = above + name.replace("_", "-"), getattr(default, name, None)
        choice = get_origin(hint) in (Union, types.UnionType)
        kinds: Any = dict.fromkeys([*(get_args(hint) if choice else [hint]), type(value)])
        kinds = [one for one in kinds if dataclasses.is_dataclass(one)]
        for one in kinds:
            inner = f"{field}:{_CAPITAL.sub('-', one.__name__).lower()}" if choice else word
            if choice:
                yield inner, word
            yield from _known(one, value if type(value) is one else None, f"{field}.", inner)
        if not kinds:
            yield f"--{field}", word
        if hint is bool:
            yield f"--{above}no-{name.replace('_', '-')}", word


def _words_first(arguments: list[str], known: list[tuple[str, str]]) -> list[str]:
    """The words that choose a kind, each before those inside of it, then all flags.

    tyro understands a flag only after the word that it belongs to.

    Raises:
      UserError: if one field is given two kinds.
    """
    fields = {name.partition(":")[0] for name, _ in known if ":" in name}
    chosen: dict[str, str] = {}
    flags = []
    for argument in arguments:
        field, _, word = argument.partition(":")
        if not word or field.replace("_", "-") not in fields:
            flags.append(argument)
        elif chosen.setdefault(field, word) != word:
            raise UserError(field, f"{chosen[field]} and {word}", "give one of them")
    words = sorted(chosen, key=lambda field: field.count("."))
    return [f"{field}:{chosen[field]}" for field in words] + flags


def _hint(token: str, following: str, known: list[tuple[str, str]]) -> str | None:
    """What may have been meant by a token that nothing understands."""
    if token.lower() in ("true", "false"):
        return "a flag of yes or no takes no value: --NAME or --no-NAME"
    if fitting := [word for name, word in known if name == token and word]:
        return f"{token} goes with {' or '.join(fitting)}"
    name = token.lstrip("-")
    words = [one for one, _ in known if ":" in one]
    if any(word.startswith(f"{name}:") for word in words):  # --operator identity
        name = f"{name}:{following}"
    if ":" in name:
        return did_you_mean(name, words)
    return did_you_mean(f"--{name}", [one for one, _ in known if ":" not in one])


def _first_part(box: str) -> str:
    """What tyro's framed message says first, on one line: what is wrong.

    It is coloured on a terminal, and framed in ASCII where the terminal has nothing else.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m|\[/?bold\]", "", box).splitlines()[1:]
    lines = [line.strip("│| ") for line in plain]
    parts = itertools.groupby(lines, lambda line: bool(line.strip("-─╰╯")))
    wrong = next(" ".join(part) for is_text, part in parts if is_text)
    return wrong.partition(" Got errors:")[0].strip(" .")


def main(run: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake becomes one line and exit code 2.

    SIGTERM, with which batch systems end a job, cleans up as Ctrl-C does.
    """
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _stop)
    sys.unraisablehook = _stop_again
    _tell_of_a_full_disk_once()
    try:
        run(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    except Exception as error:
        if isinstance(error, _UNREACHABLE) and error.filename is not None:
            fail(str(UserError("file", error.filename, f"fix this: {error.strerror}")))
        if full := _full_disk(error):
            fail(f"disk: {full}; make room, then the same command goes on")
        exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EX" in str(error)
        if exhausted or isinstance(error, MemoryError):
            fail(f"memory: not enough of it; {LESS_MEMORY}")
        if missing := _missing_device():
            fail(missing)
        raise  # Whatever else is reported is not the user's mistake.
    except KeyboardInterrupt as interrupt:
        code = 143 if interrupt.args else 130
    else:
        return
    # Here the interrupt and its frames are gone, and every `with` block has cleaned up, even one
    # that was interrupted on its way in or out.
    print("interrupted", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # The runtime's threads may still compute; a normal exit can crash under them.
    os._exit(code)


def _missing_device() -> str | None:
    """A line about JAX_PLATFORMS, if it names a kind of device that is not here.

    JAX has no exception of its own for it, and says so only when the first array is made.
    """
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, AssertionError without a word, ...
        platforms = f"{os.environ.get('JAX_PLATFORMS')} ({first_words(error) or 'none is here'})"
        remedy = "leave it out, or install JAX for such devices as README.md says"
        return str(UserError("JAX_PLATFORMS", platforms, remedy))
    return None


def _full_disk(error: BaseException | None) -> str | None:
    """What the system says of a full disk, if that is the error; TensorStore has no type for it."""
    reasons = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
    return next((reason for reason in reasons if reason in str(error)), None)


def _tell_of_a_full_disk_once() -> None:
    """Orbax raises what the system said; its threads and tasks would say it again, 300 lines."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and _full_disk(record.exc_info[1]))
    )
    threading.excepthook = lambda one: (
        None if _full_disk(one.exc_value) else threading.__excepthook__(one)
    )


def _stop(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


def _stop_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in finalizers and callbacks; a signal that came there comes again
    a moment later. TensorStore drops answers to a save that has failed and waits no more."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    elif str(dropped.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(dropped)


def fail(message: str) -> NoReturn:
    """Ends the program for a mistake that the message names."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
