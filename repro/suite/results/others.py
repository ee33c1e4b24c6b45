"""Results of other machines, beside ours: ``results/others/<machine>/<scale>/<method>/``.

Such a folder holds what was measured (`MEASURED`, and the two tables that may stand beside), the
words of its import, and a manifest. Everything else is derived from it by the cards of today, so
nothing of theirs is taken on trust and nothing goes out of date with our texts. Where the code has
changed since, their runs are of other code than ours: they stay, are said to be of earlier code,
and are compared with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import documents
from repro.coordinates import at_key
from repro.errors import ReproError
from repro.places import short
from repro.suite import looks, records
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.records import MEASURED, Record
from repro.suite.report import inputs
from repro.suite.results import manifest, today, writing
from repro.suite.words import SCALES

FOLDER = writing.OTHERS
ABOUT = "import.json"
OPTIONAL = ("items.csv", today.CARRIED)
TABLES = (*MEASURED, *OPTIONAL)
"""What is kept of another machine's results of a method."""

MACHINE = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
EVIDENCED = tuple(scale for scale in SCALES if scale != "smoke")
"""Scales whose results are evidence."""


@dataclass(frozen=True)
class Elsewhere(inputs.Committed):
    """A scale of another machine (a `repro.suite.report.inputs.Source`)."""

    def findings(self, method: Method) -> list[dict[str, Any]]:
        return []


@dataclass(frozen=True)
class Numbers:
    """How the measurements of two machines agree; timings are left out.

    Attributes:
        common: measured by both, at the same arm, seed and place.
        equal: to the last bit.
        largest: the largest relative difference, and ``where`` it is.
        copies: runs that are not theirs but ours: begun at the same second with the same result.
        runs: how many runs they have.
    """

    common: int
    equal: int
    largest: float
    where: str
    copies: int
    runs: int


@dataclass(frozen=True)
class Beside:
    """A method at a scale as another machine has it, beside ours.

    Attributes:
        report: their results under today's cards; None where their code is not today's.
        stale: runs and models that are of other code than today's.
        verdicts: claim → (ours, theirs), of all claims that either tested; ours is "" where we
            have no results of this scale.
        numbers: None where there is nothing to compare.
    """

    machine: str
    scale: str
    slug: str
    devices: list[str]
    report: inputs.Report | None
    stale: int
    verdicts: dict[str, tuple[str, str]]
    numbers: Numbers | None

    @property
    def agreeing(self) -> int:
        return sum(ours == theirs for ours, theirs in self.verdicts.values())

    def summary(self) -> str:
        """One line: what agrees, or why nothing is compared."""
        if self.report is None:
            return (
                f"{self.stale} of its runs and models are of other code than today's: not compared"
            )
        if not any(ours for ours, _ in self.verdicts.values()):
            return f"{len(self.verdicts)} claims judged; none of this scale is committed here"
        line = f"{self.agreeing} of {len(self.verdicts)} verdicts agree"
        if self.numbers is None or not self.numbers.common:
            return line
        n = self.numbers
        line += f"; {n.equal} of {n.common} numbers are equal to the last bit"
        if n.equal < n.common:
            line += f", the others within {n.largest:.2g} (relative, {n.where})"
        if n.copies:
            line += f"; {n.copies} of its {n.runs} runs are copies of ours, not runs of its own"
        return line


def is_machine(name: str) -> bool:
    """Whether a machine may be called so: it becomes a folder and a heading."""
    return MACHINE.fullmatch(name) is not None


def places(results: Path) -> Iterator[tuple[str, str, str, Path]]:
    """Machine, scale, method and folder of everything that was imported, in order."""
    for machine in _folders(results / FOLDER):
        for scale in _folders(machine):
            for method in _folders(scale):
                yield machine.name, scale.name, method.name, method


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def beside(results: Path, scale: str, slug: str, ours: inputs.Report | None) -> list[Beside]:
    """What other machines have of a method at a scale.

    Args:
        ours: None where we have nothing of it.

    Raises:
        ReproError: a folder of theirs is damaged.
    """
    return [
        compared(machine, scale, slug, folder, ours)
        for machine, of, method, folder in places(results)
        if (of, method) == (scale, slug)
    ]


def compared(
    machine: str, scale: str, slug: str, folder: Path, ours: inputs.Report | None
) -> Beside:
    """One folder of another machine, judged by today's cards, beside ours.

    Raises:
        ReproError: it is damaged.
    """
    manifest.refuse_damage(folder)
    method = library.load(slug)
    runs, models = records.read_runs(folder, scale), records.read_models(folder, scale)
    records.refuse_edited(folder, runs)
    devices = sorted({str(run["device"]) for run in runs})
    method = looks.of_runs(method, scale, runs)
    stale = _stale(method, scale, folder, runs, models)
    if stale:
        return Beside(machine, scale, slug, devices, None, stale, {}, None)
    source = Elsewhere(scale, folder.parent)
    report = inputs.report_of(method, source, runs, models)
    numbers = None if ours is None else _numbers(ours, runs)
    return Beside(machine, scale, slug, devices, report, 0, _verdicts(ours, report), numbers)


def _stale(
    method: Method, scale: str, folder: Path, runs: list[Record], models: list[Record]
) -> int:
    """How many runs and models of today's plan are not there as today's code makes them."""
    declared = today.declared(folder)
    there = {today.of_run(run): run for run in runs}
    there |= {today.of_model(model): model for model in models}
    wanted = {**today.runs(method, scale), **today.models(method, scale)}
    return sum(
        key not in there or not today.is_current(there[key], identity, declared.get(key))
        for key, identity in wanted.items()
    )


def _verdicts(ours: inputs.Report | None, theirs: inputs.Report) -> dict[str, tuple[str, str]]:
    found = {}
    for claim in theirs.paper.claims:
        pair = ours.claim_verdict(claim.id) if ours else "", theirs.claim_verdict(claim.id)
        if {*pair} - {"", "untested"}:
            found[claim.id] = pair
    return found


def _numbers(ours: inputs.Report, theirs: list[Record]) -> Numbers:
    timed = {name for name, card in ours.experiment.measurements.items() if card.timing}
    known = {
        (run["arm"], run["seed"], m["name"], at_key(m["at"])): float(m["value"])
        for run in ours.results.records
        for m in run["measurements"]
    }
    common = equal = 0
    largest, where = 0.0, ""
    for run in theirs:
        for m in run["measurements"]:
            place = run["arm"], run["seed"], m["name"], at_key(m["at"])
            if m["name"] in timed or place not in known:
                continue
            one, other = known[place], float(m["value"])
            common, equal = common + 1, equal + (one == other)
            apart = abs(one - other) / max(abs(one), abs(other), 1e-300)
            if apart > largest:
                largest, where = apart, f"{m['name']}[{run['arm']}]"
    copies = len({*map(birth, ours.results.records)} & {*map(birth, theirs)})
    return Numbers(common, equal, largest, where, copies, len(theirs))


def birth(run: Record) -> tuple[Any, ...]:
    """What two runs share only if they are one."""
    return run["arm"], run["seed"], run["started"], run["wall_s"], records.measured_sha256(run)


def about(folder: Path) -> dict[str, Any]:
    """What was noted when a folder was imported.

    Raises:
        ReproError: it is missing or damaged.
    """
    found = documents.read_json(folder / ABOUT, dict)
    if not {"machine", "archive_sha256", "exported", "suite"} <= found.keys():
        raise ReproError(f"{short(folder / ABOUT)}: is not the note of an import; import it again")
    return found
