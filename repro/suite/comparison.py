"""A comparison of random arms: its links over the seeds, and what they decide at a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.suite import inference, links
from repro.suite.cards.checks import Check
from repro.suite.expression import Lookup
from repro.suite.inference import Evidence
from repro.suite.links import Link

FIRST = min(inference.LOOKS)
"""Fewer seeds decide nothing."""

TOO_SMALL = "on the predicted side, but by less than the least effect that matters"


@dataclass(frozen=True, eq=False)
class Judged:
    """One link over the seeds.

    Attributes:
        by_ratio: whether margins are natural logarithms of the ratio of its sides.
        margins: one a seed, positive on the predicted side.
        holds: whether the link is true at each seed, strictness included.
        bar: the least effect that matters, as it was taken off the margins.
    """

    link: Link
    by_ratio: bool
    margins: list[float]
    holds: list[bool]
    evidence: Evidence
    bar: float = 0.0

    @property
    def shown(self) -> bool:
        """On the predicted side beyond the limit; seeds that agree show what holds for them."""
        if self.evidence.half_width == 0:
            return all(self.holds)
        return self.evidence.t >= inference.limit(self.evidence.n)

    @property
    def against(self) -> bool:
        """On the other side beyond the limit."""
        return self.evidence.t <= -inference.limit(self.evidence.n) and not any(self.holds)

    @property
    def too_small(self) -> bool:
        """Less than the least effect that matters, and yet on the predicted side for certain.

        The direction is as predicted; at another size than the paper's that is no contradiction.
        """
        if not self.against:
            return False
        return inference.evidence([margin + self.bar for margin in self.margins]).t >= (
            inference.limit(self.evidence.n)
        )


def judged(
    link: Link, lookups: Sequence[Lookup], ratios: bool = True, least: float | None = None
) -> Judged:
    """A link with its margins at every seed.

    Args:
        ratios: compare positive quantities by their ratio; an identity is held by its difference.
        least: the effect that the high side has to exceed the low one by, a ratio or a difference.

    Raises:
        ReproError: a side has no finite value.
    """
    low, high = np.array([link.sides(lookup) for lookup in lookups]).T
    positive = link.positive and link.op != "==" and bool((low > 0).all() and (high > 0).all())
    by_ratio = ratios and positive
    if by_ratio:
        margins = np.log(high) - np.log(low)
    else:
        margins = -abs(high - low) if link.op == "==" else high - low
    holds = [link.holds(lookup) for lookup in lookups]
    bar = 0.0
    if least is not None and link.op != "==":
        bar = float(np.log(least)) if by_ratio else least
        margins = margins - bar
        holds = [bool(margin >= 0) for margin in margins]
    return Judged(link, by_ratio, margins.tolist(), holds, inference.evidence(margins), bar)


@dataclass(frozen=True, eq=False)
class Look:
    """A check at its first n seeds."""

    clauses: list[list[Judged]]
    n: int

    @classmethod
    def at(cls, check: Check, lookups: Sequence[Lookup], ratios: bool = True) -> Look:
        """The links of a check over these seeds.

        Raises:
            ReproError: a side has no finite value.
        """
        found = links.clauses(check.parsed)
        clauses = [
            [judged(link, lookups, ratios, check.least) for link in clause] for clause in found
        ]
        return cls(clauses, len(lookups))

    @property
    def links(self) -> list[Judged]:
        return [link for clause in self.clauses for link in clause]

    @property
    def holds(self) -> list[bool]:
        """Whether every clause holds at each seed, by the least effect that matters."""
        return [
            all(any(link.holds[seed] for link in clause) for clause in self.clauses)
            for seed in range(self.n)
        ]

    @property
    def best(self) -> list[Judged]:
        """The link of each clause that speaks most for it."""
        return [max(clause, key=lambda link: link.evidence.t) for clause in self.clauses]

    @property
    def weakest(self) -> Judged:
        """The link on which the check hangs."""
        return min(self.best, key=lambda link: (link.evidence.t, link.evidence.mean))


def beyond(looks: Sequence[Look]) -> dict[Judged, bool]:
    """Which links of several checks stay beyond their limits when corrected together (Holm)."""
    every = [link for look in looks for link in look.links]
    return dict(zip(every, inference.holm([link.evidence for link in every]), strict=True))


def decide(look: Look, corrected: Mapping[Judged, bool]) -> tuple[str, str, Judged]:
    """Verdict, reason and deciding link of a check at a look.

    Args:
        corrected: for every link whether it stays beyond its limit within its claim.
    """
    weakest, n = look.weakest, look.n
    if n < FIRST:
        return "inconclusive", f"{n} seed(s): fewer than {FIRST} cannot bound it", weakest
    pairs = zip(look.best, look.clauses, strict=True)
    lost = [best for best, clause in pairs if _is_lost(clause, corrected)]
    if lost:
        worst = min(lost, key=lambda link: (link.too_small, link.evidence.t))
        if worst.too_small:
            return "inconclusive", TOO_SMALL, worst
        return "contradicted", "", worst
    if all(_is_shown(clause, corrected) for clause in look.clauses):
        return "reproduced", "", weakest
    if any(link.against for link in look.links):
        return "inconclusive", "against the prediction, but not after Holm's correction", weakest
    reason = f"|T| = {abs(weakest.evidence.t):.3g}; {inference.limit(n):.3g} decides at {n} seeds"
    return "inconclusive", reason, weakest


def _is_shown(clause: Sequence[Judged], corrected: Mapping[Judged, bool]) -> bool:
    """One link is on the predicted side; of several the best is corrected for being chosen."""
    if len(clause) == 1:
        return clause[0].shown
    return any(link.shown and corrected[link] for link in clause)


def _is_lost(clause: Sequence[Judged], corrected: Mapping[Judged, bool]) -> bool:
    """Every link is on the other side; a link alone is corrected, as any of them may be lost."""
    if len(clause) == 1:
        return clause[0].against and corrected[clause[0]]
    return all(link.against for link in clause)


def looks(seeds: int, first: int) -> list[int]:
    """The numbers of seeds at which a check is judged, of those that there are."""
    return [min(first, seeds), *(n for n in inference.LOOKS if first < n <= seeds)]


def next_look(seeds: int, most: int) -> int | None:
    """How many seeds an open check wants; None where the scale allows no more."""
    return next((n for n in sorted(inference.LOOKS) if seeds < n <= most), None)
