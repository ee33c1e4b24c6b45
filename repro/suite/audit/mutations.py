"""Mutations of records: each ought to be refused, or to change a verdict that reads the arm.

Left out, by what the cards say and not by name:

* arms that no check reads (they are listed, and prove nothing);
* arms all of whose checks are undecided before: there is no verdict to lose;
* exchanges with an arm that no ordered link sets against it: the expression is symmetric in both;
* exchanges and copies where a claim of no difference (``a <= 1.05 * b``) holds for them as well;
* of arms that are read as controls alone, what makes them fail in another way: they have to fail.

A baseline that is twice as bad helps the method. What notices it is a bound on its worse side: a
control, a precondition, ``beats``. Where nothing does, the trial says from which factor on
something would.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from repro.coordinates import at_key
from repro.errors import ReproError
from repro.suite import links, verdict
from repro.suite.cards.checks import Check
from repro.suite.cards.method import Method
from repro.suite.expression import Node, Reference, references_in
from repro.suite.links import Link
from repro.suite.records import Record

Runs = list[Record]
Values = dict[tuple[int, str, str], float]
"""(seed, measurement, coordinates) → value, of one arm."""
FURTHER = (4.0, 16.0, 256.0)
"""How many times as bad a baseline is made to find what bounds it."""


@dataclass(frozen=True)
class Trial:
    """One mutation of one arm.

    Attributes:
        noticed: how, "refused" or the checks that change; empty where nobody noticed.
        why: what is missing, where nobody noticed.
    """

    method: str
    arm: str
    mutation: str
    noticed: str
    why: str = ""


@dataclass
class Audited:
    """What came of a method: the trials, and the arms that were left out, with the reason."""

    trials: list[Trial] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Court:
    """A method's runs with their verdicts, before anything is changed."""

    method: Method
    scale: str
    runs: Runs
    before: Mapping[str, str]

    @classmethod
    def of(cls, method: Method, scale: str, runs: Runs) -> Court:
        """Raises ReproError: the records cannot be judged."""
        return cls(method, scale, runs, verdicts(method, scale, runs))

    def noticed(self, runs: Runs) -> str:
        """How changed records are noticed."""
        try:
            after = verdicts(self.method, self.scale, runs)
        except ReproError:
            return "refused"
        return ", ".join(name for name in self.before if self.before[name] != after[name])

    def values(self, arm: str) -> Values:
        return {
            (run["seed"], m["name"], at_key(m["at"])): m["value"]
            for run in self.runs
            if run["arm"] == arm
            for m in run["measurements"]
        }

    def readers(self, arm: str) -> list[Check]:
        """The checks that read an arm, preconditions and controls included."""
        gates = self.method.preconditions(self.scale)
        return [
            check
            for check in self.method.checks(self.scale).values()
            if any(
                reference.arm == arm
                for parsed in (check.parsed, check.control, *(gates[n] for n in check.needs))
                if parsed is not None
                for reference in parsed.references()
            )
        ]

    def is_control(self, arm: str) -> bool:
        """Whether no check and no precondition reads it, only controls."""
        gates = [g for g in self.method.preconditions(self.scale).values() if g is not None]
        every = [check.parsed for check in self.method.checks(self.scale).values()] + gates
        return all(r.arm != arm for parsed in every for r in parsed.references())

    def opponents(self, arm: str) -> dict[str, list[Link]]:
        """Arm → the ordered links of decided checks that set it against ``arm``.

        Of a control also the arm that it takes the place of.
        """
        found: dict[str, list[Link]] = {}
        controls = {card.id: card.control for _, card in self.method.expected.each()}
        for check in self.readers(arm):
            if self.before[check.id] == "inconclusive":
                continue
            for link in (link for clause in links.clauses(check.parsed) for link in clause):
                for opponent in _against(link, arm):
                    found.setdefault(opponent, []).append(link)
            for old, new in controls[check.id].items():
                if new == arm and old in self.method.experiment.arms:
                    found.setdefault(old, [])
        return found


def audit(method: Method, scale: str, runs: Runs, quick: bool = False) -> Audited:
    """Every mutation of every arm that a check reads, judged.

    Args:
        quick: of the first arms alone.

    Raises:
        ReproError: the records cannot be judged as they are.
    """
    court, found = Court.of(method, scale, runs), Audited()
    for arm in method.arms(scale):
        readers = court.readers(arm)
        if not readers:
            found.left_out[arm] = "no check reads it"
        elif all(court.before[check.id] == "inconclusive" for check in readers):
            found.left_out[arm] = "none of its checks is decided"
        elif not quick or len({trial.arm for trial in found.trials}) < QUICK:
            found.trials += _trials(court, arm)
    return found


QUICK = 2
"""Arms of a method in the quick form."""


def _trials(court: Court, arm: str) -> Iterator[Trial]:
    for name, mutate in MUTATIONS.items():
        changed = mutate(court, arm)
        if changed is not None:
            noticed = court.noticed(changed)
            why = "" if noticed else _missing(court, arm, mutate)
            yield Trial(court.method.slug, arm, name, noticed, why)


def _missing(court: Court, arm: str, mutate: Mutation) -> str:
    """What would have noticed."""
    if mutate is not twice_as_bad:
        return "no margin of a check that reads it is that wide"
    for factor in FURTHER:
        changed = worse(court, arm, factor)
        if changed is not None and court.noticed(changed):
            return f"bounded on its worse side, at {factor:g} times"
    return "nothing bounds it on its worse side: no control, precondition or `beats`"


def verdicts(method: Method, scale: str, runs: Runs) -> dict[str, str]:
    """Verdict of every check by its id.

    Raises:
        ReproError: the records cannot be judged.
    """
    return {c["id"]: c["verdict"] for c in verdict.judge(method, scale, runs)["checks"]}


# Mutations ------------------------------------------------------------------------------------

Mutation = Callable[[Court, str], Runs | None]
"""The records with the runs of an arm changed; None where that is not possible."""


def swapped(court: Court, arm: str) -> Runs | None:
    """The arm's numbers under the name of its opponent, and the reverse."""
    return _exchanged(court, arm, both=True)


def copied(court: Court, arm: str) -> Runs | None:
    """The numbers of its opponent in place of the arm's."""
    return _exchanged(court, arm, both=False)


def _exchanged(court: Court, arm: str, both: bool) -> Runs | None:
    own = court.values(arm)
    for opponent, between in court.opponents(arm).items():
        other = court.values(opponent)
        common = {key for key in own if key in other and own[key] != other[key]}
        if not common or (between and not any(_is_touched(link, common) for link in between)):
            continue
        new = {arm: {key: other[key] for key in common}}
        if both:
            new[opponent] = {key: own[key] for key in common}
        if between and all(_still_holds(court, link, new) for link in between):
            continue
        return _with(court.runs, new)
    return None


def _is_touched(link: Link, common: set[tuple[int, str, str]]) -> bool:
    places = {(name, at) for _, name, at in common}
    return any((r.name, r.at) in places for r in _references(link))


def _still_holds(court: Court, link: Link, new: Mapping[str, Values]) -> bool:
    """Whether a link is true of changed values at every seed, as it is where nothing differs."""
    tables = {r.arm: {**court.values(r.arm), **new.get(r.arm, {})} for r in _references(link)}
    seeds = sorted({seed for table in tables.values() for seed, _, _ in table})

    def at(seed: int) -> Callable[[Reference], float]:
        def lookup(r: Reference) -> float:
            table = tables[r.arm]
            return table.get((seed, r.name, r.at), table.get((0, r.name, r.at), float("nan")))

        return lookup

    try:
        return all(link.holds(at(seed)) for seed in seeds)
    except ReproError:
        return False


def twice_as_bad(court: Court, arm: str) -> Runs | None:
    """A baseline whose numbers are twice as bad in every measurement that has a better side."""
    return worse(court, arm, 2.0)


def worse(court: Court, arm: str, factor: float) -> Runs | None:
    """A baseline that is so many times as bad; None for other arms and for mere controls."""
    if not court.method.experiment.arms[arm].baseline or court.is_control(arm):
        return None
    measurements = court.method.experiment.measurements
    factors = {"lower": factor, "higher": 1 / factor}
    new = {
        key: value * factors[measurements[key[1]].direction]
        for key, value in court.values(arm).items()
        if measurements[key[1]].direction in factors
    }
    read = {(r.name, r.at) for c in court.readers(arm) for r in c.parsed.references()}
    return _with(court.runs, {arm: new}) if read & {key[1:] for key in new} else None


def constant(court: Court, arm: str) -> Runs | None:
    """Every measurement of the arm is 1, at every seed and coordinate."""
    if court.is_control(arm) and court.method.experiment.arms[arm].deterministic:
        return None
    return _with(court.runs, {arm: dict.fromkeys(court.values(arm), 1.0)})


def seeds_equal(court: Court, arm: str) -> Runs | None:
    """The first seed's numbers under every seed of a random arm."""
    runs = copy.deepcopy(court.runs)
    own = sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"])
    if len(own) < 2:
        return None
    for run in own[1:]:
        run["measurements"] = copy.deepcopy(own[0]["measurements"])
    return runs


def seed_missing(court: Court, arm: str) -> Runs | None:
    """One seed of a random arm is not there."""
    own = [run for run in court.runs if run["arm"] == arm]
    return [run for run in court.runs if run is not own[1]] if len(own) > 1 else None


MUTATIONS: dict[str, Mutation] = {
    "method and baseline swapped": swapped,
    "copy of another arm": copied,
    "baseline twice as bad": twice_as_bad,
    "constant": constant,
    "all seeds equal": seeds_equal,
    "a seed missing": seed_missing,
}


def _with(runs: Runs, new: Mapping[str, Values]) -> Runs:
    """The records with other values of some arms."""
    changed = copy.deepcopy(runs)
    for run in changed:
        values = new.get(run["arm"], {})
        for measured in run["measurements"]:
            key = (run["seed"], measured["name"], at_key(measured["at"]))
            measured["value"] = values.get(key, measured["value"])
    return changed


def _references(link: Link) -> list[Reference]:
    return [*references_in(link.low), *references_in(link.high)]


def _against(link: Link, arm: str) -> dict[str, None]:
    """The arms on the other side of an ordered link than an arm, which stands on one side alone."""
    low, high = _arms(link.low), _arms(link.high)
    if link.op == "==" or (arm in low) == (arm in high):
        return {}
    return high if arm in low else low


def _arms(node: Node) -> dict[str, None]:
    return dict.fromkeys(r.arm for r in references_in(node))
