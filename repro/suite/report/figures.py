"""Figures of one method: the functions that its card names, drawn in the suite's style."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite.report import inputs, style
from repro.suite.report.results import NotKept

MOST_INCHES = 1000

PRESENTATION: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
}


def write(report: inputs.Report, folder: Path, kept: Path | None = None) -> list[str]:
    """Draw the figures of a method that belong to a scale into a folder.

    Each becomes `<id>.png` (200 dpi), `<id>.svg` unless it holds pictures, and `<id>.json` with
    title, caption, a description for readers who do not see it, and its width in inches.

    Args:
        kept: folder of earlier drawings. A figure that needs arrays which are not here
            (`report.results.NotKept`) is taken over from there, with the card's title and caption.

    Returns:
        The ids of the figures that were taken over.

    Raises:
        ReproError: the function of a figure does not exist, fails, or returns no figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken_over = []
    for card in report.method.figures(report.scale):
        style.assign(report.experiment.arms)
        with style.context():
            try:
                figure = _draw(card, report)
            except NotKept:
                if kept is None or not take_over(card.id, kept, folder, words(card)):
                    raise
                taken_over.append(card.id)
                continue
            formats = ["png"] if _has_pictures(figure) else ["png", "svg"]
            save(figure, folder, card.id, words(card), formats)
    return taken_over


def words(card: Any) -> dict[str, str]:
    """Title and caption of a figure, as its card has them."""
    return {"title": card.title, "caption": " ".join(card.caption.split())}


def save(
    figure: Figure, folder: Path, identity: str, about: dict[str, str], formats: Sequence[str]
) -> None:
    """Write a figure in some formats, and what it shows as JSON."""
    for suffix in formats:
        with store.atomic(folder / f"{identity}.{suffix}") as temporary:
            try:
                figure.savefig(temporary, format=suffix, **PRESENTATION[suffix])
            except (ValueError, RuntimeError) as error:  # `$` of a text that is no mathematics
                why = " ".join(str(error).split())[:200]
                raise ReproError(f"figure {identity} cannot be drawn: {why}") from error
    drawn = {"alt": describe(figure), "inches": round(float(figure.get_figwidth()), 2)}
    store.write_json(folder / f"{identity}.json", {"id": identity, **about, **drawn})


def take_over(identity: str, kept: Path, folder: Path, about: dict[str, str]) -> bool:
    """Copy an earlier drawing, with today's title and caption; False where there is none, or one of
    other numbers (by what `about` and the drawing say under `shows`)."""
    if not (kept / f"{identity}.json").is_file():
        return False
    drawn = read_about(kept, identity)
    if drawn.get("shows") != about.get("shows"):
        return False
    for name in (f"{identity}.png", f"{identity}.svg"):
        if (kept / name).is_file():
            shutil.copyfile(kept / name, folder / name)
    store.write_json(folder / f"{identity}.json", {**drawn, **about})
    return True


def read_about(folder: Path, identity: str) -> dict[str, Any]:
    """What `save` says of a figure: id, title, caption, alt, and its width in inches.

    Raises:
        ReproError: the file is missing or says something else.
    """
    path = folder / f"{identity}.json"
    found = store.read_json(path)
    words = ("id", "title", "caption", "alt")
    if (
        not isinstance(found, dict)
        or not all(isinstance(found.get(key), str) for key in words)
        or found["id"] != identity
        or type(found.get("inches")) not in (float, int)
        or not 0 < found["inches"] < MOST_INCHES
    ):
        raise ReproError(f"{short(path)}: does not say what the figure shows; make it again")
    return found


def _draw(card: Any, report: inputs.Report) -> Figure:
    module, _, name = card.run.partition(":")
    where = f"{report.paper.slug}: figure {card.id!r} ({card.run})"
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ReproError(f"{where} cannot be loaded: {error}") from error
    try:
        figure = function(report.results)
    except ReproError as error:
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        raise ReproError(f"{where} failed: {type(error).__name__}: {error}") from error
    if not isinstance(figure, Figure):
        raise ReproError(f"{where} returned {type(figure).__name__}; return a matplotlib Figure")
    return figure


def _has_pictures(figure: Figure) -> bool:
    return any(ax.images for ax in figure.axes)


def describe(figure: Figure) -> str:
    """What a figure shows, in words: the axes and the series, panel by panel."""
    if _has_pictures(figure):
        pictures = [ax for ax in figure.axes if ax.images]
        titles = [_one_line(title) for ax in pictures if (title := _title(ax))]
        text = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
        return f"{text}: {', '.join(dict.fromkeys(titles))}." if titles else f"{text}."
    panels = [_panel(ax) for ax in figure.axes if ax.has_data()]
    return " ".join(dict.fromkeys(panels)) or "An empty figure."


def _panel(ax: Axes) -> str:
    title, x, y = (_one_line(t) for t in (_title(ax), ax.get_xlabel(), ax.get_ylabel()))
    text = f"{title}: " if title else ""
    text += f"{y or 'values'} against {x}" if x else f"{y or 'values'}"
    scales = [
        axis for axis, scale in (("x", ax.get_xscale()), ("y", ax.get_yscale())) if scale == "log"
    ]
    if scales:
        text += f" (logarithmic {' and '.join(scales)})"
    labels = [_one_line(label) for label in ax.get_legend_handles_labels()[1]]
    labels = labels or _categories(ax)
    return f"{text}; {', '.join(labels)}." if labels else f"{text}."


def _categories(ax: Axes) -> list[str]:
    """Words on the axes, such as the names beside bars."""
    texts = [tick.get_text() for axis in (ax.yaxis, ax.xaxis) for tick in axis.get_ticklabels()]
    return [_one_line(text) for text in texts if any(c.isalpha() for c in text)]


def _title(ax: Axes) -> str:
    return next((t for loc in ("left", "center", "right") if (t := ax.get_title(loc=loc))), "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
