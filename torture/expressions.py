"""Check expressions that nobody means, and measurements that have no verdict."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Imported before the cases are forked, not in each.
from repro.suite import expression, verdict
from torture.cards import CARDS, load, write
from torture.case import Case

NONSENSE = {
    "min of nothing": "min() < 1",
    "max of nothing": "max() < 1",
    "abs of nothing": "abs() < 1",
    "min of one value": "min(a[x]) < 1",
    "max of one value": "max(a[x]) < 1",
    "mean of one value": "mean(a[x]) < 1",
    "min of one sum": "min(a[x] + 1) < 1",
    "log of two": "log(a[x], 2) < 1",
    "sqrt of two": "sqrt(a[x], 2) < 1",
    "2,000 terms": " + ".join(["a[x]"] * 2000) + " < 1",
    "2,000 links": " < ".join(["a[x]"] * 2000),
    "2,000 arguments": f"min({', '.join(['a[x]'] * 2000)}) < 1",
    "2,000 brackets": "(" * 2000 + "1" + ")" * 2000 + " < 1",
    "2,000 signs": "-" * 2000 + "a[x] < 1",
    "2,000 powers": " ** ".join(["a[x]"] * 2000) + " < 1",
    "2,000 calls": "abs(" * 2000 + "a[x]" + ")" * 2000 + " < 1",
    "40 brackets": "(" * 40 + "a[x]" + ")" * 40 + " < 1",
    "40 signs": "-" * 40 + "a[x] < 1",
    "100 KB of blanks": "a[x]" + " " * 100_000 + "< 1",
    "100 KB of a name": "a" * 100_000 + "[x] < 1",
    "100 KB of an arm": f"a[{'x' * 100_000}] < 1",
    "a number of 5,000 digits": "9" * 5000 + " < a[x]",
    "a number of 400 digits": "9" * 400 + " < a[x]",
    "1e999": "a[x] < 1e999",
    "1e308": "a[x] < 1e308",
    "nan": "a[x] < nan",
    "inf": "a[x] < inf",
    "a misspelt function": "mn(a[x], a[y]) < 1",
    "a function without brackets": "min < 1",
    "a measurement without arm": "a < 1",
    "an arm that is empty": "a[] < 1",
    "an arm that is blank": "a[ ] < 1",
    "a coordinate twice": "a[x, k=1, k=2] < 1",
    "a coordinate without value": "a[x, k=] < 1",
    "a coordinate without name": "a[x, =1] < 1",
    "a coordinate that is nothing": "a[x, ] < 1",
    "a coordinate without sign": "a[x, k] < 1",
    "a star alone": "a[x, k=*] < 1",
    "a star in abs": "abs(a[x, k=*]) < 1",
    "a star in a sum in min": "min(a[x, k=*] + 1, 2) < 1",
    "no comparison": "a[x]",
    "a comparison of nothing": "a[x] <",
    "nothing": "",
    "blank": "   ",
    "one equals sign": "a[x] = 1",
    "unequal": "a[x] != 1",
    "and": "a[x] < 1 and a[y] < 1",
    "code": "__import__('os').getcwd() < 1",
    "an attribute": "a[x].real < 1",
    "a subscript twice": "a[x][y] < 1",
    "brackets within": "a[x[y]] < 1",
    "a semicolon": "a[x] < 1; b[x] < 1",
    "itself": "a[x] <= a[x]",
    "itself in a chain": "0 <= a[x] == a[x]",
    "the same numbers": "1 <= 1",
    "digits of another script": "a[x] < \u0661",
    "full-width digits": "a[x] < \uff11",
    "a letter of another script": "\u0430[x] < 1",
    "a minus of typography": "\u2212a[x] < 1",
    "a less-or-equal of typography": "a[x] \u2264 1",
    "an escape": "a[x] \x1b[31m < 1",
    "NUL": "a[x] < 1\0",
    "underscores": "a[x] < 1_000",
    "hexadecimal": "a[x] < 0x10",
    "two numbers": "a[x] < 1 2",
    "an exponent without digits": "a[x] < 1e",
    "three stars": "a[x] *** 2 < 1",
    "a new line in a name": "a\nb[x] < 1",
}


def _parse(text: str) -> Callable[[Path], Any]:
    return lambda folder: expression.parse(text)


# Judging ------------------------------------------------------------------------------------

PAIR = "loss[ours, steps=4, part=1] < loss[base, steps=4, part=1]"
HUGE = 1e308


def _records(
    ours: Any = (1.0, 1.1, 1.2), base: Any = (2.0, 2.1, 2.2), exact: Any = 0.0
) -> list[dict]:
    """What the runs of smoke recorded: three seeds of two arms, and one of the exact arm."""
    at = {"steps": 4, "part": 1}
    records = [
        _record(arm, seed, "loss", value, at)
        for arm, values in (("ours", ours), ("base", base))
        for seed, value in enumerate(values)
    ]
    return [*records, _record("exact", 0, "error", exact, {})]


def _record(arm: str, seed: Any, name: str, value: Any, at: dict) -> dict:
    return {
        "arm": arm,
        "seed": seed,
        "measurements": [{"name": name, "at": at, "value": value}],
    }


def _judged(records: Any, expect: str = PAIR) -> Callable[[Path], Any]:
    """The verdicts of the two claims of the toy."""

    def run(folder: Path) -> Any:
        cards = copy.deepcopy(CARDS)
        cards["checks.yaml"]["claims"]["smaller"]["checks"][0]["expect"] = expect
        method = load(write(folder, cards))
        judged = verdict.judge(method, "smoke", records() if callable(records) else records)
        return {claim["id"]: claim["verdict"] for claim in judged["claims"]}

    return run


VALUES: dict[str, Any] = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "negative infinity": -float("inf"),
    "an integer of 400 digits": 10**400,
    "none": None,
    "text": "1.0",
    "words": "good",
    "true": True,
    "a list": [1.0],
    "a mapping": {"value": 1.0},
    "1e308": HUGE,
    "-1e308": -HUGE,
}

EXPRESSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "division by zero": ("1 / loss[ours, steps=4, part=1] < 1", {"ours": (0.0,) * 3}),
    "division by zero at one seed": (
        "1 / loss[ours, steps=4, part=1] < 1",
        {"ours": (1.0, 0.0, 2.0)},
    ),
    "nothing by nothing": (
        "loss[ours, steps=4, part=1] / loss[base, steps=4, part=1] < 1",
        {"ours": (0.0,) * 3, "base": (0.0,) * 3},
    ),
    "log of zero": ("log(loss[ours, steps=4, part=1]) < 1", {"ours": (0.0,) * 3}),
    "log of a negative": ("log(loss[ours, steps=4, part=1]) < 1", {"ours": (-1.0,) * 3}),
    "root of a negative": ("sqrt(loss[ours, steps=4, part=1]) < 1", {"ours": (-1.0,) * 3}),
    "root of a negative by power": (
        "loss[ours, steps=4, part=1] ** 0.5 < 1",
        {"ours": (-1.0,) * 3},
    ),
    "zero to a negative power": ("loss[ours, steps=4, part=1] ** -1 < 1", {"ours": (0.0,) * 3}),
    "exp that overflows": ("exp(loss[ours, steps=4, part=1]) > 1", {"ours": (1e4,) * 3}),
    "a power that overflows": (
        "loss[ours, steps=4, part=1] ** 99 > 1",
        {"ours": (1e100,) * 3},
    ),
    "a product that overflows": (
        "loss[ours, steps=4, part=1] * 1e140 * 1e140 > 1",
        {"ours": (1e100,) * 3},
    ),
    "an overflow that vanishes in a quotient": (
        "1 / (loss[ours, steps=4, part=1] * 1e140 * 1e140) < 1",
        {"ours": (1e100,) * 3},
    ),
    "an overflow that vanishes in min": (
        "min(loss[ours, steps=4, part=1] * 1e140 * 1e140, 1) <= 1",
        {"ours": (1e100,) * 3},
    ),
    "a difference that overflows": (PAIR, {"ours": (-HUGE,) * 3, "base": (HUGE,) * 3}),
    "a spread that overflows": (PAIR, {"ours": (-1e200, 0.0, 1e200)}),
    "infinity less infinity": (
        "exp(loss[ours, steps=4, part=1]) - exp(loss[base, steps=4, part=1]) < 1",
        {"ours": (1e3,) * 3, "base": (1e3,) * 3},
    ),
}


def _twice() -> list[dict]:
    records = _records()
    return [*records, copy.deepcopy(records[0])]


def _twice_within() -> list[dict]:
    records = _records()
    records[0]["measurements"] *= 2
    return records


def _with(**changes: Any) -> Callable[[], list[dict]]:
    """The records with the first changed."""

    def make() -> list[dict]:
        records = _records()
        records[0] = {**records[0], **changes}
        return records

    return make


def _without(key: str) -> Callable[[], list[dict]]:
    def make() -> list[dict]:
        records = _records()
        del records[0][key]
        return records

    return make


RECORDS: dict[str, Any] = {
    "none": [],
    "a measurement twice": _twice,
    "a measurement twice in a record": _twice_within,
    "a seed of text": _with(seed="0"),
    "a seed that is true": _with(seed=True),
    "half a seed": _with(seed=0.5),
    "no seed": _without("seed"),
    "another seed": _with(seed=7),
    "an arm that is none": _with(arm=None),
    "no arm": _without("arm"),
    "another arm": _with(arm="our"),
    "no measurements": _without("measurements"),
    "measurements that are none": _with(measurements=None),
    "measurements that are text": _with(measurements="loss"),
    "measurements of text": _with(measurements=["loss"]),
    "a measurement of nothing": _with(measurements=[{}]),
    "a measurement without coordinates": _with(measurements=[{"name": "loss", "value": 1.0}]),
    "a measurement without value": _with(
        measurements=[{"name": "loss", "at": {"steps": 4, "part": 1}}]
    ),
    "coordinates that are a list": _with(
        measurements=[{"name": "loss", "at": ["steps"], "value": 1.0}]
    ),
    "a coordinate too few": _with(measurements=[{"name": "loss", "at": {"part": 1}, "value": 1.0}]),
    "a list for a record": [[]],
    "text for a record": ["ours"],
    "null for a record": [None],
}

PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "the method is better": ({}, "reproduced"),
    "the method is worse": ({"ours": (3.0, 3.1, 3.2), "base": (1.0, 1.1, 1.25)}, "contradicted"),
    "nobody knows": ({"ours": (1.0, 3.1, 2.0), "base": (2.0, 2.1, 2.2)}, "inconclusive"),
}


def cases() -> Iterator[Case]:
    for name, text in NONSENSE.items():
        yield Case("parseable but wrong shape", name, _parse(text), limit_s=10)
    verdict.smallest_detectable([1.0, 2.0])  # imports what it needs before the cases are forked
    kind = "a verdict from no number"
    for arm in ("ours", "base"):
        for what, value in VALUES.items():
            middle = _records(**{arm: (1.0, value, 1.2)})
            yield Case(kind, f"{arm}: {what} at one seed", _judged(middle))
            yield Case(kind, f"{arm}: {what}", _judged(_records(**{arm: (value,) * 3})))
    for what, value in VALUES.items():
        yield Case(kind, f"exact: {what}", _judged(_records(exact=value)))
    for what, (expect, values) in EXPRESSIONS.items():
        yield Case(kind, what, _judged(_records(**values), expect))
    for what, records in RECORDS.items():
        yield Case("records of another shape", what, _judged(records))
    for what, (values, found) in PLAIN.items():
        due = {"smaller": found, "identity": "reproduced"}
        yield Case("plain verdicts", what, _judged(_records(**values)), due.__eq__)
