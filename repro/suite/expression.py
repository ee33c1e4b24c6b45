"""A small, safe language for checks: arithmetic over measurements and one comparison.

Grammar (lowest to highest precedence)::

    check      := sum (("<" | "<=" | ">" | ">=" | "==") sum)+
    sum        := product (("+" | "-") product)*
    product    := unary (("*" | "/") unary)*
    unary      := "-" unary | power
    power      := atom ("**" unary)?
    atom       := number | function "(" sum ("," sum)* ")" | "(" sum ")" | reference
    reference  := measurement "[" arm ("," key "=" value)* "]"

Texts are bounded: at most `MOST_LETTERS` letters, `MOST_TOKENS` numbers, names and signs, and
`DEEPEST` brackets and signs within each other.

Arm names may contain dashes (``nfe[radd-nocache, steps=64]``): inside brackets the text up to a
comma is a name, not arithmetic. A value with ``*`` means every coordinate that matches it; it
stands only directly inside min, max or mean. Nothing is ever handed to ``eval``.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, TypeAlias

from repro.coordinates import at_key
from repro.documents import one_line
from repro.errors import ReproError, nearest

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<reference>[A-Za-z_]\w*\s*\[[^\]\[]*\])"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>\*\*|<=|>=|==|<|>|[-+*/(),]))",
    re.ASCII,
)
MOST_LETTERS = 2000
MOST_TOKENS = 400
DEEPEST = 30
LARGEST = 1e150
"""Magnitude of the largest value that is computed with: differences and squares stay finite."""
MOST_MEANT = 5000
"""Most measurements that the wildcards of one check may mean."""

FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "min": lambda *xs: min(xs),
    "max": lambda *xs: max(xs),
    "mean": lambda *xs: sum(xs) / len(xs),
    "log": math.log,
    "exp": math.exp,
    "sqrt": math.sqrt,
}
OF_MANY = ("min", "max", "mean")
"""Functions of two arguments or more, or of a wildcard."""
TESTS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class Reference:
    """A measurement of one arm: ``name[arm, key=value, …]``."""

    name: str
    arm: str
    at: str

    @functools.cached_property
    def coordinates(self) -> dict[str, str]:
        return dict(part.split("=", 1) for part in self.at.split(",") if part)

    def renamed(self, places: Mapping[str, str]) -> Reference:
        """The same measurement of another arm or at other coordinates."""
        parts = [places.get(part, part) for part in self.at.split(",") if part]
        at = at_key(dict(part.split("=", 1) for part in parts))
        return Reference(self.name, places.get(self.arm, self.arm), at)

    def __str__(self) -> str:
        return f"{self.name}[{self.arm}{', ' + self.at.replace(',', ', ') if self.at else ''}]"


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Call:
    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Operation:
    op: str
    left: Node
    right: Node


Node: TypeAlias = "Number | Reference | Call | Operation"
Lookup = Callable[[Reference], float]


@dataclass(frozen=True)
class Check:
    """A parsed comparison chain ``terms[0] ops[0] terms[1] …``."""

    text: str
    terms: tuple[Node, ...]
    ops: tuple[str, ...]

    def references(self) -> list[Reference]:
        """The measurements that the check needs, in reading order, without repeats."""
        return list(self._references)

    @functools.cached_property
    def _references(self) -> dict[Reference, None]:
        return dict.fromkeys(r for term in self.terms for r in references_in(term))

    def expanded(self, meant: Mapping[Reference, Sequence[Reference]]) -> Check:
        """The same with each wildcard replaced by the references that it means.

        Raises:
            ReproError: they are more than `MOST_MEANT`.
        """
        if "*" not in self.text:
            return self
        if sum(map(len, meant.values())) > MOST_MEANT:
            raise ReproError(
                f"check `{one_line(self.text, 120)}`: its wildcards mean more than {MOST_MEANT} "
                "measurements"
            )
        return replace(self, terms=tuple(_expanded(term, meant) for term in self.terms))

    def renamed(self, names: Mapping[str, str]) -> Check:
        """The same about something else: ``names`` maps a measurement, an arm or ``key=value``.

        Raises:
            ReproError: a name does not occur, or a side would be compared with itself.
        """
        whole = {_reference(a): _reference(b) for a, b in names.items() if "[" in a}
        parts = {canonical_place(a): canonical_place(b) for a, b in names.items() if "[" not in a}
        used = {name for r in self.references() for name in (r.arm, *r.at.split(","))}
        for name in names:
            if not ({canonical_place(name)} & used or _reference(name) in self._references):
                raise ReproError(f"`{name}` does not occur in `{self.text}`")
        for a, b in parts.items():
            if ("=" in a) != ("=" in b):
                raise ReproError(f"`{b}` cannot take the place of `{a}`; one is key=value")
        terms = tuple(_mapped(t, lambda r: whole.get(r) or r.renamed(parts)) for t in self.terms)
        return parse(Check("", terms, self.ops).written())

    def written(self) -> str:
        """The check as it would be written."""
        words = [text(self.terms[0])]
        for op, term in zip(self.ops, self.terms[1:], strict=True):
            words += [op, text(term)]
        return " ".join(words)

    def sides(self, lookup: Lookup) -> list[float]:
        """The value of every term of the chain."""
        return [value(term, lookup, self.text) for term in self.terms]

    def holds(self, lookup: Lookup) -> bool:
        """Whether the comparison is true, strictness included."""
        values = self.sides(lookup)
        links = zip(self.ops, values, values[1:], strict=False)
        return all(TESTS[op](a, b) for op, a, b in links)


@functools.cache
def parse(text: str) -> Check:
    """Parse a check.

    Raises:
        ReproError: the text is not a comparison of this grammar, or not within its bounds.
    """
    return _Parser(text).check()


def _reference(name: str) -> Reference | None:
    """The measurement that a text such as ``nfe[ours, steps=4]`` names; None for other names."""
    if "[" not in name:
        return None
    found = parse(f"{name} < 0").terms[0]
    if not isinstance(found, Reference):
        raise ReproError(f"`{name}` is not one measurement")
    return found


def canonical_place(name: str) -> str:
    """An arm as it is, ``key=value`` as references hold it."""
    key, equals, value = name.partition("=")
    return at_key({key.strip(): value.strip()}) if equals else name


def _mapped(node: Node, change: Callable[[Reference], Reference]) -> Node:
    if isinstance(node, Reference):
        return change(node)
    if isinstance(node, Call):
        return replace(node, arguments=tuple(_mapped(a, change) for a in node.arguments))
    if isinstance(node, Operation):
        return replace(node, left=_mapped(node.left, change), right=_mapped(node.right, change))
    return node


_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 4}


def text(node: Node, outer: int = 0) -> str:
    """A node as it would be written."""
    if isinstance(node, Number):
        return f"{node.value:.15g}"
    if isinstance(node, Reference):
        return str(node)
    if isinstance(node, Call):
        return f"{node.function}({', '.join(map(text, node.arguments))})"
    if node.op == "-" and node.left == Number(0.0):
        return f"-{text(node.right, 3)}"
    own = _BINDING[node.op]
    inside = f"{text(node.left, own)} {node.op} {text(node.right, own + 1)}"
    return f"({inside})" if own < outer else inside


def references_in(node: Node) -> Iterator[Reference]:
    """The measurements that a side mentions, in reading order, with repeats."""
    if isinstance(node, Reference):
        yield node
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from references_in(argument)
    elif isinstance(node, Operation):
        yield from references_in(node.left)
        yield from references_in(node.right)


def _expanded(node: Node, meant: Mapping[Reference, Sequence[Reference]]) -> Node:
    if isinstance(node, Operation):
        return replace(node, left=_expanded(node.left, meant), right=_expanded(node.right, meant))
    if not isinstance(node, Call):
        return node
    arguments: list[Node] = []
    for argument in node.arguments:
        if isinstance(argument, Reference) and "*" in argument.at:
            arguments += meant[argument]
        else:
            arguments.append(_expanded(argument, meant))
    return replace(node, arguments=tuple(arguments))


def value(node: Node, lookup: Lookup, text: str) -> float:
    """The value of one term of the check ``text``.

    Raises:
        ReproError: it has no finite value (division by zero, log of ≤ 0, NaN).
    """
    try:
        found = float(_evaluate(node, lookup))
    except (ZeroDivisionError, ValueError, OverflowError) as error:
        raise ReproError(f"check `{text}` has no value: {error}") from error
    if not math.isfinite(found):
        raise ReproError(f"check `{text}` has no finite value: a side is {found}")
    return found


def _evaluate(node: Node, lookup: Lookup) -> float:
    """The value of a term.

    Raises:
        ArithmeticError, ValueError: it, or a part of it, has none, or one beyond `LARGEST`; what
            overflows may not vanish in `1 / x` or `min`.
    """
    if isinstance(node, Number):
        return node.value
    found = lookup(node) if isinstance(node, Reference) else _computed(node, lookup)
    if not abs(found) <= LARGEST:
        what = f"`{node}`" if isinstance(node, Reference) else "a part of it"
        raise OverflowError(f"{what} is {found:.3g}, not finite or beyond {LARGEST:g}")
    return found


def _computed(node: Call | Operation, lookup: Lookup) -> float:
    if isinstance(node, Call):
        return FUNCTIONS[node.function](*(_evaluate(a, lookup) for a in node.arguments))
    a, b = _evaluate(node.left, lookup), _evaluate(node.right, lookup)
    if node.op == "+":
        return a + b
    if node.op == "-":
        return a - b
    if node.op == "*":
        return a * b
    if node.op == "/":
        return a / b
    power = a**b
    if isinstance(power, complex):
        raise ValueError(f"{a} ** {b} is not real")
    return power


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        self.depth = 0
        position = 0
        if len(text) > MOST_LETTERS:
            self.fail(f"has {len(text)} letters, at most {MOST_LETTERS} are read")
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                self.fail(f"unexpected `{one_line(text[position:], 12)}`")
            self.tokens.append((str(match.lastgroup), match.group().strip()))
            position = match.end()
        if len(self.tokens) > MOST_TOKENS:
            self.fail(
                f"has {len(self.tokens)} numbers, names and signs, at most {MOST_TOKENS} are read"
            )
        self.index = 0

    def fail(self, why: str) -> NoReturn:
        raise ReproError(f"check `{one_line(self.text, 120)}`: {why}")

    def peek(self) -> str:
        return self.tokens[self.index][1] if self.index < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> tuple[str, str]:
        if self.index >= len(self.tokens):
            self.fail(f"ends where {expected or 'a term'} was expected")
        kind, value = self.tokens[self.index]
        if expected is not None and value != expected:
            self.fail(f"expected `{expected}`, found `{value}`")
        self.index += 1
        return kind, value

    def check(self) -> Check:
        terms, ops = [self.sum()], []
        while self.peek() in TESTS:
            ops.append(self.take()[1])
            terms.append(self.sum())
        if self.index < len(self.tokens):
            self.fail(f"unexpected `{self.peek()}`")
        if not ops:
            self.fail("needs a comparison (<, <=, >, >= or ==)")
        for term, op, other in zip(terms, ops, terms[1:], strict=False):
            if term == other:
                self.fail(f"a side of `{op}` is compared with itself")
        return Check(self.text, tuple(terms), tuple(ops))

    def sum(self) -> Node:
        node = self.product()
        while self.peek() in ("+", "-"):
            node = Operation(self.take()[1], node, self.product())
        return node

    def product(self) -> Node:
        node = self.unary()
        while self.peek() in ("*", "/"):
            node = Operation(self.take()[1], node, self.unary())
        return node

    def unary(self) -> Node:
        """Everything that stands within something else passes here."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"is nested deeper than {DEEPEST} levels")
        if self.peek() == "-":
            self.take()
            node: Node = Operation("-", Number(0.0), self.unary())
        else:
            node = self.power()
        self.depth -= 1
        return node

    def power(self) -> Node:
        node = self.atom()
        if self.peek() == "**":
            self.take()
            node = Operation("**", node, self.unary())
        return node

    def atom(self) -> Node:
        kind, value = self.take()
        if kind == "number":
            return self.number(value)
        if kind == "reference":
            reference = self.reference(value)
            if "*" in reference.at:
                self.fail(
                    f"`{reference}` holds a `*`; it stands only directly inside min, max or mean"
                )
            return reference
        if kind == "name":
            if value not in FUNCTIONS:
                name = one_line(value, 40)
                self.fail(
                    f"`{name}` is neither a function ({', '.join(FUNCTIONS)}) nor a measurement "
                    f"with its arm, as in `{name}[arm]`{nearest(value, FUNCTIONS)}"
                )
            return self.call(value)
        if value == "(":
            node = self.sum()
            self.take(")")
            return node
        return self.fail(f"unexpected `{value}`")

    def number(self, text: str) -> Number:
        value = float(text)
        if value > LARGEST:
            self.fail(f"`{one_line(text, 24)}` is beyond {LARGEST:g}")
        return Number(value)

    def call(self, function: str) -> Call:
        many = function in OF_MANY
        self.take("(")
        arguments = [self.argument(many)]
        while self.peek() == ",":
            self.take()
            arguments.append(self.argument(many))
        self.take(")")
        if not many and len(arguments) != 1:
            self.fail(f"`{function}` takes one argument, found {len(arguments)}")
        if many and len(arguments) == 1 and "*" not in getattr(arguments[0], "at", ""):
            self.fail(f"`{function}` of one value; it takes two or more, or one with a `*`")
        return Call(function, tuple(arguments))

    def argument(self, many: bool) -> Node:
        """An argument; one that is a reference and nothing else may hold a wildcard."""
        alone = self.index + 1 < len(self.tokens) and self.tokens[self.index + 1][1] in (",", ")")
        if many and alone and self.tokens[self.index][0] == "reference":
            return self.reference(self.take()[1])
        return self.sum()

    def reference(self, text: str) -> Reference:
        name, inside = text[:-1].split("[", 1)
        parts = [part.strip() for part in inside.split(",")]
        at: dict[str, object] = {}
        for part in parts[1:]:
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not key or not value:
                self.fail(f"in `{one_line(text, 60)}` expected key=value, found `{part}`")
            if key in at:
                self.fail(f"in `{one_line(text, 60)}` the coordinate `{key}` stands twice")
            at[key] = value
        if not parts[0]:
            self.fail(f"`{one_line(text, 60)}` names no arm")
        return Reference(name.strip(), parts[0], at_key(at))
