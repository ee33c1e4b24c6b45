"""What a person sees while something runs. Nothing here may influence a number."""

from __future__ import annotations

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from rich.console import Console

LOG_EVERY_S = 30.0
DRAW_EVERY_S = 0.1
WIDTH_OF_PIPE, LEAST_WIDTH, MOST_WIDTH = 150, 40, 1000


def length(iterable: Iterable, total: int | None = None) -> int | None:
    """How many items a loop will see, where that is known."""
    return len(iterable) if total is None and isinstance(iterable, Sized) else total


class Meter:
    """How far a run of many steps is: a bar on a terminal, lines in a log elsewhere.

    title: what runs. total: its steps, None where nobody knows. done: those of an earlier run.
    log: takes the lines.
    """

    def __init__(self, title: str, total: int | None, log: logging.Logger, done: int = 0) -> None:
        self.title, self.total, self.log, self.start = title, total, log, done
        self.began = self.shown_at = time.monotonic()
        self.bar = _bar(title, done, total) if sys.stderr.isatty() else None

    def update(self, done: int, text: Callable[[], str] = str) -> None:
        """Say that ``done`` steps are over. text: evaluated only where it is shown."""
        now = time.monotonic()
        pause = LOG_EVERY_S if self.bar is None else DRAW_EVERY_S
        if done != self.total and now - self.shown_at < pause:
            return
        self.shown_at = now
        if self.bar is not None:
            self.bar.update(0, completed=done, text=text())
            return
        rate = (done - self.start) / max(now - self.began, 1e-9)
        parts = [f"{self.title}: step {done}", text(), f"{rate:.2f} steps/s"]
        if self.total is not None:
            parts[0] += f" of {self.total}"
            parts.append(f"{(self.total - done) / rate / 60:.1f} min left")
        self.log.info("%s", ", ".join(part for part in parts if part))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


@contextmanager
def transfer(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show bytes that arrive: a bar on a terminal, a line every `LOG_EVERY_S` elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    from rich import progress

    with progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class _Lines:
    """Lines of a transfer on standard error, which is no terminal."""

    def __init__(self, title: str) -> None:
        self.title, self.shown_at, self.began = title, 0.0, False

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self.began and done != total and now - self.shown_at < LOG_EVERY_S:
            return
        self.began, self.shown_at = True, now
        of = "" if total is None else f" of {total / 1e6:,.1f} MB"
        print(f"{self.title}: {done / 1e6:,.1f}{of or ' MB'}", file=sys.stderr, flush=True)


class Output(Console):
    """Standard output, on which text is text: brackets are no markup, `:x:` is no emoji.

    A terminal gives the width, else ``COLUMNS``; a pipe has room for the names of a table.
    """

    def __init__(self) -> None:
        width, height = shutil.get_terminal_size((WIDTH_OF_PIPE, 50))
        super().__init__(
            width=min(max(width, LEAST_WIDTH), MOST_WIDTH),
            height=height,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _bar(title: str, done: int, total: int | None) -> Any:
    from rich import progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
    )
    bar.add_task(title, total=total, completed=done, text="")
    bar.start()
    return bar


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's banners and its advice on data loaders, which say nothing about the job."""
    names = {"pytorch_lightning", "lightning", "lightning_fabric"}
    names |= {n for n in logging.root.manager.loggerDict if n.split(".")[0] in names}
    loggers = [logging.getLogger(n) for n in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
