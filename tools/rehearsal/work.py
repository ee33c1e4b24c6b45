"""A method in a process of its own: the models and arms of a preset; none stops the others."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

from repro.errors import ReproError
from repro.suite import run
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.cards.models import ModelRef
from tools.rehearsal import data, shrink
from tools.rehearsal.device import Device, install

FILES_MISSING = re.compile(
    r"is missing; put|put .+ there|bring .+ official|no network|REPRO_OFFLINE"
)
ROOT = Path(__file__).parents[2]


@dataclass
class Row:
    """What became of one model or arm.

    outcome: ``ok``; ``fault``; ``waits`` for a model that failed; ``files``, where it wants
    official ones. said: one line of what went wrong. notes: what a device would do otherwise.
    """

    method: str
    scale: str
    kind: str
    name: str
    outcome: str = "ok"
    said: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    launches: int = 0


class Rehearsal:
    """The models and arms of one method at one scale."""

    def __init__(self, slug: str, options: run.Options, device: Device | None, out: TextIO) -> None:
        self.method, self.options = library.load(slug), options
        self.device, self.out = device, out
        self.failed: dict[ModelRef, str] = {}

    def all(self, arms: Sequence[str]) -> None:
        """Write a row for each model and arm, as it ends."""
        method, scale = self.method, self.options.scale
        chosen = [name for name in method.arms(scale) if not arms or name in arms]
        wanted = self.options.plan.models_of_arms(method, chosen)
        for ref in method.in_order(scale, wanted):
            self._model(method, ref)
        for name in chosen:
            refs = [
                ref
                for seed in method.seeds(scale, name)
                for ref in method.arm_models(scale, name, seed)
            ]
            self._job("arm", name, refs, lambda name=name: run.run_arm(method, name, self.options))

    def _model(self, method: Method, ref: ModelRef) -> None:
        owner = library.owner(ref.owner)
        before = self.options.plan.before(ref)
        name = ref.name if ref.owner == method.slug else f"{ref.owner}/{ref.name}"
        row = self._job("model", name, before, lambda: run.run_model(owner, ref, self.options))
        if row.outcome != "ok":
            self.failed[ref] = name

    def _job(self, kind: str, name: str, needs: Sequence[ModelRef], job: Callable) -> Row:
        row = Row(self.method.slug, self.options.scale, kind, name)
        if lost := [self.failed[ref] for ref in needs if ref in self.failed]:
            row.outcome, row.said = "waits", f"its model {lost[0]} failed"
        else:
            self._done(row, job)
        print(json.dumps(asdict(row)), file=self.out, flush=True)
        return row

    def _done(self, row: Row, job: Callable) -> None:
        began = time.monotonic()
        if self.device is not None:
            self.device.forget()
        try:
            with open("/dev/null", "w") as quiet, contextlib.redirect_stderr(quiet):
                job()
        except ReproError as error:
            cause = error.__cause__
            row.said = (
                _line(str(error)) if cause is None else f"{_line(_told(cause))}{_where(cause)}"
            )
            row.outcome = "files" if cause is None and FILES_MISSING.search(row.said) else "fault"
        row.seconds = round(time.monotonic() - began, 1)
        if self.device is not None:
            self._note(row, self.device)

    @staticmethod
    def _note(row: Row, device: Device) -> None:
        seen = device.seen()
        row.launches = seen.launches
        row.notes += [
            f"nondeterministic {name}, {n} times" for name, n in seen.nondeterministic.items()
        ]
        row.notes += [f"clock without synchronisation: {place}" for place in seen.clocks]
        if seen.reseeded:
            row.notes.append("the device's generator was seeded anew")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _line(text: str) -> str:
    return " ".join((text.splitlines() or [""])[0].split())[:240]


def _where(error: BaseException) -> str:
    """The places of the tree on the way to an error, the last first."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f
        for f in frames
        if Path(f.filename).is_relative_to(ROOT) and "suite/run.py" not in f.filename
    ]
    places = [f"{Path(f.filename).relative_to(ROOT)}:{f.lineno}" for f in ours]
    return " @ " + " < ".join(places[::-1][:3]) if places else ""


def main(
    slug: str,
    scale: str,
    device: str,
    work: str,
    out: str,
    small: bool,
    arms: list[str],
    force: bool,
) -> None:
    """What the process does; the rows go to the file ``out``, a line of JSON each."""
    stand_in = install() if device == "cuda" else None
    if stand_in is not None:
        stand_in.watch_clocks()
    if small:
        shrink.install()
        data.install()
    options = run.Options(scale, work=Path(work), device=device, force=force)
    with open(out, "a", encoding="utf-8") as file:
        Rehearsal(slug, options, stand_in, file).all(arms)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
