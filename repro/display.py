"""Progress on a terminal and in a log. Nothing here can change a number; no fingerprint has it."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized

LOG_EVERY_S = 15.0


def length(iterable: Iterable, total: int | None = None) -> int | None:
    """How many items a loop will see, where that is known."""
    return len(iterable) if total is None and isinstance(iterable, Sized) else total


@contextlib.contextmanager
def progress(description: str, total: int | None, log: logging.Logger) -> Iterator[Callable]:
    """Yield a function to call after each item: it moves a bar, or logs every 15 s."""
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda: bar.advance(task)
        return
    done, last = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > LOG_EVERY_S:
            last = time.monotonic()
            log.info("%s %d%s", description, done, f"/{total}" if total else "")

    yield advance
