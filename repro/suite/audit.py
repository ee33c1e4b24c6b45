"""The judge on trial: what becomes of its verdicts when the records it reads are tampered with.

Each mutation of the runs of an arm ought to be noticed: the judge refuses it, or a check that reads
the arm changes its verdict. An arm whose mutation nobody notices proves nothing; one that no check
reads is named apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from repro.errors import ReproError
from repro.suite import verdict
from repro.suite.cards.checks import Check
from repro.suite.cards.method import Method
from repro.suite.records import Record

Runs = list[Record]
Mutation = Callable[[Method, Runs, str], Runs | None]
"""Changes the runs of an arm; None where that is not possible."""


@dataclass(frozen=True)
class Trial:
    """One mutation of one arm.

    Attributes:
        noticed: how, "refused" or the checks that change; empty where nobody noticed.
    """

    method: str
    arm: str
    mutation: str
    noticed: str


def trials(method: Method, scale: str, runs: Runs) -> Iterator[Trial]:
    """Every mutation of every arm that a check reads, judged."""
    before = verdicts(method, scale, runs)
    readers = readers_of(method, scale)
    for arm in method.arms(scale):
        for name, mutate in MUTATIONS.items():
            if arm in readers and (changed := mutate(method, copy.deepcopy(runs), arm)) is not None:
                yield Trial(method.slug, arm, name, _noticed(method, scale, changed, before))


def unread(method: Method, scale: str) -> list[str]:
    """The arms of a scale that no check reads."""
    readers = readers_of(method, scale)
    return [arm for arm in method.arms(scale) if arm not in readers]


def verdicts(method: Method, scale: str, runs: Runs) -> dict[str, str]:
    """Verdict of every check by its id.

    Raises:
        ReproError: the records cannot be judged.
    """
    return {c["id"]: c["verdict"] for c in verdict.judge(method, scale, runs)["checks"]}


def readers_of(method: Method, scale: str) -> dict[str, list[str]]:
    """Arm → the checks that read it, preconditions and controls included."""
    found: dict[str, list[str]] = {}
    gates = method.preconditions(scale)
    for check in method.checks(scale).values():
        for arm in _arms(check, [gates[name] for name in check.needs]):
            found.setdefault(arm, []).append(check.id)
    return found


def _arms(check: Check, gates: Iterable) -> dict[str, None]:
    parsed = [check.parsed, check.control, *gates]
    return dict.fromkeys(r.arm for one in parsed if one is not None for r in one.references())


def _noticed(method: Method, scale: str, runs: Runs, before: dict[str, str]) -> str:
    try:
        after = verdicts(method, scale, runs)
    except ReproError:
        return "refused"
    return ", ".join(name for name in before if before[name] != after[name])


# Mutations ------------------------------------------------------------------------------------


def swapped(method: Method, runs: Runs, arm: str) -> Runs | None:
    """The arm's numbers under the name of another that measures the same, and the reverse."""
    other = _alike(method, runs, arm)
    if other is None:
        return None
    names = {arm: other, other: arm}
    return [{**run, "arm": names.get(run["arm"], run["arm"])} for run in runs]


def copied(method: Method, runs: Runs, arm: str) -> Runs | None:
    """The numbers of another arm that measures the same in place of the arm's."""
    other = _alike(method, runs, arm)
    if other is None:
        return None
    taken = [{**run, "arm": arm} for run in runs if run["arm"] == other]
    return [run for run in runs if run["arm"] != arm] + taken


def twice_as_bad(method: Method, runs: Runs, arm: str) -> Runs | None:
    """A baseline whose numbers are twice as bad in every measurement that has a better side."""
    if not method.experiment.arms[arm].baseline:
        return None
    directions = {name: card.direction for name, card in method.experiment.measurements.items()}
    changed = False
    for run in runs:
        for measured in run["measurements"] if run["arm"] == arm else ():
            factor = {"lower": 2.0, "higher": 0.5}.get(directions[measured["name"]], 1.0)
            changed = changed or factor != 1.0
            measured["value"] *= factor
    return runs if changed else None


def constant(method: Method, runs: Runs, arm: str) -> Runs | None:
    """Every measurement of the arm is 1, at every seed and coordinate."""
    for run in runs:
        for measured in run["measurements"] if run["arm"] == arm else ():
            measured["value"] = 1.0
    return runs


def seeds_equal(method: Method, runs: Runs, arm: str) -> Runs | None:
    """The first seed's numbers under every seed of a random arm."""
    own = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"])
    if len(own) < 2:
        return None
    for run in own[1:]:
        run["measurements"] = copy.deepcopy(own[0]["measurements"])
    return runs


def seed_missing(method: Method, runs: Runs, arm: str) -> Runs | None:
    """One seed of a random arm is not there."""
    own = [run for run in runs if run["arm"] == arm]
    return [run for run in runs if run is not own[1]] if len(own) > 1 else None


MUTATIONS: dict[str, Mutation] = {
    "swapped with another arm": swapped,
    "copy of another arm": copied,
    "baseline twice as bad": twice_as_bad,
    "constant": constant,
    "all seeds equal": seeds_equal,
    "a seed missing": seed_missing,
}


def _alike(method: Method, runs: Runs, arm: str) -> str | None:
    """Another arm with measurements at the same places and seeds."""
    places = {
        name: {
            (run["seed"], m["name"], str(m["at"]))
            for run in runs
            if run["arm"] == name
            for m in run["measurements"]
        }
        for name in method.experiment.arms
    }
    return next((n for n in places if n != arm and places[n] and places[n] == places[arm]), None)
