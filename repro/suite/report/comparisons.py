"""Comparisons across methods: one table and one figure for what several papers measure alike.

``comparisons/<id>.yaml`` names rows, each a place where a method measured (method, arm,
coordinates). Methods are comparable where they share network, data, noises and sampler; the card
says under which protocol. A row whose arm does not run at a scale, or measures nothing of the kind
there, is left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from pydantic import Field

from repro import store
from repro.coordinates import at_key
from repro.documents import one_line
from repro.errors import ReproError, nearest
from repro.places import ROOT, short
from repro.suite.cards import library
from repro.suite.cards.base import LONGEST, Params, Strict
from repro.suite.cards.loading import read
from repro.suite.records import to_csv
from repro.suite.report import figures, inputs, style, tables
from repro.suite.report.formatting import Summary, summarise, with_interval
from repro.suite.report.results import NotKept
from repro.suite.words import Scale

FOLDER = "comparisons"


class Row(Strict):
    """One place to look: what stands in the table, and where it was measured.

    models: those that the method trained for it; the table gives their time. pictures: array of the
    arm's first seed, images as uint8 (N, C, H, W) or (N, H, W); a coordinate of the row may stand
    in its name, as in "pictures-{nfe}".
    """

    group: str
    label: str
    method: str
    arm: str
    at: Params = {}
    models: list[str] = []
    pictures: str = ""


Rows = list[tuple[Row, dict[str, Any]]]
"""Rows that ran, each with (measurement → values over seeds)."""


class Comparison(Strict):
    """A card under ``comparisons/``."""

    title: str
    caption: str
    along: str | None = None
    scales: list[Scale] | None = None
    measurements: Annotated[list[str], Field(min_length=1)]
    figure: list[str] = []
    rows: Annotated[list[Row], Field(min_length=1)]


def load(root: Path | None = None) -> dict[str, Comparison]:
    """Every comparison by its id.

    Raises:
        ReproError: a mistake in a card.
    """
    paths = sorted(((root or ROOT) / FOLDER).glob("[!.]*.yaml"))
    return {path.stem: _read(path, root) for path in paths}


def _read(path: Path, root: Path | None) -> Comparison:
    """A card whose methods, arms and models are there.

    Its measurements are looked for where an arm has run (`found`).
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", path.stem) or len(path.stem) > LONGEST:
        raise ReproError(
            f"{one_line(short(path))}: is not a name for a comparison; use lower-case letters, "
            "digits and dashes"
        )
    card = read(path, Comparison)
    for number, row in enumerate(card.rows):
        where, slugs = f"rows.{number}", library.slugs(root)
        _known(path, f"{where}.method", row.method, slugs)
        experiment = library.load(row.method, root).experiment
        _known(path, f"{where}.arm", row.arm, experiment.arms)
        for name in row.models:
            _known(path, f"{where}.models", name, experiment.models)
    for name in card.figure:
        _known(path, "figure", name, card.measurements)
    return card


def _known(path: Path, where: str, name: str, valid: Collection[str]) -> None:
    if name not in valid:
        raise ReproError(
            f"{short(path)}: {where}: unknown `{one_line(name)}`{nearest(name, valid)}"
        )


def ran(
    reports: Sequence[inputs.Report], root: Path | None = None
) -> Iterator[tuple[str, Comparison, Rows]]:
    """Id, card and rows of every comparison of which something ran."""
    for identity, card in load(root).items():
        if rows := found(card, reports):
            yield identity, card, rows


def found(card: Comparison, reports: Sequence[inputs.Report]) -> Rows:
    """The rows that ran, each with (measurement → values over seeds); none where fewer than two
    papers have any.

    Raises:
        ReproError: an arm measured something of the kind, but not where its row says.
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
                rows.append((point, values))
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


def _points(card: Comparison, report: inputs.Report, row: Row) -> list[Row]:
    """The row itself, or one for each value of the coordinate that the comparison runs along."""
    if card.along is None or card.along in row.at:
        return [row]
    name = next((n for n in card.measurements if report.results.has(n, row.arm)), None)
    if name is None:
        return []
    places, _ = report.results.sweep(name, row.arm, card.along, **row.at)
    return [row.model_copy(update={"at": {**row.at, card.along: x.item()}}) for x in places]


def _training(report: inputs.Report, row: Row) -> str:
    """Minutes that the row's models took to make, mean over seeds; they may have run in parallel.

    Raises:
        ReproError: the method has no such model.
    """
    seconds = 0.0
    for name in row.models:
        found = [
            record["wall_s"] for record in report.results.model_records if record["arm"] == name
        ]
        if not found:
            raise ReproError(
                f"{report.paper.slug}: a comparison names the model `{name}`, of which there is no "
                "record; correct the name in the card under comparisons/"
            )
        seconds += float(np.mean(found))
    return f"{seconds / 60:.1f}" if row.models else "–"


def table(
    identity: str, card: Comparison, reports: Sequence[inputs.Report], rows: Rows
) -> tables.Table:
    """The comparison as a table of the rows that ran, best of each group in bold."""
    by_slug = {report.paper.slug: report for report in reports}
    summaries = [{name: summarise(v) for name, v in values.items()} for _, values in rows]
    marks = _marks(card, by_slug, rows, summaries)
    trained = any(row.models for row, _ in rows)
    cells = []
    for i, (row, _) in enumerate(rows):
        report = by_slug[row.method]
        texts = [row.group, row.label, report.paper.short]
        if card.along is not None:
            texts.append(f"{row.at[card.along]:g}")
        numbers = [
            tables.Cell(
                with_interval(summaries[i][name], report.experiment.measurements[name].format),
                marks.get((i, name), ""),
            )
            if name in summaries[i]
            else tables.Cell("–")
            for name in card.measurements
        ]
        training = [tables.Cell(_training(report, row))] if trained else []
        cells.append([*map(tables.Cell, texts), *numbers, *training])
    headings = [_heading(name, reports, rows) for name in card.measurements]
    along = [card.along.upper()] if card.along else []
    cost = ["training (min)"] if trained else []
    return tables.Table(
        id=identity,
        title=card.title,
        caption=" ".join(card.caption.split()),
        columns=["Setting", "What", "Paper", *along, *headings, *cost],
        numeric=[*[False] * 3, *[True] * (len(along) + len(headings) + len(cost))],
        rows=cells,
        notes=[tables.seed_note(s for row in summaries for s in row.values())],
        records=_records(card, rows, summaries),
    )


def _marks(
    card: Comparison,
    by_slug: Mapping[str, inputs.Report],
    rows: Rows,
    summaries: Sequence[Mapping[str, Summary]],
) -> dict[tuple[int, str], str]:
    """The best of each group by (row, measurement), where its papers agree which side is better."""
    marks: dict[tuple[int, str], str] = {}
    groups = dict.fromkeys(row.group for row, _ in rows)
    for name, group in itertools.product(card.measurements, groups):
        members: Mapping[Any, Summary] = {
            (i, name): summaries[i][name]
            for i, (row, _) in enumerate(rows)
            if row.group == group and name in summaries[i]
        }
        directions = {
            by_slug[rows[i][0].method].experiment.measurements[name].direction for i, _ in members
        }
        if len(directions) == 1:
            marks |= tables.marked(members, directions.pop())
    return marks


def _records(
    card: Comparison, rows: Rows, summaries: Sequence[Mapping[str, Summary]]
) -> list[dict[str, Any]]:
    return [
        {
            "group": row.group,
            "label": row.label,
            "method": row.method,
            "arm": row.arm,
            "at": at_key(row.at),
            "measurement": name,
            "n_seeds": found[name].n,
            "mean": found[name].mean,
            "half_width": found[name].half,
        }
        for (row, _), found in zip(rows, summaries, strict=True)
        for name in card.measurements
        if name in found
    ]


def _heading(name: str, reports: Sequence[inputs.Report], rows: Rows) -> str:
    """The title of a measurement by the first paper that has it."""
    for row, values in rows:
        if name in values:
            return tables.heading(
                next(r.results for r in reports if r.paper.slug == row.method), name
            )
    return name


def drawn(card: Comparison, rows: Rows) -> list[str]:
    """The measurements that the figure shows: those of the card that any row has."""
    return [name for name in card.figure if any(name in values for _, values in rows)]


def draw(card: Comparison, reports: Sequence[inputs.Report], rows: Rows) -> Figure | None:
    """What the card says to draw of the rows that ran, or None where that is nothing.

    A panel a measurement: rows downwards by group, a dot a seed, a bar at the mean; or, with
    ``along``, a panel a group with its curves over that coordinate and all others in grey, and
    below them samples of the rows that have pictures.
    """
    names = drawn(card, rows)
    if not names:
        return None
    if card.along is None:
        return _dots(reports, rows, names)
    return _curves(card.along, reports, rows, names)


Lines = dict[tuple[str, str, str, str, str], Rows]
"""Rows of one curve, by group, label, method, arm and the coordinates that do not vary."""


def _curves(
    along: str, reports: Sequence[inputs.Report], rows: Rows, names: Sequence[str]
) -> Figure:
    by_slug = {report.paper.slug: report for report in reports}
    lines: Lines = {}
    for row, values in rows:
        fixed = at_key({k: v for k, v in row.at.items() if k != along})
        key = (row.group, row.label, row.method, row.arm, fixed)
        lines.setdefault(key, []).append((row, values))
    strips = _strips(by_slug, [points[0][0] for points in lines.values()])
    groups = list(dict.fromkeys(group for group, *_ in lines))
    columns = min(3, len(groups))
    depth = -(-len(groups) // columns)
    longest = max(sum(key[0] == group for key in lines) for group in groups)
    upper, strip = depth * len(names) * (1.8 + 0.13 * longest), 0.52
    figure = style.figure("full", upper + strip * len(strips))
    above: FigureBase = figure
    if strips:
        heights = [upper, strip * len(strips)]
        parts: Any = figure.subfigures(2, 1, height_ratios=heights, hspace=0.02)
        above = parts[0]
        _draw_strips(parts[1], along, strips)
    grid = above.subplots(depth * len(names), columns, squeeze=False, sharex=True)
    for ax in grid.flat:
        ax.set_visible(False)
    for place, name in enumerate(names):
        panels = grid[place * depth : (place + 1) * depth].flatten()[: len(groups)]
        for ax, group in zip(panels, groups, strict=True):
            _one_group(ax, along, by_slug, lines, name, group)
        for ax in panels[::columns]:
            ax.set_ylabel(_heading(name, reports, rows), fontsize=6)
        _same_scales(panels)
    return figure


Strips = list[tuple[Row, np.ndarray]]


def _strips(by_slug: Mapping[str, inputs.Report], rows: Sequence[Row]) -> Strips:
    """The pictures of the rows that have some, of the first seed of their arm."""
    found = []
    for row in rows:
        if row.pictures:
            results = by_slug[row.method].results
            name = _picture(row)
            found.append((row, results.array(row.arm, min(results.seeds(row.arm)), name)))
    return found


def _picture(row: Row) -> str:
    """The array that a row names, with its coordinates filled in."""
    try:
        return row.pictures.format(**row.at)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ReproError(
            f"a comparison names the pictures `{row.pictures}`, which its coordinates do not fill; "
            "correct the card under comparisons/"
        ) from error


def _draw_strips(figure: FigureBase, along: str, strips: Strips) -> None:
    """A line of pictures each, as many as the shortest has."""
    count = min(len(pictures) for _, pictures in strips)
    cells = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for ax, (row, pictures) in zip(cells, strips, strict=True):
        pictures = np.asarray(pictures)[:count].squeeze()
        ax.imshow(np.concatenate(list(pictures), 1), cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
        ax.text(-0.01, 0.5, f"{row.label}, {along.upper()} {row.at[along]:g}",
                transform=ax.transAxes, ha="right", va="center", fontsize=6)  # fmt: skip


def _same_scales(panels: Iterable[Axes]) -> None:
    """Logarithmic axes with plain numbers, and the same heights in all panels."""
    for ax in panels:
        ax.set_yscale("log")
    limits = np.array([ax.get_ylim() for ax in panels])
    for ax in panels:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        style.plain_log(ax, axis="x")
        style.plain_log(ax)


def _one_group(
    ax: Axes,
    along: str,
    by_slug: Mapping[str, inputs.Report],
    lines: Lines,
    name: str,
    group: str,
) -> None:
    """Curves of one group in colour over those of all others in grey."""
    ax.set_visible(True)
    index = 0
    for (own, label, method, *_), points in lines.items():
        have = [(r.at[along], values[name]) for r, values in points if name in values]
        if not have:
            continue
        x = [place for place, _ in have]
        mean = np.array([np.mean(values) for _, values in have])
        if own != group:
            ax.plot(x, mean, ".-", color=style.GRID, markersize=3, linewidth=1, zorder=1)
            continue
        low, high = (np.array([f(values) for _, values in have]) for f in (np.min, np.max))
        colour = style.PALETTE[index % len(style.PALETTE)]
        ax.plot(
            x, mean, style.MARKERS[index % len(style.MARKERS)], color=colour, markersize=4,
            linestyle="-", linewidth=1, label=f"{label} ({by_slug[method].paper.short})",
        )  # fmt: skip
        ax.vlines(x, low, high, color=colour, linewidth=1)
        index += 1
    ax.grid(visible=False)
    if index:
        ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), fontsize=5.5)
    ax.set_title(group, fontsize=8)
    ax.set_xlabel(along.upper(), fontsize=7)
    ax.tick_params(labelbottom=True, labelsize=7)


def _dots(reports: Sequence[inputs.Report], rows: Rows, names: Sequence[str]) -> Figure:
    rows = [(row, values) for row, values in rows if any(name in values for name in names)]
    groups = list(dict.fromkeys(row.group for row, _ in rows))
    places = [i + groups.index(row.group) * 0.8 for i, (row, _) in enumerate(rows)]
    figure, axes = style.subplots(
        1, len(names), width="full", height=0.17 * len(rows) + 0.3 * len(groups) + 0.9, sharey=True,
        squeeze=False,
    )  # fmt: skip
    short = {report.paper.slug: report.paper.short for report in reports}
    for ax, name in zip(axes[0], names, strict=True):
        _dots_of(ax, name, rows, places, short)
        ax.set_xlabel(_heading(name, reports, rows))
        style.plain_log(ax, axis="x")
    left = axes[0, 0]
    left.set_yticks(places, [row.label for row, _ in rows], fontsize=6)
    for group in groups:
        first = min(p for p, (row, _) in zip(places, rows, strict=True) if row.group == group)
        left.annotate(
            group, (0, first - 0.85), xycoords=("axes fraction", "data"), xytext=(2, 0),
            textcoords="offset points", va="center", fontsize=7, fontweight="bold",
        )  # fmt: skip
    left.set_ylim(max(places) + 0.8, min(places) - 1.6)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def _dots_of(
    ax: Axes, name: str, rows: Rows, places: Sequence[float], short: Mapping[str, str]
) -> None:
    """One measurement: a dot a seed and a bar at the mean, a colour a paper."""
    papers = list(dict.fromkeys(row.method for row, _ in rows))
    for place, (row, values) in zip(places, rows, strict=True):
        if name not in values:
            continue
        colour = style.PALETTE[papers.index(row.method) % len(style.PALETTE)]
        marker = style.MARKERS[papers.index(row.method) % len(style.MARKERS)]
        seen = ax.get_legend_handles_labels()[1]
        label = short[row.method]
        ax.plot(
            values[name], np.full(len(values[name]), place), marker, color=colour,
            markersize=3.2, alpha=0.6, label=None if label in seen else label,
        )  # fmt: skip
        ax.plot(np.mean(values[name]), place, "|", color=colour, markersize=9)


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


def files(
    identity: str, card: Comparison, reports: Sequence[inputs.Report], rows: Rows
) -> dict[str, str]:
    """A comparison as Markdown and CSV: text by file name."""
    made = table(identity, card, reports, rows)
    return {
        f"{identity}.md": made.markdown(),
        f"{identity}.csv": to_csv(made.records, COLUMNS),
    }


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
    for identity, card, rows in ran(reports, root):
        for name, text in files(identity, card, reports, rows).items():
            store.write_text(folder_of_tables / name, text)
        about = figures.words(card)
        with style.context():
            try:
                figure = draw(card, reports, rows)
            except NotKept:
                folder_of_figures.mkdir(parents=True, exist_ok=True)
                if kept is None or not figures.take_over(identity, kept, folder_of_figures, about):
                    raise
                taken_over.append(identity)
                continue
            if figure is not None:
                figures.save(figure, folder_of_figures, identity, about, ["png", "svg"])
    return taken_over
