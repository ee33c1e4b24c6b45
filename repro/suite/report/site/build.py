"""The site of one scale or of several: plain files that open from disk and can be hosted.

``index.html`` lists all claims, ``<slug>.html`` shows one paper, ``comparisons.html`` what several
papers measure alike, ``pictures/`` the drawings. Style and script stand in each page, so nothing is
loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import store
from repro.suite.audit import table as audit
from repro.suite.report import comparisons, inputs, ledger, summary
from repro.suite.report.inputs import HEADINGS, Report, headline, held
from repro.suite.report.site import drawing, html, paper, pictures, places
from repro.suite.report.site.drawing import Mark
from repro.suite.report.site.effects import Effect
from repro.suite.report.site.paper import Claimed, Pages
from repro.suite.report.site.places import Tree
from repro.suite.words import KINDS, OF_THE_PAPER, SCALES


@dataclass(frozen=True)
class Scale:
    """What a site shows of one scale."""

    source: inputs.Filed
    reports: list[Report]


def write(scales: Sequence[Scale], folder: Path) -> Path:
    """Write the site into a folder of its own, which is replaced as a whole; returns the index.

    A figure that its source has not is left out with a remark.

    Raises:
        ReproError: inputs cannot be read.
    """
    tree = Tree(folder, places.repository())
    names = list(map(str, SCALES))
    ordered = sorted(scales, key=lambda one: names.index(one.source.scale))
    with store.atomic_folder(folder, durable=False) as site:
        papers = [
            paper.of_paper(reports, {s.source.scale: s.source for s in ordered}, tree, site)
            for reports in _by_paper(ordered)
        ]
        across = [one for scale in ordered for one in _comparisons(scale, site)]
        shared = {
            "scales": [one.source.scale for one in ordered],
            "across": bool(across),
            "nav": [(pages.slug, pages.paper.short) for pages in papers],
        }
        for pages in papers:
            text = html.render("paper.html.j2", **shared, **_but(paper.data(pages), "scales"))
            store.write_text(site / f"{pages.slug}.html", text)
        if across:
            text = html.render("comparisons.html.j2", **shared, comparisons=across)
            store.write_text(site / "comparisons.html", text)
        given = index(ordered, papers)
        store.write_text(site / "index.html", html.render("index.html.j2", **shared, **given))
    return folder / "index.html"


def _but(given: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in keys}


def _by_paper(scales: Sequence[Scale]) -> list[dict[str, Report]]:
    """The reports of each paper by scale, papers in the order of their slugs."""
    found: dict[str, dict[str, Report]] = {}
    for scale in scales:
        for report in scale.reports:
            found.setdefault(report.paper.slug, {})[report.scale] = report
    return [found[slug] for slug in sorted(found)]


# The index ---------------------------------------------------------------------------------------


def index(scales: Sequence[Scale], papers: Sequence[Pages]) -> dict[str, Any]:
    """What `index.html.j2` needs beside what all pages share."""
    rows = [_paper_row(pages) for pages in papers]
    return {
        "headings": HEADINGS,
        "counted": ledger.COUNTED,
        "headlines": [_headline(scale) for scale in scales],
        "papers": rows,
        "count": sum(len(pages.claims) for pages in papers),
        "drawn": sum(len(pages.marks()) for pages in papers),
        "kinds": KINDS,
        "of_the_paper": OF_THE_PAPER,
        "axis": drawing.axis(170, 20),
        "axis_scale": drawing.scale(),
        "example": drawing.large(EXAMPLE),
        "discoveries": [text for s in scales if (text := summary.discoveries(s.reports))],
        "audit": _audit(),
    }


EXAMPLE = Mark(Effect(2.6, 1.4, 4.1, 1.0, (2.1, 2.5, 3.2), paper=3.4), "reproduced")


def _headline(scale: Scale) -> dict[str, Any]:
    """The ledger's headline of a scale, and where its runs were made."""
    every = [pair for report in scale.reports for pair in report.verdicts()]
    return {
        "scale": scale.source.scale,
        "cells": dict(zip(HEADINGS, headline(every), strict=True)),
        "empirical": sum(kind == "empirical" for kind, _ in every),
        "beside": {kind: held(every, kind) for kind in ledger.BESIDE},
        "environment": ledger.environment(scale.reports),
    }


def _paper_row(pages: Pages) -> dict[str, Any]:
    """A paper in the forest and its claims in the ledger."""
    marks = pages.marks()
    return {
        "slug": pages.slug,
        "card": pages.paper,
        "headlines": {
            scale: dict(zip(HEADINGS, headline(report.verdicts()), strict=True))
            for scale, report in pages.reports.items()
        },
        "strip": drawing.strip(marks) if marks else "",
        "own": [_claim_row(c) for c in pages.of_kind(*OF_THE_PAPER)],
        "others": [_claim_row(c) for c in pages.of_kind(*{*KINDS} - {*OF_THE_PAPER})],
    }


def _claim_row(claimed: Claimed) -> dict[str, Any]:
    lines = []
    for judged in claimed.scales:
        deciding = judged.deciding
        mark = deciding.mark if deciding else None
        lines.append(
            {
                "judged": judged,
                "sentence": deciding.sentence if deciding else None,
                "svg": drawing.small(mark) if mark else "",
            }
        )
    return {"claimed": claimed, "lines": lines, "verdicts": " ".join({*claimed.verdicts.values()})}


def _audit() -> dict[str, Any] | None:
    """The table of how the judge is tested; None where none is kept.

    Raises:
        ReproError: the kept table is damaged.
    """
    kept = audit.read()
    return None if kept is None else audit.overview(kept)


# Across papers -----------------------------------------------------------------------------------


def _comparisons(scale: Scale, site: Path) -> list[dict[str, Any]]:
    """Tables and drawings of what several papers measure alike at a scale."""
    folder = scale.source.drawings(comparisons.FOLDER)
    name = scale.source.scale
    found = []
    for identity, compared in comparisons.ran(scale.reports, scale.source.root):
        made = comparisons.table(identity, compared)
        short = comparisons.best(compared, made)
        figure = None
        if (folder / f"{identity}.json").is_file():
            target = places.anchor(comparisons.FOLDER, name, identity)
            figure = pictures.show(folder, identity, site, target)
        anchor = places.anchor(name, identity)
        found.append({"scale": name, "id": anchor, "table": made, "best": short, "figure": figure})
    return found


def scales_of(sources: Iterable[inputs.Filed]) -> list[Scale]:
    """What sources hold, those that hold something."""
    read = [Scale(source, inputs.load_all(source)) for source in sources]
    return [scale for scale in read if scale.reports]
