"""A check taken apart into the comparisons that are judged one by one.

``a <= min(b, c)`` says two things, a <= b and a <= c, and each has to be shown; ``min(b, c) <= a``
says that one of b <= a and c <= a holds. The smallest of several noisy values is smaller than each
of them, so judging ``min`` as one number would find effects where there are none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from repro.suite.expression import TESTS, Call, Check, Lookup, Node, Number, Operation, Reference
from repro.suite.expression import text as written
from repro.suite.expression import value as value_of


@dataclass(frozen=True)
class Link:
    """One comparison, turned so that ``low op high`` is predicted, with ``<``, ``<=`` or ``==``.

    Attributes:
        positive: whether both sides are products, ratios, sums or means of measurements, and so may
            be compared by their ratio.
    """

    low: Node
    op: str
    high: Node

    @property
    def positive(self) -> bool:
        return _positive(self.low) and _positive(self.high)

    def sides(self, lookup: Lookup) -> tuple[float, float]:
        """Values of the side that is predicted to be low, and of the other.

        Raises:
            ReproError: one of them has no finite value.
        """
        return value_of(self.low, lookup, str(self)), value_of(self.high, lookup, str(self))

    def holds(self, lookup: Lookup) -> bool:
        """Whether the comparison is true, strictness included."""
        return TESTS[self.op](*self.sides(lookup))

    def __str__(self) -> str:
        return f"{written(self.low)} {self.op} {written(self.high)}"


Clause = tuple[Link, ...]
"""Links of which one at least has to hold."""


def clauses(check: Check) -> list[Clause]:
    """What a check says, as clauses that must all hold."""
    found: list[Clause] = []
    for op, (a, b) in zip(check.ops, itertools.pairwise(check.terms), strict=True):
        low, high, op = (b, a, op.replace(">", "<")) if op in (">", ">=") else (a, b, op)
        if op == "==":
            found.append((Link(low, op, high),))
            continue
        for lows in _parts(low, every="max", some="min"):
            for highs in _parts(high, every="min", some="max"):
                pairs = itertools.product(lows, highs)
                found.append(tuple(Link(one, op, other) for one, other in pairs))
    return found


def _parts(node: Node, every: str, some: str) -> Iterator[tuple[Node, ...]]:
    """A side as tuples of alternatives, all of which must hold: min and max at its top, scaled."""
    if isinstance(node, Call) and node.function == every:
        for argument in node.arguments:
            yield from _parts(argument, every, some)
    elif isinstance(node, Call) and node.function == some:
        inner = [list(_parts(argument, every, some)) for argument in node.arguments]
        yield from (tuple(itertools.chain(*chosen)) for chosen in itertools.product(*inner))
    elif (scaled := _scaled(node)) is not None:
        inside, again = scaled
        for part in _parts(inside, every, some):
            yield tuple(map(again, part))
    else:
        yield (node,)


def _scaled(node: Node) -> tuple[Node, Callable[[Node], Node]] | None:
    """What a positive number multiplies or divides, and how to do so again."""
    if not isinstance(node, Operation):
        return None
    op, left, right = node.op, node.left, node.right
    if op in ("*", "/") and _is_factor(right):
        return left, lambda one: Operation(op, one, right)
    if op == "*" and _is_factor(left):
        return right, lambda one: Operation("*", left, one)
    return None


def _is_factor(node: Node) -> bool:
    return isinstance(node, Number) and node.value > 0


def _positive(node: Node) -> bool:
    """Whether a node is built without differences, logarithms and negative numbers."""
    if isinstance(node, Number):
        return node.value > 0
    if isinstance(node, Reference):
        return True
    if isinstance(node, Call):
        return node.function != "log" and all(map(_positive, node.arguments))
    if node.op == "**":
        return _positive(node.left)
    return node.op != "-" and _positive(node.left) and _positive(node.right)
