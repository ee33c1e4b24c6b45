"""What of a comparison ran: its rows with their values, and how far those are above their floors.

A measurement's *floor* is what real images have in the place of samples. It depends on how many
images are judged, so it is taken from a run of as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.suite.cards.comparisons import Comparison, Place, Row
from repro.suite.cards.experiment import Measurement
from repro.suite.report import inputs, tables
from repro.suite.report.formatting import Summary, summarise

ABOVE = " above its floor"
"""After the name of a measurement: the measurement minus its floor."""

JUDGED_BY = ("samples", "real", "dataset", "classifier")
"""Parameters of a run on which a distance of samples from real images depends."""

Rows = list[tuple[Row, dict[str, Any]]]
"""Rows that ran, each with (quantity → values over seeds, shape (n_seeds,)).

A quantity is a measurement, or with `ABOVE` how far it is above its floor.
"""

Reports = Mapping[str, inputs.Report]
"""The methods by their slugs."""


@dataclass(frozen=True)
class Compared:
    """A comparison of which something ran."""

    card: Comparison
    reports: Reports
    rows: Rows

    @property
    def quantities(self) -> list[str]:
        """What stands in the columns: the measurements that any row has, each before the same above
        its floor."""
        names = [name for of in self.card.measurements for name in (of, of + ABOVE)]
        return [name for name in names if self.has(name)]

    @property
    def drawn(self) -> list[str]:
        """What the figure shows: of the measurements that any row has, above floors if known."""
        wanted = [n + ABOVE if self.has(n + ABOVE) else n for n in self.card.figure]
        return [name for name in wanted if self.has(name)]

    def has(self, name: str) -> bool:
        return any(name in values for _, values in self.rows)

    def declared(self, row: Row, name: str) -> Measurement:
        """The measurement of a quantity, by the card of the row's method."""
        return self.reports[row.method].experiment.measurements[name.removesuffix(ABOVE)]

    def units(self, name: str) -> list[str]:
        """The units that a quantity has in the cards of the rows that have it."""
        have = [self.declared(row, name).unit for row, values in self.rows if name in values]
        return list(dict.fromkeys(have))

    def title(self, name: str, beside: bool = False) -> str:
        """Heading of a quantity by the first paper that has it, with the unit if all share it.

        Args:
            name: the quantity.
            beside: it stands beside its measurement, which need not be named again.
        """
        row = next(row for row, values in self.rows if name in values)
        card = self.declared(row, name)
        text = card.title or name.removesuffix(ABOVE)
        if name.endswith(ABOVE):
            text = ABOVE.strip() if beside else text + ABOVE
        units = self.units(name)
        unit = f" ({units[0]})" if len(units) == 1 and units[0] else ""
        return f"{text}{unit}{tables.ARROWS[card.direction]}"

    @cached_property
    def summaries(self) -> list[dict[str, Summary]]:
        """Mean and interval of every quantity of every row."""
        return [{name: summarise(v) for name, v in values.items()} for _, values in self.rows]

    def direction(self, name: str, rows: Sequence[int]) -> str:
        """Which side is better of a quantity in these rows; none where their cards differ in that
        or in the unit."""
        declared = [self.declared(self.rows[i][0], name) for i in rows]
        directions = {(card.direction, card.unit) for card in declared}
        return directions.pop()[0] if len(directions) == 1 else "none"

    def ranked(self, group: str) -> tuple[str, list[int]]:
        """The first measurement by which rows of a group differ in rank, and those rows, best
        first."""
        own = [i for i, (row, _) in enumerate(self.rows) if row.group == group]
        for name in self.card.measurements:
            have = [i for i in own if name in self.summaries[i]]
            direction = self.direction(name, have)
            if have and direction != "none":
                sign = -1 if direction == "higher" else 1
                means = {i: sign * self.summaries[i][name].mean for i in have}
                return name, sorted(have, key=means.__getitem__)
        return "", []

    @property
    def in_figure(self) -> Rows:
        """The rows that the figure shows: of those written by `each` the best of each group, as
        many as the card asks for."""
        if self.card.best is None:
            return self.rows
        groups = dict.fromkeys(row.group for row, _ in self.rows)
        best = {i for group in groups for i in self.ranked(group)[1][: self.card.best]}
        return [(row, v) for i, (row, v) in enumerate(self.rows) if i in best or not row.each]

    def without_floor(self, name: str) -> str:
        """The rows that have a measurement but not its floor, counted by paper; may be empty."""
        papers = [
            self.reports[row.method].paper.short
            for row, values in self.rows
            if name in values and name + ABOVE not in values
        ]
        counts = [
            f"{(n := papers.count(paper))} row{'s' if n > 1 else ''} of {paper}"
            for paper in dict.fromkeys(papers)
        ]
        return ", ".join(counts)

    def floor_note(self) -> str:
        """What is above which floor, and which rows have none; empty without floors."""
        known = [name for name in self.card.floor if self.has(name + ABOVE)]
        if not known:
            return ""
        sentences = ["Above its floor: minus what as many real images have in place of samples."]
        for name in known:
            if rows := self.without_floor(name):
                drawn = " and not in the figure" if name in self.card.figure else ""
                sentences.append(f"Without a floor, hence “–”{drawn}: {rows}.")
        return " ".join(sentences)


def found(card: Comparison, reports: Sequence[inputs.Report]) -> Rows:
    """The rows that ran, each with (quantity → values over seeds); none where fewer than two
    papers have any.

    Raises:
        ReproError: an arm measured something of the kind, but not where its row says; or a floor is
            of other images or of another number than its row.
    """
    by_slug = {
        report.paper.slug: report
        for report in reports
        if card.scales is None or report.scale in card.scales
    }
    rows = []
    for row in card.rows:
        report = by_slug.get(row.method)
        if report is None or row.arm not in report.method.arms(report.scale):
            continue
        for point in _points(card, report, row):
            if values := _values(card, report, point):
                rows.append((point, values | _above(card, by_slug, point, values)))
    return rows if len({row.method for row, _ in rows}) > 1 else []


def _values(card: Comparison, report: inputs.Report, row: Row) -> dict[str, Any]:
    """Measurement → values over seeds, of all that a row has."""
    results = report.results
    any_place = [name for name in card.measurements if results.has(name, row.arm)]
    have = [name for name in any_place if results.has(name, row.arm, **row.at)]
    return {
        name: results.values(name, row.arm, **row.at)
        for name in have or any_place[:1]  # of a wrong coordinate this says what there is
    }


def _points(card: Comparison, report: inputs.Report, row: Row) -> Iterator[Row]:
    """The row itself, or one for each value of the coordinate that the comparison runs along."""
    if card.along is None or card.along in row.at:
        yield row
        return
    name = next((n for n in card.measurements if report.results.has(n, row.arm)), None)
    if name is not None:
        places, _ = report.results.sweep(name, row.arm, card.along, **row.at)
        for x in places:
            yield row.model_copy(update={"at": {**row.at, card.along: x.item()}})


def _above(
    card: Comparison, by_slug: Reports, row: Row, values: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """How far a row is above its floors, of those that were measured.

    Seed by seed where the floor has the row's seeds, else above the mean of the floor.
    """
    own = by_slug[row.method].results
    above = {}
    for name in card.floor:
        place = _floor_of(card, name, row, _params(by_slug[row.method], row.arm))
        report = by_slug.get(place.method) if place is not None else None
        if name not in values or place is None or report is None:
            continue
        if not report.results.has(name, place.arm):
            continue
        floor = report.results.values(name, place.arm, **place.at)
        _refuse_others(by_slug, row, place)
        paired = report.results.seeds(place.arm) == own.seeds(row.arm)
        if not paired or floor.shape != values[name].shape:
            floor = floor.mean()
        above[name + ABOVE] = values[name] - floor
    return above


def _floor_of(card: Comparison, name: str, row: Row, params: Mapping[str, Any]) -> Place | None:
    """The row's own floor, or the one of its method: first that for its number of samples."""
    if row.floor is not None:
        return row.floor
    places = {place.n: place for place in card.floor[name] if place.method == row.method}
    return places.get(params.get("samples")) or places.get(None)


def _params(report: inputs.Report, arm: str) -> Mapping[str, Any]:
    """Parameters of the runs of an arm; those named in `JUDGED_BY` are the same for all seeds."""
    return next((r["params"] or {} for r in report.results.records if r["arm"] == arm), {})


def _refuse_others(by_slug: Reports, row: Row, place: Place) -> None:
    """Refuse a floor that was not measured as its row was, by all that the row says of it."""
    own, floor = (_params(by_slug[p.method], p.arm) for p in (row, place))
    for key in JUDGED_BY:
        if own.get(key) is not None and floor.get(key) != own[key]:
            raise ReproError(
                f"a comparison sets {row.method}/{row.arm} ({key} {own[key]}) above the floor "
                f"{place.method}/{place.arm} ({key} {floor.get(key, 'not said')}); name a floor of "
                "the same in the card under comparisons/"
            )
