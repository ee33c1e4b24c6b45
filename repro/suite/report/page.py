"""One self-contained HTML page per scale: no network, no script or style from elsewhere."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite.cards.base import WEB_ADDRESS
from repro.suite.cards.paper import Claim, ReferenceTable
from repro.suite.report import comparisons, figures, inputs, ledger, summary, tables
from repro.suite.report.formatting import detectable, margin, number, seconds
from repro.suite.report.inputs import (
    EVIDENCE,
    MEANINGS,
    SYMBOLS,
    TIER_MEANINGS,
    Report,
    paper_number,
)
from repro.suite.words import TIERS, VERDICTS

SCALE_MEANINGS = {
    "smoke": "minimal sizes that exercise the code",
    "small": "small models and small real data, up to an hour of a processor per method",
    "gpu": "larger models and data, minutes of one GPU per method",
    "paper": "official weights and data",
}
LARGEST_PICTURE = 250_000
"""Bytes above which the page embeds a picture as WebP instead of the PNG beside it."""

WIDEST_PICTURE = 1200
"""Pixels to which such a picture is reduced; the page shows at most 940 units of width."""


def write(source: inputs.Source, reports: list[Report], path: Path) -> Path:
    """Write the page of a scale; returns it.

    A figure that its source has not is left out with a remark.

    Raises:
        ReproError: inputs cannot be read.
    """
    store.write_text(path, render(source, reports))
    return path


def render(source: inputs.Source, reports: list[Report]) -> str:
    """HTML of the page."""
    counts = {v: sum(r.counts()[v] for r in reports) for v in VERDICTS}
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            scale=source.scale,
            scale_meaning=SCALE_MEANINGS.get(source.scale, ""),
            counts=counts,
            environment=ledger.environment(reports),
            discoveries=summary.discoveries(reports),
            papers=[_paper(report) for report in reports],
            comparisons=_comparisons(source, reports),
            verdicts=VERDICTS,
            tiers=TIERS,
            meanings=MEANINGS,
            tier_meanings=TIER_MEANINGS,
            example=interval_svg(
                {"margin": 0.6, "margin_low": 0.35, "margin_high": 0.85, "n_seeds": 3}, "reproduced"
            ),
        )
    )


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("repro.suite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "prose": prose,
        "breakable": breakable,
        "number": number,
        "seconds": seconds,
        "symbol": lambda verdict: SYMBOLS[verdict],
        "evidence": lambda mark: EVIDENCE[mark],
        "minute": lambda stamp: (stamp or "unknown")[:16].replace("T", " "),
        "day": lambda stamp: (stamp or "")[:10] or "unknown",
    }
    environment.tests |= {"web": lambda url: WEB_ADDRESS.fullmatch(url) is not None}
    environment.globals |= {"include_raw": _include_raw}
    return environment


def _include_raw(name: str) -> Markup:
    """A style sheet or script as it stands; both are ours and hold no closing tag."""
    source, _, _ = PackageLoader("repro.suite.report").get_source(_templates(), name)
    return Markup(source)


# Words and numbers ------------------------------------------------------------------------------


def prose(text: str) -> Markup:
    """Escaped text with `code` between backticks."""
    parts = re.split(r"`([^`]+)`", " ".join(str(text).split()))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def breakable(text: str) -> Markup:
    """Escaped text that may break after punctuation (long names, paths, expressions)."""
    safe = re.sub(r"([/_,=](?=\w)|[.-](?=[a-z]))", r"\1<wbr>", str(escape(text)))
    return Markup(re.sub(r"(\b\d[\d.]*e-\d+)", r'<span class="number">\1</span>', safe))


# A paper ----------------------------------------------------------------------------------------


def _paper(report: Report) -> dict[str, Any]:
    paper, experiment = report.paper, report.experiment
    drawn, missing = _figures(report)
    everything = tables.measurement_tables(report)
    return {
        "card": paper,
        "slug": paper.slug,
        "citation": paper.citation(),
        "bibtex": paper.bibtex(),
        "counts": report.counts(),
        "claims": [_claim(report, claim) for claim in paper.claims],
        "figures": drawn,
        "missing_figures": missing,
        "tables": [tables.card_table(report, card) for card in experiment.tables],
        "measurements": everything,
        "costs": [table for table in tables.cost_tables(report) if table.id != "claims"],
        "provenance": _provenance(report),
        "references": [_reference(table) for table in paper.tables],
        "licences": [
            (kind, text) for kind, text in dict(paper.licence).items() if text not in (None, "")
        ],
    }


def _comparisons(source: inputs.Source, reports: list[Report]) -> list[dict[str, Any]]:
    folder = source.drawings(comparisons.FOLDER)
    found = []
    for identity, card, rows in comparisons.ran(reports, source.root):
        made = comparisons.table(identity, card, reports, rows)
        figure = None
        if (folder / f"{identity}.json").is_file():
            about = figures.read_about(folder, identity)
            figure = {**about, "wide": True, "uri": _data_uri(folder, identity)}
        found.append({"id": identity, "table": made, "figure": figure})
    return found


def _reference(table: ReferenceTable) -> dict[str, Any]:
    """A table of the paper, its numbers as the card gives them but for separators in large ones."""
    columns = list(zip(*table.rows, strict=True)) or [() for _ in table.columns]
    return {
        "card": table,
        "numeric": [all(v is None or isinstance(v, (int, float)) for v in c) for c in columns],
        "rows": [[_as_given(value) for value in row] for row in table.rows],
    }


def _as_given(value: float | int | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and abs(value) >= 10_000 and float(value).is_integer():
        return number(value)
    return str(value)


def _claim(report: Report, claim: Claim) -> dict[str, Any]:
    judged = report.claims.get(claim.id, {})
    verdict = report.claim_verdict(claim.id)
    checks = [_check(report, check) for check in report.claim_checks(claim.id)]
    deciding = next((check for check in checks if check["verdict"] == verdict), None)
    return {
        "card": claim,
        "anchor": f"{report.paper.slug}.{claim.id}",
        "verdict": verdict,
        "tier": judged.get("tier") or claim.best_tier,
        "judged": verdict != "untested",
        "reason": judged.get("reason") if verdict == "untested" else "",
        "paper_number": paper_number(claim),
        "facts": [
            text
            for text in (
                claim.metric if paper_number(claim) else "",
                claim.setting,
                claim.where,
                EVIDENCE[claim.evidence] if claim.evidence != "unsure" else "",
            )
            if text
        ],
        "comparable": bool(checks) and all(check["comparable"] for check in checks),
        "checks": checks,
        "deciding": deciding,
        "findings": report.findings(claim.id),
    }


def _check(report: Report, check: Mapping[str, Any]) -> dict[str, Any]:
    own = report.paper_says(check)
    seeds = int(check.get("n_seeds") or 0)
    several = seeds > 1 and check["margin_low"] != check["margin_high"]
    return {
        **check,
        "svg": interval_svg(check, check["verdict"]),
        "small_svg": interval_svg(check, check["verdict"], small=True),
        "margin_text": margin(check),
        "detectable_text": detectable(check) if several else "",
        "runs_text": f"{seeds} seeds" if seeds > 1 else "one run",
        "own_paper": own if own != paper_number(report.paper.claim(check["claim"])) else "",
    }


def interval_svg(check: Mapping[str, Any], verdict: str, small: bool = False) -> Markup:
    """Margin with its interval against the threshold (the line in the middle).

    The side that the claim predicts is tinted. Thin dots are seeds. The axis is scaled to the
    check, so lengths of different checks do not compare.
    """
    mean = check.get("margin")
    if mean is None:
        return Markup("")
    low, high = (_or(check.get(key), mean) for key in ("margin_low", "margin_high"))
    seeds = [float(v) for v in check.get("margins") or ()]
    width, height = (112, 18) if small else (260, 34)
    middle, y = width / 2, height / 2
    extent = max(abs(v) for v in (mean, low, high, *seeds)) or 1.0

    def x(value: float) -> str:
        return f"{middle + (middle - 7) * value / extent:.1f}"

    label = (
        f"margin {margin(check)}; the predicted side is above {1 if check.get('by_ratio') else 0}"
    )
    parts = [
        f'<svg class="interval {escape(verdict)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(label)}">',
        f'<rect class="side" x="{middle}" y="0" width="{middle}" height="{height}" rx="3"/>',
        f'<line class="axis" x1="0" x2="{width}" y1="{y}" y2="{y}"/>',
        f'<line class="zero" x1="{middle}" x2="{middle}" y1="0" y2="{height}"/>',
    ]
    if low != high:
        parts += _bar(x(low), x(high), y, 3 if small else 5)
    if not small and len(seeds) > 1:
        parts += [f'<circle class="seed" cx="{x(v)}" cy="{y + 11}" r="1.8"/>' for v in seeds]
    radius = 3.5 if small else 5
    parts.append(f'<circle class="mean" cx="{x(mean)}" cy="{y}" r="{radius}"/></svg>')
    return Markup("".join(parts))


def _or(value: float | None, other: float) -> float:
    return other if value is None else float(value)


def _bar(low: str, high: str, y: float, cap: int) -> list[str]:
    """A line from end to end with a cap at each."""
    return [
        f'<line class="bar" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>',
        *(
            f'<line class="cap" x1="{end}" x2="{end}" y1="{y - cap}" y2="{y + cap}"/>'
            for end in (low, high)
        ),
    ]


def _figures(report: Report) -> tuple[list[dict[str, Any]], list[str]]:
    found, missing = [], []
    for card in report.method.figures(report.scale):
        if not (report.drawings / f"{card.id}.json").is_file():
            missing.append(card.title)
            continue
        figure = figures.read_about(report.drawings, card.id)
        uri = _data_uri(report.drawings, card.id)
        found.append({**figure, "wide": figure["inches"] > 4.5, "uri": uri})
    return found, missing


def _data_uri(folder: Path, name: str) -> str:
    """The drawing as a data URI: SVG if there is a small one, else PNG, or WebP if large.

    Raises:
        ReproError: there is none, or it is no picture.
    """
    try:
        kind, content = _drawing(folder, name)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ReproError(
            f"{short(folder / name)}.png: cannot be read ({why}); draw it again"
        ) from error
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _drawing(folder: Path, name: str) -> tuple[str, bytes]:
    """Kind and content of what the page shows."""
    drawing = folder / f"{name}.svg"
    if drawing.is_file() and drawing.stat().st_size <= LARGEST_PICTURE:
        kind, content = "svg+xml", drawing.read_bytes()
    else:
        kind, content = "png", (folder / f"{name}.png").read_bytes()
        if len(content) > LARGEST_PICTURE:
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            picture.thumbnail((WIDEST_PICTURE, 4 * WIDEST_PICTURE))
            squeezed = io.BytesIO()
            picture.save(squeezed, "WEBP", quality=85)
            if squeezed.tell() < len(content):
                kind, content = "webp", squeezed.getvalue()
    return kind, content


def _provenance(report: Report) -> dict[str, Any]:
    found = ledger.environment([report])
    rows = []
    for kind, records in (
        ("arm", report.results.records),
        ("model", report.results.model_records),
        ("shared model", report.zoo_records),
    ):
        for name in dict.fromkeys(r["arm"] for r in records):
            own = [r for r in records if r["arm"] == name]
            rows.append(
                {
                    "name": name,
                    "kind": kind,
                    "seeds": ", ".join(str(r["seed"]) for r in own),
                    "params": {k: _short(v) for k, v in (own[0].get("params") or {}).items()},
                    "fingerprints": [str(r.get("fingerprint") or "–")[:10] for r in own],
                }
            )
    return {**found, "rows": rows}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"
