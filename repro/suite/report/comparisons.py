"""Comparisons across methods: one table and one figure for what several papers measure alike.

The cards are described in `repro.suite.cards.comparisons`. A row whose arm does not run at a scale,
or measures nothing of the kind there, is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro import store
from repro.coordinates import at_key
from repro.errors import ReproError
from repro.suite.cards import comparisons as cards
from repro.suite.cards.comparisons import Row
from repro.suite.records import to_csv
from repro.suite.report import comparison_figures, figures, inputs, markdown, style, tables
from repro.suite.report.compared import Compared, found
from repro.suite.report.formatting import Summary, with_interval
from repro.suite.report.results import NotKept

FOLDER = "comparisons"
"""Where the tables and figures lie among those of the methods."""

BEST_NOTE = (
    "Bold: the best mean of a column in its group, and means that the seeds cannot tell from it."
)
GROUP_NOTE = (
    "In each group the best mean in bold; means that the seeds cannot tell from it in italics."
)


def ran(
    reports: Sequence[inputs.Report], root: Path | None = None
) -> Iterator[tuple[str, Compared]]:
    """Id and rows of every comparison of which something ran.

    Raises:
        ReproError: a mistake in a card.
    """
    by_slug = {report.paper.slug: report for report in reports}
    for identity, card in cards.load(root).items():
        if rows := found(card, reports):
            yield identity, Compared(card, by_slug, rows)


# Tables ------------------------------------------------------------------------------------------


def table(identity: str, compared: Compared) -> tables.Table:
    """The comparison as a table of the rows that ran, best of each group in bold."""
    card, names = compared.card, compared.quantities
    summaries = compared.summaries
    marks = _marks(compared)
    trained = any(row.models for row, _ in compared.rows)
    cells = []
    for i, (row, _) in enumerate(compared.rows):
        report = compared.reports[row.method]
        texts = [row.group, row.label, report.paper.short]
        if card.along is not None:
            texts.append(f"{row.at[card.along]:g}")
        numbers = [
            tables.Cell(_number(compared, row, name, summaries[i]), marks.get((i, name), ""))
            for name in names
        ]
        training = [tables.Cell(_training(report, row))] if trained else []
        cells.append([*map(tables.Cell, texts), *numbers, *training])
    headings = [compared.title(name, beside=True) for name in names]
    along = [card.along.upper()] if card.along else []
    cost = ["training, min (wall)"] if trained else []
    notes = [
        tables.seed_note(s for row in summaries for s in row.values()),
        GROUP_NOTE if marks else "",
        compared.floor_note(),
    ]
    return tables.Table(
        id=identity,
        title=card.title,
        caption=" ".join(card.caption.split()),
        columns=["Setting", "What", "Paper", *along, *headings, *cost],
        numeric=[*[False] * 3, *[True] * (len(along) + len(headings) + len(cost))],
        rows=cells,
        notes=[note for note in notes if note],
        records=_records(compared, summaries),
    )


def best(compared: Compared, full: tables.Table) -> tables.Table | None:
    """The best rows of each group by its first measurement, as the card asks for; else None.

    Args:
        compared: what ran.
        full: its table.
    """
    if compared.card.best is None:
        return None
    marks = _marks(compared)
    chosen: list[int] = []
    more = False
    for group in dict.fromkeys(row.group for row, _ in compared.rows):
        name, ranked = compared.ranked(group)
        chosen += ranked[: compared.card.best]
        more |= any(marks.get((i, name)) for i in ranked[compared.card.best :])
    rest = "Further rows that the seeds cannot tell from the best are in the full table."
    return tables.Table(
        id=full.id,
        title="Best in each group",
        caption=f"At most {compared.card.best} rows of each group, the best first, by the first "
        "measurement of the group.",
        columns=full.columns,
        numeric=full.numeric,
        rows=[
            [tables.Cell(c.text, "best" if c.mark else "") for c in full.rows[i]] for i in chosen
        ],
        notes=[BEST_NOTE, *([rest] if more else [])],
    )


def _number(compared: Compared, row: Row, name: str, summaries: Mapping[str, Summary]) -> str:
    """A quantity of a row, as its own method's card writes it; with the unit if the heading has
    none because the rows differ in it."""
    if name not in summaries:
        return "–"
    card = compared.declared(row, name)
    text = with_interval(summaries[name], card.format)
    return f"{text} {card.unit}".strip() if len(compared.units(name)) > 1 else text


def _training(report: inputs.Report, row: Row) -> str:
    """Minutes that the row's models took to make, a mean over seeds for each model.

    Raises:
        ReproError: the method has no such model.
    """
    seconds = 0.0
    for name in row.models:
        made = [r["wall_s"] for r in report.results.model_records if r["arm"] == name]
        if not made:
            raise ReproError(
                f"{report.paper.slug}: a comparison names the model `{name}`, of which there is no "
                "record; correct the name in the card under comparisons/"
            )
        seconds += float(np.mean(made))
    return f"{seconds / 60:.1f}" if row.models else "–"


def _marks(compared: Compared) -> dict[tuple[int, str], str]:
    """The best of each group by (row, quantity), where its papers agree which side is better."""
    summaries = compared.summaries
    marks: dict[tuple[int, str], str] = {}
    groups = dict.fromkeys(row.group for row, _ in compared.rows)
    for name, group in itertools.product(compared.quantities, groups):
        members: Mapping[Any, Summary] = {
            (i, name): summaries[i][name]
            for i, (row, _) in enumerate(compared.rows)
            if row.group == group and name in summaries[i]
        }
        direction = compared.direction(name, [i for i, _ in members])
        marks |= tables.marked(members, direction)
    return marks


def _records(
    compared: Compared, summaries: Sequence[Mapping[str, Summary]]
) -> list[dict[str, Any]]:
    return [
        {
            "group": row.group,
            "label": row.label,
            "method": row.method,
            "arm": row.arm,
            "at": at_key(row.at),
            "measurement": name,
            "n_seeds": of[name].n,
            "mean": of[name].mean,
            "half_width": of[name].half,
        }
        for (row, _), of in zip(compared.rows, summaries, strict=True)
        for name in compared.quantities
        if name in of
    ]


# Files -------------------------------------------------------------------------------------------

COLUMNS = [
    "group",
    "label",
    "method",
    "arm",
    "at",
    "measurement",
    "n_seeds",
    "mean",
    "half_width",
]


def files(identity: str, compared: Compared) -> dict[str, str]:
    """A comparison as Markdown and CSV: text by file name."""
    made = table(identity, compared)
    return {
        f"{identity}.md": _markdown(made, best(compared, made)),
        f"{identity}.csv": to_csv(made.records, COLUMNS),
    }


def _markdown(full: tables.Table, short: tables.Table | None) -> str:
    if short is None:
        return full.markdown()
    below = dataclasses.replace(full, title="All rows", caption="")
    head = f"# {markdown.inline(full.title)}\n\n{markdown.block(full.caption)}\n"
    return "\n".join([head, short.markdown(2), below.markdown(2)])


def write(
    reports: Sequence[inputs.Report],
    folder_of_tables: Path,
    folder_of_figures: Path,
    root: Path | None = None,
    kept: Path | None = None,
) -> list[str]:
    """Write every comparison of a scale, tables and figures.

    Args:
        kept: folder of earlier drawings, see `figures.write`.

    Returns:
        The ids of the figures that were taken over from there.

    Raises:
        ReproError: a mistake in a card, or records that cannot be read.
    """
    taken_over = []
    for identity, compared in ran(reports, root):
        for name, text in files(identity, compared).items():
            store.write_text(folder_of_tables / name, text)
        about = comparison_figures.words(compared)
        with style.context():
            try:
                figure = comparison_figures.draw(compared)
            except NotKept:
                folder_of_figures.mkdir(parents=True, exist_ok=True)
                if kept and figures.take_over(identity, kept, folder_of_figures, about):
                    taken_over.append(identity)
                    continue
                figure = comparison_figures.draw(compared, partly=True)
            if figure is not None:
                figures.save(figure, folder_of_figures, identity, about, ["png", "svg"])
    return taken_over
