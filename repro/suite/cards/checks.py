"""`checks.yaml`: what must come out, claim by claim, and why it came out otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from repro.suite import expression
from repro.suite.cards.base import Name, Strict
from repro.suite.words import Scale, Tier


class CheckCard(Strict):
    """An expression over measurements that a claim predicts, with the threshold's reason.

    ``least``: the smallest effect that would matter, a ratio above 1 where the sides are positive
    quantities and else a difference; the high side has to exceed the low one by it. ``needs``: ids
    of preconditions. ``control``: names in the expression (arms, or ``key=value``) and what takes
    their place in a check that must not hold.
    """

    id: Name
    tier: Tier
    expect: str
    why: str
    least: float | None = Field(None, gt=0)
    needs: list[Name] = []
    control: dict[str, str] = {}
    paper: str | None = None
    comparable: bool = False


class Precondition(Strict):
    """What must hold at every seed before the checks that need it may decide anything."""

    expect: str
    why: str


class Finding(Strict):
    """Why a claim came out as it did, and the experiment that shows it."""

    text: str
    scale: Scale | None = None


class Expectation(Strict):
    """What one claim predicts, and what was found."""

    checks: list[CheckCard] = []
    findings: list[Finding] = []


class Checks(Strict):
    """The checks and findings of a method, by the id of the claim that they are about."""

    claims: dict[Name, Expectation]
    preconditions: dict[Name, Precondition] = {}

    def each(self) -> Iterator[tuple[str, CheckCard]]:
        """Every check with the id of its claim, in the order of the card."""
        for claim, expectation in self.claims.items():
            for check in expectation.checks:
                yield claim, check

    def findings(self, claim: str, scale: str) -> list[str]:
        """What was found about a claim, at every scale or at this one."""
        if claim not in self.claims:
            return []
        return [f.text for f in self.claims[claim].findings if f.scale in (None, scale)]


@dataclass(frozen=True)
class Check:
    """A check as it is judged: its card, its claim and its parsed expressions."""

    id: str
    claim: str
    tier: Tier
    expect: str
    why: str
    paper: str | None
    comparable: bool
    least: float | None
    needs: list[str]
    has_control: bool
    control: expression.Check | None
    """None where there is none, or where this scale does not measure it."""
    parsed: expression.Check
