"""The figure of a comparison: dots over rows, or curves along a coordinate with samples below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from repro.coordinates import at_key, canonical
from repro.errors import ReproError
from repro.suite.cards.comparisons import Row
from repro.suite.fingerprint import digest
from repro.suite.report import figures, style
from repro.suite.report.compared import ABOVE, Compared, Rows
from repro.suite.report.results import NotKept

EDGE_NOTE = "Open triangles at the edge of an axis: values at or below 0."
LABEL = 40
"""Most letters of a line beside an axis or a picture."""


def words(compared: Compared) -> dict[str, str]:
    """Title and caption of the figure, with what it leaves out or cannot place; and under `shows` a
    digest of the numbers in it, by which an earlier drawing is known to be one of the same."""
    about = figures.words(compared.card)
    added = [
        f"Not shown for want of a floor: {rows}."
        for name in compared.drawn
        if name.endswith(ABOVE) and (rows := compared.without_floor(name.removesuffix(ABOVE)))
    ]
    if compared.card.along is None and len(compared.in_figure) < len(compared.rows):
        added.append(f"Of rows that are crossed, the best {compared.card.best} of each group.")
    if any(_beyond(compared, name) for name in compared.drawn):
        added.append(EDGE_NOTE)
    caption = " ".join([about["caption"], *added])
    return {**about, "caption": caption, "shows": digest(_shown(compared))}


def _shown(compared: Compared) -> list[Any]:
    """Every line of the figure with its numbers, to the digits that a drawing could show."""
    names = compared.drawn
    return [
        [row.group, row.label, row.method, at_key(row.at), name, [f"{v:.6g}" for v in values[name]]]
        for row, values in compared.in_figure
        for name in names
        if name in values
    ]


def draw(compared: Compared, *, partly: bool = False) -> Figure | None:
    """What the card says to draw of the rows that ran, or None where that is nothing.

    A panel a quantity: rows downwards by group, a dot a seed, a bar at the mean; or, with
    ``along``, a panel a group with its curves over that coordinate and all others in grey, and
    below them samples of the rows that have pictures. Axes are logarithmic where anything is
    positive; what is not is then marked at the edge. partly: rows whose pictures are not here are
    drawn without them.

    Raises:
        NotKept: pictures are not here.
        ReproError: a quantity is in several units.
    """
    for name in compared.drawn:
        if len(units := compared.units(name)) > 1:
            raise ReproError(
                f"a comparison draws `{name}`, which is in {' and '.join(units)} of its rows; "
                "correct `figure` of the card under comparisons/"
            )
    if not compared.drawn:
        return None
    return _dots(compared) if compared.card.along is None else _curves(compared, partly)


def _positive(compared: Compared, name: str) -> bool:
    """Whether a quantity has a place on a logarithmic axis."""
    return any((values[name] > 0).any() for _, values in compared.rows if name in values)


def _beyond(compared: Compared, name: str) -> bool:
    """Whether something of a quantity is marked at the edge of its axis."""
    curves = compared.card.along is not None
    shown = [values[name] for _, values in compared.rows if name in values]
    lowest = [np.mean(values) if curves else np.min(values) for values in shown]
    return _positive(compared, name) and min(lowest) <= 0


def _label(compared: Compared, name: str) -> str:
    return textwrap.fill(compared.title(name), LABEL)


# Curves ------------------------------------------------------------------------------------------

Key = tuple[str, str, str, str, str]
"""Group, label, method, arm of a curve, and the coordinates that do not vary."""

Lines = dict[Key, Rows]
"""The rows of each curve."""


def _lines(compared: Compared, along: str) -> Lines:
    lines: Lines = {}
    for row, values in compared.rows:
        fixed = at_key({k: v for k, v in row.at.items() if k != along})
        key = (row.group, row.label, row.method, row.arm, fixed)
        lines.setdefault(key, []).append((row, values))
    return lines


def _entry(compared: Compared, key: Key) -> str:
    """Text of a curve in the legend of its panel, no wider than that."""
    return textwrap.fill(f"{key[1]} ({compared.reports[key[2]].paper.short})", LABEL)


def _curves(compared: Compared, partly: bool) -> Figure:
    along, names = compared.card.along or "", compared.drawn
    every = _lines(compared, along)
    strips = _strips(compared, [points[0][0] for points in every.values()], partly)
    lines = {
        key: points
        for key, points in every.items()
        if any(name in values for _, values in points for name in names)
    }
    upper, strip = _height(compared, lines), 0.52
    figure = style.figure("full", upper + strip * len(strips))
    above: FigureBase = figure
    if strips:
        heights = [upper, strip * len(strips)]
        parts: Any = figure.subfigures(2, 1, height_ratios=heights, hspace=0.02)
        above = parts[0]
        _draw_strips(parts[1], along, strips)
    _draw_curves(above, compared, lines)
    return figure


WIDE = 3
"""Most panels beside each other."""


def _groups(lines: Lines) -> list[str]:
    return list(dict.fromkeys(group for group, *_ in lines))


def _height(compared: Compared, lines: Lines) -> float:
    """Inches of all panels with their legends."""
    groups = _groups(lines)
    legends = ["\n".join(_entry(compared, key) for key in lines if key[0] == g) for g in groups]
    longest = max(text.count("\n") + 1 for text in legends)
    depth = -(-len(groups) // WIDE)
    return depth * len(compared.drawn) * (1.8 + 0.13 * longest)


def _draw_curves(figure: FigureBase, compared: Compared, lines: Lines) -> None:
    """A panel a group for each quantity."""
    groups, names = _groups(lines), compared.drawn
    columns = min(WIDE, len(groups))
    depth = -(-len(groups) // columns)
    grid = figure.subplots(depth * len(names), columns, squeeze=False, sharex=True)
    for ax in grid.flat:
        ax.set_visible(False)
    for place, name in enumerate(names):
        panels = grid[place * depth : (place + 1) * depth].flatten()[: len(groups)]
        for ax, group in zip(panels, groups, strict=True):
            _one_group(ax, compared, lines, name, group)
        for ax in panels[::columns]:
            ax.set_ylabel(_label(compared, name), fontsize=6)
        _same_scales(panels, _positive(compared, name))


Strips = list[tuple[Row, np.ndarray]]


def _strips(compared: Compared, rows: Sequence[Row], partly: bool) -> Strips:
    """The pictures of the rows that have some, of the first seed of their arm."""
    found = []
    for row in rows:
        if not row.pictures:
            continue
        results = compared.reports[row.method].results
        try:
            found.append((row, results.array(row.arm, min(results.seeds(row.arm)), _picture(row))))
        except NotKept:
            if not partly:
                raise
    return found


def _picture(row: Row) -> str:
    """The array that a row names, with its coordinates filled in."""
    name = row.pictures
    for key, value in row.at.items():
        name = name.replace(f"{{{key}}}", canonical(value))
    return name


def _draw_strips(figure: FigureBase, along: str, strips: Strips) -> None:
    """A line of pictures each, as many as the shortest has."""
    count = min(len(pictures) for _, pictures in strips)
    cells = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for ax, (row, pictures) in zip(cells, strips, strict=True):
        pictures = np.asarray(pictures)[:count].squeeze()
        ax.imshow(np.concatenate(list(pictures), 1), cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
        text = textwrap.fill(f"{row.label}, {along.upper()} {row.at[along]:g}", LABEL)
        ax.text(-0.01, 0.5, text, transform=ax.transAxes, ha="right", va="center", fontsize=6)


def _same_scales(panels: Iterable[Axes], logarithmic: bool) -> None:
    """Axes with plain numbers, and the same heights in all panels."""
    if logarithmic:
        for ax in panels:
            ax.set_yscale("log")
    limits = np.array([ax.get_ylim() for ax in panels])
    for ax in panels:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        style.plain_log(ax, axis="x")
        if logarithmic:
            style.plain_log(ax)


def _one_group(ax: Axes, compared: Compared, lines: Lines, name: str, group: str) -> None:
    """Curves of one group in colour over those of all others in grey."""
    ax.set_visible(True)
    index, along = 0, compared.card.along or ""
    logarithmic = _positive(compared, name)
    for key, points in lines.items():
        have = [(row.at[along], values[name]) for row, values in points if name in values]
        if not have:
            continue
        x = np.array([place for place, _ in have])
        mean = np.array([np.mean(values) for _, values in have])
        edge = logarithmic & (mean <= 0)
        shown = np.where(edge, np.nan, mean)
        if key[0] != group:
            ax.plot(x, shown, ".-", color=style.GRID, markersize=3, linewidth=1, zorder=1)
            continue
        low, high = (np.array([f(values) for _, values in have]) for f in (np.min, np.max))
        colour = style.PALETTE[index % len(style.PALETTE)]
        ax.plot(
            x, shown, style.MARKERS[index % len(style.MARKERS)], color=colour, markersize=4,
            linestyle="-", linewidth=1, label=_entry(compared, key),
        )  # fmt: skip
        ax.vlines(x[~edge], low[~edge], high[~edge], color=colour, linewidth=1)
        style.at_edge(ax, x[edge], colour, axis="y")
        index += 1
    ax.grid(visible=False)
    if index:
        ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), fontsize=5.5)
    ax.set_title(group, fontsize=8)
    ax.set_xlabel(along.upper(), fontsize=7)
    ax.tick_params(labelbottom=True, labelsize=7)


# Dots --------------------------------------------------------------------------------------------


def _dots(compared: Compared) -> Figure:
    names = compared.drawn
    rows = [(row, values) for row, values in compared.in_figure if values.keys() & {*names}]
    groups = list(dict.fromkeys(row.group for row, _ in rows))
    places = [i + groups.index(row.group) * 0.8 for i, (row, _) in enumerate(rows)]
    figure, axes = style.subplots(
        1, len(names), width="full", height=0.17 * len(rows) + 0.3 * len(groups) + 0.9, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for ax, name in zip(axes[0], names, strict=True):
        logarithmic = _positive(compared, name)
        _dots_of(ax, compared, name, rows, places, logarithmic)
        ax.set_xlabel(_label(compared, name))
        if logarithmic:
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
    found: dict[str, Any] = {}
    for ax in axes[0]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    labels = list(found)
    figure.legend(found.values(), labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def _dots_of(
    ax: Axes,
    compared: Compared,
    name: str,
    rows: Rows,
    places: Sequence[float],
    logarithmic: bool,
) -> None:
    """One quantity: a dot a seed and a bar at the mean, a colour a paper."""
    papers = list(dict.fromkeys(row.method for row, _ in rows))
    for place, (row, values) in zip(places, rows, strict=True):
        if name not in values:
            continue
        colour = style.PALETTE[papers.index(row.method) % len(style.PALETTE)]
        marker = style.MARKERS[papers.index(row.method) % len(style.MARKERS)]
        seen = ax.get_legend_handles_labels()[1]
        label = compared.reports[row.method].paper.short
        edge = logarithmic & (values[name] <= 0)
        shown = values[name][~edge]
        ax.plot(
            shown, np.full(len(shown), place), marker, color=colour, linestyle="none",
            markersize=3.2, alpha=0.6, label=None if label in seen else label,
        )  # fmt: skip
        style.at_edge(ax, [place] * int(edge.any()), colour, axis="x")
        mean = np.mean(values[name])
        if mean > 0 or not logarithmic:
            ax.plot(mean, place, "|", color=colour, markersize=9)
