"""A signal that asks the process to end raises `Stopped` wherever it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stopped(SystemExit):
    """Ends the process with status 128 + number of the signal, unless something catches it.

    said: what was stopped and how it goes on.
    """

    def __init__(self, number: int, said: str = "run the same command again to go on") -> None:
        super().__init__(128 + number)
        self.signal, self.said = signal.Signals(number), said


def stop(number: int, frame: FrameType | None = None) -> None:
    """The handler."""
    raise Stopped(number)


def listen() -> None:
    """Let the signals raise; one that is ignored (``nohup``, a shell's background) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def rest() -> None:
    """Let the signals end the process at once: nothing is left that could be cleaned up."""
    for number in SIGNALS:
        if signal.getsignal(number) is stop:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def unless(number: int, noticed: Callable[[], bool]) -> Iterator[None]:
    """A block in which the signal does not raise once something else has noticed it.

    A handler that is set inside the block has to call the one that it found.
    """
    outer = signal.getsignal(number)
    if not callable(outer) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if not noticed():
            outer(number, frame)

    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, outer)
