"""What a scale came to, a line a method: for the end of a command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from repro.suite import inference
from repro.suite.records import Record
from repro.suite.report.inputs import Report
from repro.suite.words import CERTAIN, VERDICTS


@dataclass(frozen=True)
class Line:
    """A method, the models that several methods share, or all together.

    Attributes:
        certain: number of exact and structural checks.
        failed: ids of those that do not hold.
        counts: claims by verdict; empty where there are none.
        seconds: wall time of the runs and of the models that were made for them.
    """

    name: str
    certain: int = 0
    failed: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        return self.certain - len(self.failed)


def lines(reports: Iterable[Report]) -> list[Line]:
    """A line a method, one of the models that no method here owns, and one of all."""
    reports = list(reports)
    found = [_of_method(report) for report in reports]
    owners = {report.paper.slug for report in reports}
    shared = {
        (record["method"], record["arm"], record["seed"]): record
        for report in reports
        for record in report.zoo_records
        if record["method"] not in owners
    }
    if shared:
        found.append(Line("shared models", seconds=_seconds(shared.values())))
    every = Line(
        "all",
        sum(line.certain for line in found),
        [name for line in found for name in line.failed],
        {v: sum(line.counts.get(v, 0) for line in found) for v in VERDICTS},
        sum(line.seconds for line in found),
    )
    return [*found, every]


def discoveries(reports: Iterable[Report]) -> str:
    """A sentence on the comparisons of a scale as a whole: how many would be false.

    Checks of one claim and arms in common make them dependent, which the rate of Benjamini and
    Hochberg allows where the dependence is positive.
    """
    found = [check for report in reports for check in report.checks if check.get("p") is not None]
    if not found:
        return ""
    stand = inference.false_discoveries([check["p"] for check in found])
    limit = sorted(check["p"] for check in found)[stand - 1] if stand else -1.0
    decided = [check for check in found if check["verdict"] != "inconclusive"]
    fall = [check["id"] for check in decided if check["p"] > limit]
    beside = f"; not {', '.join(fall)}" if fall else ""
    return (
        f"{len(decided)} of {len(found)} comparisons of random arms are decided. Over all of them "
        f"at once, at a false discovery rate of 5 % (Benjamini and Hochberg), "
        f"{len(decided) - len(fall)} of these stand{beside}."
    )


def _of_method(report: Report) -> Line:
    certain = [check for check in report.checks if check["tier"] in CERTAIN]
    return Line(
        report.paper.slug,
        len(certain),
        [check["id"] for check in certain if check["verdict"] != "reproduced"],
        report.counts(),
        _seconds([*report.results.records, *report.results.model_records]),
    )


def _seconds(made: Iterable[Record]) -> float:
    return sum(float(record["wall_s"] or 0) for record in made)
