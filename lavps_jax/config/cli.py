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
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import jax
import tyro

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.distributed.memory import LESS_MEMORY
from lavps_jax.errors import UserError, did_you_mean
from lavps_jax.io.storage import absolute, as_path, on_disk, reached

__all__ = ["fail", "from_flags", "main", "parse"]

Config = TypeVar("Config")

_PROGRAMS = {"SampleConfig": "sample.py", "TrainConfig": "train.py"}
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
    arguments, errors = _words_first(kind, arguments), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), warnings.catch_warnings():
            # tyro warns of a class that a preset brings along, and takes it.
            warnings.simplefilter("ignore", UserWarning)
            found = tyro.cli(
                kind,
                prog=prog,
                default=default,
                args=arguments,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        if (mistake := _user_error(stop)) is not None:
            raise mistake from None
        message = _message(errors.getvalue(), kind)
        fail(f"{message}{' ' if message.endswith('?') else '; '}{prog} --help lists all flags")
    return _at_home(found)


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


def _words_first(kind: type, arguments: list[str]) -> list[str]:
    """The words that choose a kind, each before those inside of it, then all flags.

    tyro understands a flag only after the word that it belongs to.

    Raises:
      UserError: if one field is given two kinds.
    """
    groups = [field for field, kinds in get_type_hints(kind).items() if len(get_args(kinds)) > 1]
    chosen: dict[str, str] = {}
    flags = []
    for argument in arguments:
        group, colon, word = argument.partition(":")
        if not colon or group.partition(".")[0].replace("-", "_") not in groups:
            flags.append(argument)
        elif chosen.setdefault(group, word) != word:
            raise UserError(group, f"{chosen[group]} and {word}", "give one of them")
    words = sorted(chosen, key=lambda group: group.count("."))
    return [f"{group}:{chosen[group]}" for group in words] + flags


_STYLE = re.compile(r"\x1b\[[0-9;]*m|\[/?bold\]")
_WORD = re.compile(r"[\w.-]+:[\w-]+")
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a name in camel case is parted."""


def _message(box: str, kind: type) -> str:
    """What tyro's framed message says is wrong, and what may have been meant, on one line.

    It is coloured on a terminal, and framed in ASCII where the terminal has nothing else. Rules
    part what is wrong, the words that there are, and flags of similar names.
    """
    sections: list[list[str]] = [[]]
    for line in (_STYLE.sub("", line).strip("│| ") for line in box.splitlines()[1:]):
        if not _is_rule(line):
            sections[-1].append(line)
        elif sections[-1]:
            sections.append([])
    wrong = " ".join(sections[0]).partition(" Got errors:")[0].strip(" .")
    if wrong.startswith("Unrecognized or misplaced"):
        tokens = re.findall(r"(\S+) \(applied to .*?\)", wrong)
        wrong = f"Unrecognized options: {', '.join(tokens)}"
    tokens = re.split(r",? ", wrong.partition("Unrecognized options: ")[2])
    hints = (_hint(*one, sections[1:-1], kind) for one in itertools.pairwise([*tokens, ""]))
    return "; ".join([wrong, *dict.fromkeys(hint for hint in hints if hint)])


def _hint(token: str, following: str, sections: list[list[str]], kind: type) -> str | None:
    """What may have been meant by a token that nothing understands."""
    words = _WORD.findall(" ".join(line for lines in sections for line in lines))
    if token.lower() in ("true", "false"):
        return "a flag of yes or no takes no value: --NAME or --no-NAME"
    groups = {word.partition(":")[0] for word in _kinds(kind)}
    names = [field.name for field in dataclasses.fields(kind) if field.name not in groups]
    flags = [f"--{name.replace('_', '-')}" for name in names]
    if not token.startswith("--"):
        if ":" in token:
            return did_you_mean(token, [*words, *_kinds(kind)])
        return did_you_mean(f"--{token.lstrip('-')}", flags)
    # Flags, and of each the words that it may follow.
    similar: dict[str, list[str]] = {}
    for title, *lines in sections:
        if title in ("Perhaps you meant:", f"Arguments similar to {token}:"):
            for line in lines:
                if line.startswith("--"):
                    names = re.findall(r"--[\w.-]+", line)  # --overwrite, --no-overwrite
                    similar |= {name: [] for name in names}
                elif similar:
                    similar[list(similar)[-1]] += _WORD.findall(line)
    if similar.get(token):
        return f"{token} goes with {' or '.join(similar[token])}"
    as_word = f"{token[2:]}:{following}"  # --operator denoise
    if as_word in words:
        return f"did you mean {as_word}?"
    at_once = [name for name, follows in similar.items() if not follows]
    near = did_you_mean(token, [*at_once, *flags]) or did_you_mean(token, similar)
    return near or did_you_mean(as_word, words)


def _kinds(kind: type) -> list[str]:
    """The words that choose a kind of a field, such as sampler:dps-config."""
    return [
        f"{field}:{_CAPITAL.sub('-', one.__name__).lower()}"
        for field, kinds in get_type_hints(kind).items()
        for one in get_args(kinds)
        if isinstance(one, type) and dataclasses.is_dataclass(one)
    ]


def _is_rule(line: str) -> bool:
    return not line.strip("-─╰╯")


def main(run: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake becomes one line and exit code 2.

    SIGTERM, with which batch systems end a job, cleans up as Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, _stop)
    # Every thread and task of Orbax would tell of a full disk; the last one that is told is ours.
    excepthook = threading.excepthook
    threading.excepthook = lambda one: None if _full_disk(one.exc_value) else excepthook(one)
    # TensorStore's answers that come after Orbax has given up.
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda one: (
        None if "Event loop is closed" in str(one.exc_value) else unraisable(one)
    )
    logging.basicConfig(format="%(message)s")
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_about_something_else)
    try:
        run(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    except Exception as error:
        if isinstance(error, _UNREACHABLE) and error.filename is not None:
            fail(str(UserError("file", error.filename, f"mend this: {error.strerror}")))
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
        why = " ".join(str(error).partition("(set ")[0].split()) or "there is no such device"
        remedy = "leave it out, or install JAX for such devices as README.md says"
        return str(UserError("JAX_PLATFORMS", f"{os.environ.get('JAX_PLATFORMS')} ({why})", remedy))
    return None


def _full_disk(error: object) -> str | None:
    """What the system says of a full disk, if that is the error; TensorStore has no type for it."""
    reasons = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
    return next((reason for reason in reasons if reason in str(error)), None)


def _is_about_something_else(record: logging.LogRecord) -> bool:
    """Filters log records about a full disk."""
    return not (_full_disk(record.getMessage()) or _full_disk((record.exc_info or [0, 0])[1]))


def _stop(number: int, frame: types.FrameType | None) -> None:
    if _would_be_dropped(frame):  # Try again later.
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return
    raise KeyboardInterrupt("SIGTERM")


def _would_be_dropped(frame: types.FrameType | None) -> bool:
    """Whether Python ignores what is raised here: in finalizers and callbacks of the collector."""
    while frame is not None:
        code = frame.f_code
        if code.co_name in ("__del__", "_xla_gc_callback") or code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False


def fail(message: str) -> NoReturn:
    """Ends the program for a mistake that the message names."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
