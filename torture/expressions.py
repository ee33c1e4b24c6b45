"""Check expressions that nobody means: too long, too deep, without arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torture.case import Case


def _parse(text: str):
    def run(folder: Path):
        from repro.suite import expression

        return expression.parse(text)

    return run


def cases() -> Iterator[Case]:
    for name, text in {
        "min of nothing": "min() < 1",
        "min of one value": "min(a[x]) < 1",
        "2,000 terms": " + ".join(["a[x]"] * 2000) + " < 1",
        "2,000 brackets": "(" * 2000 + "1" + ")" * 2000 + " < 1",
        "2,000 signs": "-" * 2000 + "a[x] < 1",
        "a number of 5,000 digits": "9" * 5000 + " < a[x]",
    }.items():
        yield Case("parseable but wrong shape", name, _parse(text))
