"""Effects of different checks on one axis: each divided by the least effect that matters to it.

An effect is how far the side that is predicted to be high lies above the other: the logarithm of
their ratio where both are positive quantities, else their difference. Divided by the least effect
that matters, 1 is that least and 0 is no effect. What a check names as its least is either its
``least`` or the constant in its expression: ``a <= 0.8 * b`` asks for a ratio of 1.25.

Where the constant leaves room on the other side (``a <= 1.05 * b``, ``abs(a - b) <= 0.1``), it says
which loss is the largest that does not matter; then the claim holds beyond −1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.suite.expression import Call, Node, Number, Operation, Reference
from repro.suite.links import Link
from repro.suite.report.site.evidence import Evidence

RATIOS = frozenset({"ratio", "speedup"})
"""Words in the name of a measurement that is itself a ratio of two arms."""

ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Sides:
    """A link as a comparison of two terms: ``low <= factor * high + shift``.

    A side that is a constant is None: the other is held against a fixed bound.
    """

    low: Node | None
    high: Node | None
    factor: float = 1.0
    shift: float = 0.0

    @property
    def is_bound(self) -> bool:
        return self.low is None or self.high is None


@dataclass(frozen=True)
class Effect:
    """An effect in units of the least that matters.

    Attributes:
        value: mean over the seeds; `low` and `high` end its interval.
        threshold: the claim holds above it: 1, or −1 where the check allows that much loss.
        paper: the paper's own effect, in the paper's metric, divided by the same.
    """

    value: float
    low: float
    high: float
    threshold: float
    seeds: tuple[float, ...]
    paper: float | None = None

    @property
    def distance(self) -> float:
        """How far on the predicted side of its threshold the effect lies."""
        return self.value - self.threshold


def effect(evidence: Evidence, paper: str, numbers: tuple[float, float] | None) -> Effect | None:
    """The effect of a comparison; None where the check names no size to divide it by.

    Args:
        paper: what the paper says beside the check, as the page prints it.
        numbers: baseline and method of the claim, where the check has no number of its own.
    """
    result, judged = evidence.result, evidence.judged
    if result.get("p") is None:
        return None
    unit = least(judged.link, judged.by_ratio, evidence.check.least)
    if unit is None:
        return None
    size, threshold = unit
    own = of_the_paper(evidence, paper, numbers if threshold > 0 else None)
    value, low, high = (
        threshold + float(result[key]) / size for key in ("margin", "margin_low", "margin_high")
    )
    return Effect(
        value,
        low,
        high,
        threshold=threshold,
        seeds=tuple(threshold + float(m) / size for m in result["margins"]),
        paper=None if own is None else own / size,
    )


def least(link: Link, by_ratio: bool, given: float | None) -> tuple[float, float] | None:
    """The least effect that matters to a link and the side of 0 on which it stands, or None.

    Args:
        by_ratio: whether effects are logarithms of ratios.
        given: the `least` of the check.
    """
    if given is not None:
        size = math.log(given) if by_ratio else given
        return (size, 1.0) if size > ROUND_OFF else None
    sides = split(link, by_ratio)
    if by_ratio:
        if sides.shift or (sides.is_bound and not _is_ratio(sides.low or sides.high)):
            return None
        asked = -math.log(sides.factor)
    else:
        asked = -sides.shift
        if sides.is_bound and not _is_distance(sides.low or sides.high):
            return None
    if abs(asked) < ROUND_OFF:
        return None
    return abs(asked), math.copysign(1.0, asked)


def _is_ratio(node: Node | None) -> bool:
    return isinstance(node, Reference) and bool(RATIOS & set(node.name.split("_")))


def _is_distance(node: Node | None) -> bool:
    return isinstance(node, Call) and node.function == "abs"


def split(link: Link, by_ratio: bool) -> Sides:
    """A link as the comparison of two terms with what its constants ask between them."""
    if by_ratio:
        low_factor, low = _scaled(link.low)
        high_factor, high = _scaled(link.high)
        if high_factor / low_factor > 0:
            return Sides(*_opened(low, high, "/"), high_factor / low_factor)
    low_shift, low = _shifted(link.low)
    high_shift, high = _shifted(link.high)
    return Sides(*_opened(low, high, "-"), shift=high_shift - low_shift)


def _opened(low: Node | None, high: Node | None, op: str) -> tuple[Node | None, Node | None]:
    """Beside a constant, the two terms of a ratio or of a difference."""
    if low is None and isinstance(high, Operation) and high.op == op:
        return high.right, high.left
    if high is None and isinstance(low, Operation) and low.op == op:
        return low.left, low.right
    return low, high


def _scaled(node: Node) -> tuple[float, Node | None]:
    """A term as constant times the rest; the rest of a constant is None."""
    if isinstance(node, Number):
        return node.value or 1.0, None
    if isinstance(node, Operation) and node.op in ("*", "/") and isinstance(node.right, Number):
        factor, rest = _scaled(node.left)
        value = node.right.value or 1.0
        return (factor * value if node.op == "*" else factor / value), rest
    if isinstance(node, Operation) and node.op == "*" and isinstance(node.left, Number):
        factor, rest = _scaled(node.right)
        return factor * (node.left.value or 1.0), rest
    return 1.0, node


def _shifted(node: Node) -> tuple[float, Node | None]:
    """A term as constant plus the rest."""
    if isinstance(node, Number):
        return node.value, None
    if isinstance(node, Operation) and node.op in ("+", "-") and isinstance(node.right, Number):
        shift, rest = _shifted(node.left)
        return (shift + node.right.value if node.op == "+" else shift - node.right.value), rest
    return 0.0, node


# The paper's effect ------------------------------------------------------------------------------

_TWO = re.compile(r"[A-Za-z ]*(\d+\.?\d*)[ A-Za-z%]*?(?:against|beside|and|[<>])[ ]*(\d+\.?\d*)\b")
_ONE = re.compile(r"\d+\.?\d*")


def of_the_paper(
    evidence: Evidence, paper: str, numbers: tuple[float, float] | None
) -> float | None:
    """The logarithm of the paper's ratio, positive as the check predicts; None if it prints none.

    Two numbers stand in the order of the sides of the check; a single one beside a measurement
    that is a ratio is that ratio.
    """
    if not evidence.judged.by_ratio:
        return None
    sides = split(evidence.judged.link, True)
    if sides.is_bound:
        return _printed_ratio(sides, paper.strip())
    if not (isinstance(sides.low, Reference) and isinstance(sides.high, Reference)):
        return None
    match = _TWO.match(paper)
    if match is not None:
        first, second = map(float, match.groups())
        if evidence.check.parsed.ops[0] in (">", ">="):
            first, second = second, first
        return math.log(second / first) if first > 0 and second > 0 else None
    if numbers is None or min(numbers) <= 0:
        return None
    return abs(math.log(numbers[0] / numbers[1]))


def _printed_ratio(sides: Sides, paper: str) -> float | None:
    """The logarithm of a single number beside a measurement that is a ratio."""
    if not (_ONE.fullmatch(paper) and _is_ratio(sides.low or sides.high) and float(paper) > 0):
        return None
    return math.log(float(paper)) * (1 if sides.low is None else -1)


def claim_numbers(claim: Any, result: Mapping[str, Any], own: bool) -> tuple[float, float] | None:
    """Baseline and method of a claim that the paper measured, where both are numbers.

    own: whether the check has a number of its own, which then stands for it.
    """
    pair = (claim.baseline, claim.method)
    known = all(isinstance(v, int | float) and not isinstance(v, bool) for v in pair)
    return pair if known and not own and claim.kind == "empirical" else None
