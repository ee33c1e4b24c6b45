"""One case of the campaign, and what the suite made of it."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torture
from repro.errors import ReproError
from repro.places import ROOT

GOOD = ("refused", "right")
"""A clear line that names the fault; the right answer, or damage that repaired itself."""

BAD = ("wrong", "lost", "traceback", "hang", "absent")
"""A wrong answer without a word; results gone; a raw error; no end; the tested code is missing."""

OUTCOMES = GOOD + BAD

SAID = 500
"""Most letters of what is printed of a case."""


class Lost(Exception):
    """Raised by a case that finds computed results gone."""


class Raw(Exception):
    """Raised for a command that ended with a traceback or without a line that says why."""


@dataclass(frozen=True)
class Case:
    """Something done to the suite, and what may come of it.

    Attributes:
        kind: the kind of fault that it looks for, a row of the table.
        name: what is planted where, unique in its family.
        run: does it in an empty folder of its own; returns what came out.
        right: whether what came out is right; None where only a refusal will do.
        refusal: further exceptions that count as clear, e.g. ValueError of a function that a
            programmer calls; `ReproError` always does.
        slow: only in the campaign, not in the tests.
        limit_s: after how many seconds it counts as a hang.
    """

    kind: str
    name: str
    run: Callable[[Path], Any]
    right: Callable[[Any], bool] | None = None
    refusal: tuple[type[Exception], ...] = ()
    slow: bool = False
    limit_s: float = 120

    def outcome(self) -> tuple[str, str]:
        """(one of `OUTCOMES`, what was said); the case runs in a process of its own."""
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=self._report, args=(sender,))
        child.start()
        sender.close()
        try:
            if not receiver.poll(self.limit_s):
                return "hang", f"no end after {self.limit_s:g} s"
            outcome, said = json.loads(receiver.recv_bytes())
            return outcome, said
        except EOFError:
            child.join()
            return "traceback", f"the process died with status {child.exitcode}"
        finally:
            _kill_group(child.pid)
            child.join()

    def _report(self, sender: Any) -> None:
        os.setsid()  # what the case starts dies with it
        hear_signals()
        with tempfile.TemporaryDirectory() as folder:
            outcome, said = self._judge(Path(folder))
        sender.send_bytes(json.dumps([outcome, said]).encode())
        sender.close()

    def _judge(self, folder: Path) -> tuple[str, str]:
        try:
            found = self.run(folder)
            good = self.right is not None and self.right(found)
        except (ReproError, *self.refusal) as error:
            return _of_refusal(error)
        except Lost as error:
            return "lost", str(error)
        except (ImportError, AttributeError) as error:
            return "absent", _raw(error)
        except BaseException as error:
            return "traceback", _raw(error)
        try:
            said = repr(found)[:SAID]
        except RecursionError:
            said = f"a deep {type(found).__name__}"
        return ("right" if good else "wrong"), said


def _raw(error: BaseException) -> str:
    """What was raised, and in which line of the suite or of a library."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[-SAID:]} ({frame.filename}:{frame.lineno})"


def hear_signals() -> None:
    """Undo what a shell's background or ``nohup`` lets every process below it ignore."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def _of_refusal(error: Exception) -> tuple[str, str]:
    said = str(error)
    if not said.strip() or len(said.splitlines()) > 1:
        return "traceback", f"not one line: {said[:SAID]!r}"
    raised = traceback.extract_tb(error.__traceback__)[-1].filename
    if not isinstance(error, ReproError) and not Path(raised).is_relative_to(ROOT):
        return "traceback", f"raised by {raised}, not by the suite: {said}"
    return "refused", said


def _kill_group(pid: int | None) -> None:
    if pid is not None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


# Commands -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def answer(self) -> Done:
        """Itself if it ended well.

        Raises:
            ReproError: it said on one line why not, with a status that is not zero.
            Raw: it ended with a traceback, or badly without a line.
        """
        if "Traceback (most recent call last)" in self.out + self.err:
            raise Raw(self.out + self.err)
        if self.status == 0:
            return self
        said = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if len(said) != 1:
            raise Raw(f"status {self.status}: {self.err[-2000:]!r}")
        raise ReproError(said[0])


def repro(
    folder: Path,
    *arguments: str | Path,
    environment: Mapping[str, str | None] | None = None,
    prefix: Sequence[str] = (),
) -> Done:
    """``python -m repro …`` in a folder; ``environment`` adds variables, or takes out (None)."""
    own = {**os.environ, "PYTHONPATH": str(ROOT), "REPRO_WORK": "work", **(environment or {})}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "repro", *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in own.items() if value is not None},
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


# Families -----------------------------------------------------------------------------------


def families() -> list[str]:
    """Names of the modules that hold cases."""
    names = (found.name for found in pkgutil.iter_modules(torture.__path__))
    return sorted(name for name in names if name not in ("case", "__main__"))


def cases(family: str) -> Iterator[Case]:
    """The cases of a family."""
    yield from importlib.import_module(f"torture.{family}").cases()
