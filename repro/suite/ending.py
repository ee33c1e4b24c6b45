"""How a command ends: one line on standard error, and the exit status.

0        done
1        a check found differences, or a fault of the suite (its traceback is kept)
2        a mistake that the user can mend
128 + n  ended by signal n: 129 SIGHUP, 130 SIGINT, 141 SIGPIPE, 143 SIGTERM
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from repro import environment
from repro.errors import ReproError
from repro.stopping import Stopped

LOG = "errors.log"
"""Where tracebacks go, in the work folder."""


def status_of(command: Callable[[], int | None]) -> int:
    """Run a command to its end, whatever that is; returns the exit status."""
    prepare_streams()
    try:
        for line in environment.check():
            say(f"warning: {line}")
        status = command() or 0
        sys.stdout.flush()
        return status
    except (SystemExit, KeyboardInterrupt, Exception) as error:
        if shows_traceback():
            traceback.print_exc()
        return told(error)


def told(error: BaseException) -> int:
    """Say how a command ended; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        error = Stopped(signal.SIGINT)
    if isinstance(error, Stopped):
        say(f"stopped by {error.signal.name}: {error.said}")
        status = 128 + error.signal
    elif isinstance(error, SystemExit):
        status = of_exit(error)
    elif isinstance(error, BrokenPipeError):
        status = 128 + signal.SIGPIPE
    elif isinstance(error, ReproError):
        say(f"error: {error}")
        status = 2
    elif hasattr(error, "format_message"):  # arguments that the command does not take
        context = getattr(error, "ctx", None)
        help_of = context.command_path if context else "repro"
        say(f"error: {error.format_message().rstrip('.')}; `{help_of} --help` says more")
        status = 2
    else:
        of_fault(error)
        status = 1
    settle()
    return status


def of_exit(error: SystemExit) -> int:
    if isinstance(error.code, int | None):
        return error.code or 0
    say(f"error: {error.code}")
    return 1


def of_fault(error: BaseException) -> None:
    """What nobody foresaw: the line says where its traceback is."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename or 'standard output'}: {error.strerror}"
    if kept := keep_traceback(error):
        say(f"error: {what}; traceback in {kept}")
    else:
        traceback.print_exception(error)
        say(f"error: {what}; set REPRO_WORK to a folder that can be written")


def say(line: str) -> None:
    """One line on standard error, or nothing where that is closed."""
    with contextlib.suppress(OSError):
        print(one_line(line), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Spaces for line ends, escapes for what else is not printed."""
    flat = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)


def shows_traceback() -> bool:
    try:
        return environment.debug()
    except ReproError:  # says so itself when it is the error
        return False


def keep_traceback(error: BaseException) -> Path | None:
    """The file that the traceback was added to, or None where none can be written."""
    try:
        path = environment.work() / "logs" / LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            print(now, *map(ascii, sys.argv[1:]), file=log)
            traceback.print_exception(error, file=log)
    except (OSError, ValueError, ReproError):
        return None
    return path


def prepare_streams() -> None:
    """Standard streams that exist and that print what their encoding lacks as `?`."""
    for name, mode in (("stdout", "w"), ("stderr", "w"), ("stdin", "r")):
        if getattr(sys, name) is None:  # closed by whoever started the process
            setattr(sys, name, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def hold_descriptors() -> None:
    """Open what is closed of 0, 1 and 2, so that no file is taken for a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def settle() -> None:
    """Flush; what a closed pipe or a full disk refuses goes nowhere, and does not fail again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            if any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
