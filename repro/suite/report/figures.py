"""Figures of one method: the functions that its card names, drawn in the suite's style."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro import store
from repro.errors import ReproError
from repro.suite.report import inputs, style

PRESENTATION = {"png": {"metadata": {"Software": None}}, "svg": {"metadata": {"Date": None}}}


def write_figures(
    method: str, scale: str, work: Path, out: Path, root: Path | None = None
) -> list[Path]:
    """Draw the figures of a method's card that belong to a scale.

    Each becomes `<id>.png` (200 dpi), `<id>.svg` unless it holds pictures, and `<id>.json` with
    title, caption, a description for readers who do not see it, and its width in inches.

    Args:
        method: slug.
        scale: name of the scale.
        work: folder of the scale.
        out: the report's folder; figures go to `out/figures/<slug>/`.
        root: folder that holds `methods/`, by default the repository.

    Returns:
        The files written.

    Raises:
        ReproError: the function of a figure does not exist, fails, or returns no figure.
    """
    report = inputs.load(method, scale, work, root)
    folder = Path(out) / "figures" / report.paper.slug
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for card in report.method.figures(scale):
        style.assign(report.experiment.arms)
        with style.context():
            figure = _draw(card, report)
            formats = ["png"] if _has_pictures(figure) else ["png", "svg"]
            for suffix in formats:
                path = folder / f"{card.id}.{suffix}"
                with store.atomic(path) as temporary:
                    figure.savefig(temporary, format=suffix, **PRESENTATION[suffix])
                written.append(path)
        path = folder / f"{card.id}.json"
        store.write_json(
            path,
            {
                "id": card.id,
                "title": card.title,
                "caption": " ".join(card.caption.split()),
                "alt": describe(figure),
                "inches": round(float(figure.get_figwidth()), 2),
            },
        )
        written.append(path)
    return written


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
        raise ReproError(f"{where}: {error}") from error
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
