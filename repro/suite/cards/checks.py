"""`checks.yaml`: what must come out, and why it came out otherwise."""

from __future__ import annotations

import functools

from repro.suite import expression
from repro.suite.cards.base import Strict
from repro.suite.words import Scale, Tier


class CheckCard(Strict):
    """An expression over measurements that a claim predicts, with the threshold's reason."""

    claim: str
    tier: Tier
    expect: str
    why: str
    id: str | None = None
    scales: list[Scale] | None = None
    paper: str | None = None
    comparable: bool = False

    @functools.cached_property
    def parsed(self) -> expression.Check:
        return expression.parse(self.expect)


class Finding(Strict):
    """Why a claim came out as it did, and the experiment that shows it."""

    claim: str
    text: str
    scale: str | None = None
