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
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import tyro

from lavps_jax.config import SampleConfig, load_preset
from lavps_jax.errors import UserError
from lavps_jax.storage import absolute, as_path, on_disk, reached

__all__ = ["fail", "from_flags", "main", "parse"]

Config = TypeVar("Config")


def parse(arguments: list[str], kind: type[Config]) -> Config:
    """The configuration of `PRESET.py --flag value ...`.

    A field that can be of several kinds is of the preset's kind, unless a word such as
    `operator:gaussian-blur` chooses another; flags of its fields may stand before or after it.

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
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
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
        fail(f"{_message(errors.getvalue())}; {prog} --help lists all flags")
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


_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def _message(box: str) -> str:
    """The one sentence of tyro's framed message that says what is wrong.

    It is coloured on a terminal, and framed in ASCII where the terminal has nothing else.
    """
    lines = [_STYLE.sub("", line).strip("│ ") for line in box.splitlines()]
    below_title = itertools.dropwhile(_is_rule, lines[1:])
    return " ".join(itertools.takewhile(lambda line: not _is_rule(line), below_title))


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
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_about_something_else)
    try:
        run(sys.argv[1:])
    except UserError as error:
        fail(str(error))
    except Exception as error:
        if full := _full_disk(error):
            fail(f"disk: {full}; make room, then the same command goes on")
        exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EX" in str(error)
        if exhausted or isinstance(error, MemoryError):
            fail("memory: not enough of it; lower batch_size or, in sampling, num_particles")
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
