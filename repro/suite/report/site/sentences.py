"""A verdict in words: what was measured on which arms, against what, and how that was predicted.

The words are the titles of measurements and arms on the cards; the form follows from the deciding
link of the check, whatever its expression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.suite.cards.experiment import Experiment
from repro.suite.expression import Call, Node, Number, Operation, Reference, text
from repro.suite.report.formatting import number
from repro.suite.report.site import effects
from repro.suite.report.site.effects import Sides
from repro.suite.report.site.evidence import Evidence, references

COUNTED = {"nfe": "evaluations"}
"""Coordinates whose number stands before a name, beside those that end in s."""

SHORT = 3
"""Letters of a word that says little without its name, as `no`."""

MOST_NAMED = 3
LONGEST = 170
"""Measurements of a term, and letters of its phrase, beyond which it is shown as it is written."""


@dataclass(frozen=True)
class Words:
    """Names for measurements and arms of one experiment."""

    experiment: Experiment

    def measurement(self, reference: Reference) -> str:
        card = self.experiment.measurements.get(reference.name)
        title = (card.title if card else "") or reference.name.replace("_", " ")
        return title[:1].upper() + title[1:]

    def arm(self, reference: Reference) -> str:
        card = self.experiment.arms.get(reference.arm)
        return (card.title if card else "") or reference.arm

    def is_baseline(self, reference: Reference) -> bool:
        card = self.experiment.arms.get(reference.arm)
        return bool(card and card.baseline)

    def value(self, node: Node, value: float) -> str:
        """A value with the format and the unit of its measurement, where it has one."""
        card = _card(self.experiment, node)
        if card is None:
            return number(value)
        spec = "d" if value.is_integer() and 1e3 <= abs(value) < 1e15 else card.format
        return number(value, spec) + (f" {card.unit}" if card.unit else "")

    def term(self, node: Node) -> str:
        """A term as a phrase, or as it is written where it is long."""
        if len(references(node)) > MOST_NAMED:
            return f"`{text(node)}`"
        phrase = self._term(node)
        return phrase if len(phrase) <= LONGEST else f"`{text(node)}`"

    def _term(self, node: Node) -> str:
        if isinstance(node, Number):
            return number(node.value, ".6g")
        if isinstance(node, Reference):
            at = places(node.coordinates)
            return f"{_lower(self.measurement(node))} of {self.arm(node)}{f' ({at})' if at else ''}"
        if isinstance(node, Call):
            inside = [self._term(one) for one in node.arguments]
            joined = f"{', '.join(inside[:-1])} and {inside[-1]}" if inside[1:] else inside[0]
            names = {
                "abs": "the size of",
                "min": "the smaller of",
                "max": "the larger of",
                "mean": "the mean of",
            }
            return f"{names.get(node.function, node.function + ' of')} {joined}"
        if node.op == "-" and node.left == Number(0.0):
            return f"minus {self._term(node.right)}"
        if _are_alike(node.left, node.right) and node.op in ("/", "-"):
            head, one, other = self.alike(node.left, node.right)
            return f"{_lower(head)}, {one} {'over' if node.op == '/' else 'less'} {other}"
        signs = {"+": "plus", "-": "less", "*": "times", "/": "over", "**": "to the power"}
        left, right = (self._inside(node, side) for side in (node.left, node.right))
        return f"{left} {signs[node.op]} {right}"

    def _inside(self, outer: Operation, node: Node) -> str:
        """A term within another; a sum within a product stands in brackets."""
        phrase = self._term(node)
        is_sum = isinstance(node, Operation) and node.op in ("+", "-")
        return f"({phrase})" if is_sum and outer.op in ("*", "/", "**") else phrase

    def alike(self, one: Node, other: Node) -> tuple[str, str, str]:
        """One measurement of two arms or places: what is common, and a name for each."""
        assert isinstance(one, Reference) and isinstance(other, Reference)
        shared = {k: v for k, v in one.coordinates.items() if other.coordinates.get(k) == v}
        names = []
        for node, against in ((one, other), (other, one)):
            own = {k: v for k, v in node.coordinates.items() if k not in shared}
            at = places(own, against.coordinates)
            same = node.arm == against.arm
            names.append(at if same and at else self.arm(node) + (f" ({at})" if at else ""))
        where = [self.arm(one)] if one.arm == other.arm and names[0] != self.arm(one) else []
        where += [places(shared)] if shared else []
        head = self.measurement(one) + (f" ({', '.join(where)})" if where else "")
        return head, names[0], names[1]


def _are_alike(one: Node, other: Node) -> bool:
    return isinstance(one, Reference) and isinstance(other, Reference) and one.name == other.name


def _card(experiment: Experiment, node: Node):
    """The measurement that gives a term its unit: what it is, or what it is a sum or mean of."""
    if isinstance(node, Reference):
        return experiment.measurements.get(node.name)
    if isinstance(node, Call) and node.function in ("min", "max", "mean", "abs"):
        return _card(experiment, node.arguments[0])
    if isinstance(node, Operation) and node.op in ("+", "-"):
        return _card(experiment, node.right)
    return None


def places(coordinates: Mapping[str, str], beside: Mapping[str, str] | None = None) -> str:
    """Coordinates in words: `4 steps, noise 0.02`.

    A word says enough alone, unless it, or what stands `beside` it under the same name, is short.
    """
    beside = beside or {}
    return ", ".join(
        _place(key, value, [value, beside.get(key, value)]) for key, value in coordinates.items()
    )


def _place(key: str, value: str, values: Sequence[str]) -> str:
    name = key.replace("_", " ")
    if all(map(_is_number, values)):
        if key not in COUNTED and not key.endswith("s"):
            return f"{name} {value}"
        many = COUNTED.get(key, name)
        return f"{value} {many if float(value) != 1 else many.removesuffix('s')}"
    return value if all(_says_enough(one) for one in values) else f"{name} {value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _says_enough(text: str) -> bool:
    return len(text) > SHORT and text not in ("true", "false") and not _is_number(text)


def _lower(title: str) -> str:
    """A title within a sentence; an abbreviation stays as it is."""
    return title if title[1:2].isupper() or title[1:2].isdigit() else title[:1].lower() + title[1:]


# The sentence ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """What was seen, and how it stands to what was predicted."""

    seen: str
    predicted: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.seen}; predicted {self.predicted}, {self.outcome}."


def sentence(evidence: Evidence, experiment: Experiment) -> Sentence:
    """The verdict of a check in words."""
    words = Words(experiment)
    parsed = evidence.check.parsed
    if len(parsed.terms) == 3 and _is_between(parsed.terms):
        low, term, high = parsed.terms
        seen = _alone(words, term, evidence)
        predicted = f"between {words.term(low)} and {words.term(high)}"
        return Sentence(seen, predicted, _outcome(evidence, None))
    link = evidence.judged.link
    if link.op == "==":
        node, other = link.low, link.high
        if isinstance(node, Number):
            node, other = other, node
        exactly = "that" if _is_met(evidence, node, other) else _exactly(other, words)
        seen = _alone(words, node, evidence)
        return Sentence(seen, f"exactly {exactly}", _outcome(evidence, None))
    for form in (_distance, _bound, _pair):
        found = form(words, evidence)
        if found is not None:
            return found
    raise AssertionError("a link has two sides")


def _is_between(terms: tuple[Node, ...]) -> bool:
    return isinstance(terms[0], Number) and isinstance(terms[2], Number)


def _exactly(node: Node, words: Words) -> str:
    return f"{node.value:,.15g}" if isinstance(node, Number) else words.term(node)


def _is_met(evidence: Evidence, node: Node, other: Node) -> bool:
    return isinstance(other, Number) and evidence.values(node) == other.value


def _alone(words: Words, node: Node, evidence: Evidence) -> str:
    """`Parameters of A (size small): 162,265,682`."""
    value = words.value(node, evidence.values(node))
    phrase = words.term(node)
    return f"{phrase[:1].upper()}{phrase[1:]}: {value}"


def _distance(words: Words, evidence: Evidence) -> Sentence | None:
    """Two terms that should lie close to each other, or one close to a constant."""
    link = evidence.judged.link
    node = link.low
    if not (isinstance(node, Call) and node.function == "abs" and isinstance(link.high, Number)):
        return None
    inner, bound = node.arguments[0], link.high.value
    relative = isinstance(inner, Operation) and inner.op == "-" and inner.right == Number(1.0)
    if relative and isinstance(inner, Operation):
        ratio = inner.left
        if not (isinstance(ratio, Operation) and ratio.op == "/"):
            return None
        one, other, within = ratio.left, ratio.right, f"{_plain(100 * bound)} %"
    elif isinstance(inner, Operation) and inner.op == "-":
        one, other, within = inner.left, inner.right, _plain(bound)
    else:
        return None
    outcome = _outcome(evidence, None)
    if isinstance(other, Number):
        return Sentence(
            _alone(words, one, evidence), f"{number(other.value, '.9g')} within {within}", outcome
        )
    return Sentence(_both(words, one, other, evidence), f"within {within} of each other", outcome)


def _bound(words: Words, evidence: Evidence) -> Sentence | None:
    """A term against a constant."""
    sides = effects.split(evidence.judged.link, evidence.judged.by_ratio)
    link = evidence.judged.link
    if not sides.is_bound:
        return None
    if isinstance(link.high, Number):
        node, bound, most = link.low, link.high.value, True
    elif isinstance(link.low, Number):
        node, bound, most = link.high, link.low.value, False
    else:
        limit = sides.factor if evidence.judged.by_ratio else sides.shift
        node, most = sides.low or sides.high or link.low, sides.low is not None
        bound = limit if most else 1 / limit
    if (asked := evidence.check.least) is not None:
        size = (math.log(asked) if evidence.judged.by_ratio else asked) * (-1 if most else 1)
        bound = bound * math.exp(size) if evidence.judged.by_ratio else bound + size
    predicted = f"at {'most' if most else 'least'} {_plain(bound)}"
    return Sentence(_alone(words, node, evidence), predicted, _outcome(evidence, None))


def _pair(words: Words, evidence: Evidence) -> Sentence | None:
    """Two terms, of which one is predicted to be lower."""
    judged = evidence.judged
    by_ratio = judged.by_ratio or (evidence.result["p"] is None and judged.link.positive)
    by_ratio = by_ratio and not any(map(_has_shift, (judged.link.low, judged.link.high)))
    sides = effects.split(judged.link, by_ratio)
    low, high = sides.low, sides.high
    if low is None or high is None:
        return None
    first_is_low = _comes_first(words, evidence, low, high)
    one, other = (low, high) if first_is_low else (high, low)
    seen = _both(words, one, other, evidence)
    outcome = _outcome(evidence, evidence.values(high) - evidence.values(low))
    return Sentence(seen, _prediction(evidence, sides, by_ratio, first_is_low), outcome)


def _has_shift(node: Node) -> bool:
    """Whether a constant is added to a term."""
    return isinstance(node, Operation) and node.op in ("+", "-") and isinstance(node.right, Number)


def _comes_first(words: Words, evidence: Evidence, low: Node, high: Node) -> bool:
    """Whether the low side is named first: what is no baseline, else what is written first."""
    if isinstance(low, Reference) and isinstance(high, Reference):
        baselines = words.is_baseline(low), words.is_baseline(high)
        if baselines[0] != baselines[1]:
            return baselines[1]
    return evidence.check.parsed.ops[0] in ("<", "<=")


def _both(words: Words, one: Node, other: Node, evidence: Evidence) -> str:
    """`FID (4 steps): 48.9 for A against 26.9 for B`; names what the two have in common once."""
    values = [words.value(node, evidence.values(node)) for node in (one, other)]
    if not _are_alike(one, other):
        first = words.term(one)
        head = f"{first[:1].upper()}{first[1:]}"
        return f"{head}: {values[0]} against {values[1]} for {words.term(other)}"
    head, first, second = words.alike(one, other)
    return f"{head}: {values[0]} for {first} against {values[1]} for {second}"


def _prediction(evidence: Evidence, sides: Sides, by_ratio: bool, first_is_low: bool) -> str:
    """How the first of two terms is predicted to stand to the other."""
    given = evidence.check.least
    way, opposite = ("lower", "higher") if first_is_low else ("higher", "lower")
    asked = -math.log(sides.factor) if by_ratio else -sides.shift
    if given is not None:
        return f"{way} by {_size(given, by_ratio)} or more"
    if abs(asked) < effects.ROUND_OFF:
        return way if evidence.judged.link.op == "<" else f"not {opposite}"
    size = _size(math.exp(abs(asked)) if by_ratio else abs(asked), by_ratio)
    return f"{way} by {size} or more" if asked > 0 else f"{opposite} by {size} at most"


def _size(value: float, by_ratio: bool) -> str:
    return f"a factor of {number(value, '.3g')}" if by_ratio else number(value, ".3g")


def _outcome(evidence: Evidence, lead: float | None) -> str:
    """How it came out; `lead`: by how much the side that is predicted to be high is higher."""
    verdict = evidence.result["verdict"]
    reason = str(evidence.result.get("reason") or "")
    if verdict == "reproduced":
        return "and so it is"
    if verdict == "inconclusive":
        if reason.startswith("precondition"):
            return "but a precondition fails"
        if "control" in reason:
            return "but its control shows nothing"
        seeds = evidence.result["n_seeds"]
        return f"undecided at {seeds} seed{'s' if seeds != 1 else ''}"
    if lead is None or evidence.judged.evidence.mean >= 0:
        return "but it is not"
    return "came out the other way" if lead < 0 else "but falls short"


def _plain(value: float) -> str:
    """A constant of an expression, as it stands there."""
    return number(value, ".6g")
