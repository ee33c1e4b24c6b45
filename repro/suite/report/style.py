"""One look for every figure of the suite.

Colours are the Okabe-Ito set (Okabe and Ito 2008, "Color universal design"), which stays
distinguishable under the common forms of colour blindness; every arm also has its own marker, so
that no figure relies on colour alone. The colour of an arm is fixed by its place among the names of
its experiment, hence the same in all figures of a method.

A figure function draws inside `with style.context():` (the report does that for it)::

    def enfe_curve(results):
        figure, ax = style.subplots(width="half")
        for arm in results.arms():
            steps, nfe = results.sweep("nfe", arm, "steps")
            style.curve(ax, steps, nfe, arm, label=results.title(arm))
        ax.set(xlabel="sampling steps", ylabel="network evaluations", xscale="log", yscale="log")
        style.legend(ax)
        return figure
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from repro.suite import inference

PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#7F7F7F",  # grey
    "#332288",  # indigo
    "#882255",  # wine
    "#999933",  # olive
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
LINES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))

INK = "#1f2328"
MUTED = "#6b7280"
GRID = "#e3e6ea"

WIDTHS = {"half": 3.5, "full": 7.2}
"""Figure widths in inches: half a page column, and a whole one."""

RC: Any = {
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same glyphs on every machine
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa1a9",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "text.color": INK,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "svg.fonttype": "path",
    "svg.hashsalt": "repro",  # element ids of an SVG depend on the drawing alone
}

Width = Literal["half", "full"]
_order: dict[str, int] = {}


@contextlib.contextmanager
def context() -> Iterator[None]:
    """In it matplotlib draws in the suite's style, whatever a user's matplotlibrc says."""
    with matplotlib.rc_context():
        use()
        yield


def use() -> None:
    """Switch matplotlib to the suite's style for the rest of the process (for notebooks)."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(RC)


def assign(arms: Iterable[str]) -> None:
    """Fix the arms that `colour`, `marker` and `line` tell apart, in the order of their names."""
    _order.clear()
    _order.update({arm: index for index, arm in enumerate(sorted(arms))})


def _index(arm: str) -> int:
    if arm not in _order:
        _order[arm] = len(_order)
    return _order[arm]


def colour(arm: str) -> str:
    """Colour of an arm as a hex string; an arm that was not assigned gets the next free colour."""
    return PALETTE[_index(arm) % len(PALETTE)]


def marker(arm: str) -> str:
    """Matplotlib marker of an arm."""
    return MARKERS[_index(arm) % len(MARKERS)]


def line(arm: str) -> Any:
    """Matplotlib line style of an arm; changes once the colours are used up."""
    return LINES[_index(arm) // len(PALETTE) % len(LINES)]


def figure(width: Width | float = "half", height: float | None = None) -> Figure:
    """Empty figure with constrained layout.

    Args:
        width: "half", "full" or inches.
        height: inches; by default 0.72 of the width for half a column and 0.42 for a whole one.
    """
    inches = WIDTHS[width] if isinstance(width, str) else float(width)
    if height is None:
        height = inches * (0.72 if inches <= 4.5 else 0.42)
    with context():
        return Figure(figsize=(inches, height), layout="constrained")


def subplots(
    rows: int = 1,
    cols: int = 1,
    *,
    width: Width | float = "half",
    height: float | None = None,
    **options: Any,
) -> tuple[Figure, Any]:
    """Figure and its axes, as `Figure.subplots` returns them (one Axes, or an array of them)."""
    made = figure(width, height)
    with context():
        return made, made.subplots(rows, cols, **options)


def legend(ax: Axes, **options: Any) -> None:
    """Frameless legend; more than six entries go to the right of the axes."""
    entries = len(ax.get_legend_handles_labels()[0])
    if entries > 6:
        options = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} | options
    ax.legend(**options)


def band(values: np.ndarray, kind: Literal["range", "interval"] = "range") -> np.ndarray:
    """Centre, lower and upper line of values over seeds.

    Args:
        values: shape (n_x, n_seeds); NaN marks a seed without that point.
        kind: "range" gives median, minimum, maximum; "interval" the mean and the interval by which
            checks are judged (`repro.suite.inference`).

    Returns:
        Array of shape (3, n_x).

    Raises:
        ValueError: values is not two-dimensional, or kind is unknown.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"values have shape {values.shape}; give (n_x, n_seeds)")
    if kind == "range":
        return np.stack([np.nanmedian(values, 1), np.nanmin(values, 1), np.nanmax(values, 1)])
    if kind != "interval":
        raise ValueError(f"unknown band {kind!r}; use 'range' or 'interval'")
    found = [inference.evidence(row[~np.isnan(row)]) for row in values]
    mean, half = np.array([(one.mean, one.half_width) for one in found]).T
    return np.stack([mean, mean - half, mean + half])


def curve(
    ax: Axes,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    arm: str,
    *,
    label: str | None = None,
    kind: Literal["range", "interval"] = "range",
    **options: Any,
) -> None:
    """Line of an arm with its band over the seeds.

    Args:
        ax: axes to draw on.
        x: shape (n_x,).
        values: shape (n_x, n_seeds) or (n_x,); one seed draws no band.
        arm: gives colour, marker and line style.
        label: legend text, by default the arm's name.
        kind: band, see `band`.
        options: passed to `Axes.plot`.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim == 1:
        values = values[:, None]
    x = np.asarray(x)
    centre, low, high = band(values, kind)
    many = len(x) > 25  # markers on a dense curve hide it
    options = {
        "color": colour(arm),
        "marker": None if many else marker(arm),
        "linestyle": line(arm),
        "label": arm if label is None else label,
    } | options
    ax.plot(x, centre, **options)
    if values.shape[1] > 1:
        ax.fill_between(x, low, high, color=options["color"], alpha=0.18, linewidth=0)


def ticks(ax: Axes, values: Sequence[float] | np.ndarray, *, axis: Literal["x", "y"] = "x") -> None:
    """Logarithmic axis with a plain number at each measured value (step counts, bit widths)."""
    (ax.set_xscale if axis == "x" else ax.set_yscale)("log", base=2)
    (ax.set_xticks if axis == "x" else ax.set_yticks)(
        list(values), [f"{value:g}" for value in values]
    )


def plain_log(ax: Axes, *, axis: Literal["x", "y"] = "y") -> None:
    """Logarithmic axis with plain numbers: at 1, 2 and 5 of every decade where there are few.

    Call it when the data are drawn.
    """
    (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
    lines = ax.xaxis if axis == "x" else ax.yaxis
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    lines.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    lines.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    lines.set_minor_formatter(NullFormatter())


def at_edge(
    ax: Axes, places: Sequence[float] | np.ndarray, colour: str, *, axis: Literal["x", "y"] = "y"
) -> None:
    """Open triangles at the lower edge of an axis, for values that a logarithmic one cannot hold.

    Args:
        ax: axes to draw on.
        places: shape (n,), on the other axis.
        colour: of the triangles.
        axis: the one at whose lower edge they stand.
    """
    if not len(places):  # a line without points, not clipped, upsets the layout
        return
    edge = np.zeros(len(places))
    x, y = (edge, places) if axis == "x" else (places, edge)
    ax.plot(
        x, y, "<" if axis == "x" else "v", color=colour, markerfacecolor="white", markersize=5,
        linestyle="none", clip_on=False, zorder=4,
        transform=ax.get_yaxis_transform() if axis == "x" else ax.get_xaxis_transform(),
    )  # fmt: skip


def reference(ax: Axes, value: float, label: str, *, axis: Literal["x", "y"] = "y") -> None:
    """Thin dashed line at a reference value (a threshold, the full-precision model, the ideal)."""
    draw = ax.axhline if axis == "y" else ax.axvline
    draw(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.0, label=label, zorder=1)


def trade_off(
    ax: Axes,
    cost: np.ndarray,
    quality: np.ndarray,
    arm: str,
    *,
    label: str | None = None,
    annotate: Sequence[object] | None = None,
) -> None:
    """Quality against cost: a point per setting (median over seeds, min-max bars), joined.

    Args:
        ax: axes to draw on.
        cost: shape (n_points, n_seeds) or (n_points,).
        quality: same shape.
        arm: gives colour and marker.
        label: legend text, by default the arm's name.
        annotate: text beside each point, such as the number of steps.
    """
    cost, quality = (np.asarray(a, dtype=float) for a in (cost, quality))
    x, x_low, x_high = band(cost if cost.ndim == 2 else cost[:, None])
    y, y_low, y_high = band(quality if quality.ndim == 2 else quality[:, None])
    ax.errorbar(
        x,
        y,
        xerr=[x - x_low, x_high - x],
        yerr=[y - y_low, y_high - y],
        color=colour(arm),
        marker=marker(arm),
        linestyle=line(arm),
        elinewidth=0.9,
        label=arm if label is None else label,
    )
    for text, px, py in zip(() if annotate is None else annotate, x, y, strict=False):
        ax.annotate(
            str(text), (px, py), xytext=(4, 4), textcoords="offset points", fontsize=7, color=MUTED
        )


def bars(
    ax: Axes,
    arms: Sequence[str],
    values: Sequence[np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    horizontal: bool = True,
) -> None:
    """One bar per arm at the median over seeds, a dot per seed.

    Args:
        ax: axes to draw on.
        arms: names, in drawing order.
        values: per arm an array of shape (n_seeds,).
        titles: tick labels, by default the names.
        horizontal: bars run to the right, the first arm on top.
    """
    places = np.arange(len(arms))
    centres = [float(np.median(v)) for v in values]
    colours = [colour(arm) for arm in arms]
    labels = list(titles or arms)
    if horizontal:
        ax.barh(places, centres, color=colours, height=0.62, alpha=0.85)
        ax.set_yticks(places, labels)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    else:
        ax.bar(places, centres, color=colours, width=0.62, alpha=0.85)
        ax.set_xticks(places, labels)
        ax.grid(axis="x", visible=False)
    for place, seeds in zip(places, values, strict=True):
        seeds = np.asarray(seeds, dtype=float).ravel()
        if len(seeds) > 1:
            at = np.full(len(seeds), place)
            x, y = (seeds, at) if horizontal else (at, seeds)
            ax.plot(x, y, ".", color=INK, markersize=3.5, alpha=0.8)


def _pictures(images: np.ndarray, vmin: float | None, vmax: float | None) -> np.ndarray:
    """Images of any accepted layout as float (N, H, W, 3) in [0, 1]."""
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images have shape {images.shape}; give (N, H, W), (N, H, W, 1|3) or (N, 1|3, H, W)"
        )
    if images.dtype == np.uint8:
        low, high = 0.0 if vmin is None else vmin, 255.0 if vmax is None else vmax
    else:
        low, high = 0.0 if vmin is None else vmin, 1.0 if vmax is None else vmax
    pictures = np.clip((images.astype(float) - low) / (high - low), 0.0, 1.0)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def image_grid(
    images: np.ndarray,
    rows: int,
    cols: int,
    *,
    labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    col_labels: Sequence[str] | None = None,
    width: Width | float = "full",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """Images in rows and columns, filled row by row.

    Args:
        images: uint8 0..255, or floats in [vmin, vmax] (default [0, 1]; clipped), of shape
            (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3 and N <= rows * cols.
        rows: number of rows.
        cols: number of columns.
        labels: text over each image.
        row_labels: text left of each row.
        col_labels: text over each column.
        width: see `figure`.
        vmin: value shown black.
        vmax: value shown white.

    Raises:
        ValueError: a layout other than those above, or more images than places.
    """
    pictures = _pictures(images, vmin, vmax)
    count, tall, wide = pictures.shape[:3]
    if count > rows * cols:
        raise ValueError(f"{count} images do not fit {rows} rows of {cols}")
    inches = WIDTHS[width] if isinstance(width, str) else float(width)
    margin = 0.068 * _longest(row_labels) + 0.12 if row_labels else 0.0
    cell = (inches - margin) / cols
    above, heads = _lines(labels), _lines(col_labels)
    top = 0.15 * heads + (0.0 if labels else 0.06) if heads else 0.0
    row_height = cell * tall / wide + (0.15 * above + 0.06 if above else 0.0)
    made = figure(inches, row_height * rows + top)
    made.set_layout_engine("none")
    height = made.get_figheight()
    gap = 0.025
    with context():
        for index, picture in enumerate(pictures):
            row, col = divmod(index, cols)
            left = margin + col * cell
            bottom = height - top - (row + 1) * row_height
            ax = made.add_axes(
                (
                    (left + gap) / inches,
                    (bottom + gap) / height,
                    (cell - 2 * gap) / inches,
                    (cell * tall / wide - 2 * gap) / height,
                )
            )
            ax.imshow(picture, interpolation="nearest", aspect="auto")
            ax.set_axis_off()
            head = _text(col_labels, col) if row == 0 else None
            if title := "\n".join(t for t in (head, _text(labels, index)) if t is not None):
                ax.set_title(title, fontsize=8, fontweight="normal", loc="center", pad=3)
            if col == 0 and (name := _text(row_labels, row)) is not None:
                place = (-0.07 / cell, 0.5)
                ax.text(*place, name, transform=ax.transAxes, ha="right", va="center")
    return made


def _longest(texts: Sequence[str] | None) -> int:
    """Characters of the longest line."""
    return max((len(line) for text in texts or () for line in text.split("\n")), default=0)


def _lines(texts: Sequence[str] | None) -> int:
    """Lines of the tallest text."""
    return max((text.count("\n") + 1 for text in texts or ()), default=0)


def _text(texts: Sequence[str] | None, index: int) -> str | None:
    return texts[index] if texts and index < len(texts) else None
