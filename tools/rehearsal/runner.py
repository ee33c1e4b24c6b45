"""Starts the processes of a rehearsal, one a method and scale; tables what they tell."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from repro.places import ROOT
from tools.rehearsal import build
from tools.rehearsal.device import environment
from tools.rehearsal.work import Row

LIMIT_S = 1800
"""The most that a method may take."""

_running: set[subprocess.Popen] = set()

SELF_CHECK = """
import json
from tools.rehearsal import selfcheck
for row in selfcheck.run():
    print(json.dumps(row), flush=True)
"""


def rehearsed(
    slug: str,
    scale: str,
    device: str,
    work: Path,
    *,
    small: bool = True,
    arms: Sequence[str] = (),
    force: bool = False,
) -> Iterator[Row]:
    """The rows of one method at one scale, as its process writes them.

    Args:
        device: ``cuda``, the stand-in; or ``cpu``.
        work: what was done there by the same code is not done again.
        small: at the sizes of a rehearsal; else as the preset has them.
        arms: these alone, with their models; none means all.
        force: do also what was done.

    Raises:
        ReproError: the stand-in cannot be built here.
    """
    under = environment(build.folder()) if device == "cuda" else None
    with tempfile.TemporaryDirectory() as folder:
        rows, said = Path(folder, "rows"), Path(folder, "said")
        rows.touch()
        asked = {"slug": slug, "scale": scale, "device": device, "work": str(work.resolve())}
        asked |= {"out": str(rows), "small": small, "arms": list(arms), "force": force}
        with said.open("w") as stderr, rows.open(encoding="utf-8") as lines:
            process = subprocess.Popen(
                _python("-m", "tools.rehearsal.work", json.dumps(asked)),
                cwd=ROOT,
                env=under,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            _running.add(process)
            try:
                yield from _until_the_end(process, lines)
            finally:
                process.kill()
                _running.discard(process)
        if wrong := _ending(process.wait(), said):
            yield Row(slug, scale, "", "its process", "fault", wrong)


def stop() -> None:
    """End the processes that other threads wait for."""
    for process in tuple(_running):
        process.kill()


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", *arguments]


def _until_the_end(process: subprocess.Popen, lines: TextIO) -> Iterator[Row]:
    began = time.monotonic()
    while True:
        ended = process.poll() is not None
        for line in lines:
            yield Row(**json.loads(line))
        if ended or time.monotonic() - began > LIMIT_S:
            return
        time.sleep(0.2)


def _ending(status: int, said: Path) -> str:
    """What is wrong with how a process ended, or nothing."""
    if status == 0:
        return ""
    last = (said.read_text(errors="replace").strip().splitlines() or ["nothing said"])[-1]
    if status == -9:
        return f"killed: for want of memory, or after {LIMIT_S} s (its sizes: shrink.py)"
    return f"ended with {status}: {last[:240]}"


def checked() -> Iterator[tuple[str, str]]:
    """Name of each check of the stand-in → what is wrong, or nothing.

    Raises:
        ReproError: the stand-in cannot be built here.
    """
    under = environment(build.folder())
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "said")
        with said.open("w") as stderr:
            done: Any = subprocess.run(
                _python("-c", SELF_CHECK),
                cwd=ROOT,
                env=under,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        for line in done.stdout.splitlines():
            name, wrong = json.loads(line)
            yield name, wrong
        if wrong := _ending(done.returncode, said):
            yield "its process", wrong


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row for each model or arm that is not as it should be, and a line of counts."""
    lines = [["method", "scale", "model or arm", "outcome", "what went wrong"], ["---"] * 5]
    for row in rows:
        if row.outcome != "ok" or row.notes:
            said = "; ".join([row.said] * bool(row.said) + row.notes)
            what = f"{row.kind} {row.name}".strip()
            lines.append([row.method, row.scale, what, row.outcome, said.replace("|", "\\|")])
    shown = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    found = Counter(row.outcome for row in rows)
    noted = sum(row.outcome == "ok" and bool(row.notes) for row in rows)
    counts = (
        f"{len(rows)} models and arms: {found['ok']} ran, {noted} of them with a remark; "
        f"{found['fault']} failed, {found['waits']} wait for a model that failed, "
        f"{found['files']} want official files"
    )
    return f"{shown if len(lines) > 2 else ''}{counts}"
