"""Every claim of every committed scale, for other programs: ``results/claims.json`` and its CSV.

The JSON holds all checks of a claim; the CSV is a row a claim with the check that decides it. A
column of the CSV is a key of the JSON, those of the deciding check after ``check.``; lists and
objects are JSON in their cell, and what is null there is empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.suite import records, verdict
from repro.suite.cards import library
from repro.suite.cards.checks import Check
from repro.suite.export import models
from repro.suite.export.text import json_text
from repro.suite.report import formatting, inputs
from repro.suite.report.inputs import Report
from repro.suite.words import SCALES, TIERS

JSON, CSV = "claims.json", "claims.csv"
FILES = (JSON, CSV)

_LONG = ("checks", "findings")
"""Keys of a claim that a row of the CSV leaves out."""


def columns() -> dict[str, str]:
    """The columns of the CSV with what they hold."""
    own = {n: f for n, f in models.ClaimResult.model_fields.items() if n not in _LONG}
    found = {name: field.description or "" for name, field in own.items()}
    fields = models.CheckOfClaim.model_fields.items()
    return found | {f"check.{name}": field.description or "" for name, field in fields}


# Reading ----------------------------------------------------------------------------------------


def committed(
    results: Path,
    scales: Sequence[str] = SCALES,
    slugs: Sequence[str] | None = None,
    known: Mapping[str, Sequence[Report]] | None = None,
) -> models.Claims:
    """The claims of the committed results, judged anew.

    Args:
        results: folder with ``<scale>/<method>/``.
        slugs: only these papers.
        known: scale → reports of all its methods, where they are read already.

    Raises:
        ReproError: a card has a mistake. Runs that cannot be judged are named in what is returned.
    """
    claims: list[models.ClaimResult] = []
    failed: list[models.NotJudged] = []
    for scale in [scale for scale in SCALES if scale in scales]:
        if known is not None and scale in known:
            claims += [claim for report in known[scale] for claim in of_report(report)]
            continue
        source = inputs.Committed(scale, results / scale)
        there = source.slugs()
        for slug in library.slugs():
            if slug in there and (slugs is None or slug in slugs):
                try:
                    claims += of_report(inputs.load(slug, source))
                except ReproError as error:
                    why = " ".join(str(error).split())
                    failed.append(models.NotJudged(scale=scale, paper=slug, reason=why))
    return models.Claims(format="repro-claims", version=1, claims=claims, not_judged=failed)


def of_report(report: Report) -> list[models.ClaimResult]:
    """The claims of a method at a scale, in the order of its card.

    Raises:
        ReproError: a precondition or a control cannot be evaluated.
    """
    measured = verdict.measurements(report.method, report.results.records)
    gates = verdict.preconditions(report.method, report.scale, measured)
    found = []
    for claim in report.paper.claims:
        judged = report.claims.get(claim.id, {})
        own = report.claim_checks(claim.id)
        said = report.claim_verdict(claim.id)
        chosen = deciding(own, said)
        facts = {
            "scale": report.scale,
            "paper": report.paper.slug,
            "claim": claim.id,
            "paper_baseline": claim.baseline,
            "paper_method": claim.method,
            **{key: getattr(claim, key) for key in _AS_CARD},
            "tier": judged.get("tier") or None,
            "verdict": said,
            "reason": judged.get("reason") or "",
            "deciding": None if chosen is None else chosen["id"],
            "checks": [_check(report, check, gates, measured) for check in own],
            "findings": report.findings(claim.id),
            "records": f"{report.scale}/{report.paper.slug}/records.csv",
            "measurements": f"{report.scale}/{report.paper.slug}/runs.csv",
        }
        found.append(models.ClaimResult.model_validate(facts))
    return found


def deciding(checks: Sequence[Mapping[str, Any]], said: str) -> Mapping[str, Any] | None:
    """The check on which a claim's verdict hangs; None where it has none.

    Of those with the verdict of the claim: the one that the claim rests on most weakly where it is
    reproduced (highest tier, then largest p), and the one that speaks most clearly against it where
    it is not (smallest p); the first in the card where p does not tell them apart.
    """
    own = [check for check in checks if check["verdict"] == said]
    if not own:
        return None
    if said == "reproduced":
        return max(own, key=lambda c: (TIERS.index(c["tier"]), -1 if c["p"] is None else c["p"]))
    return min(own, key=lambda c: -1 if c["p"] is None else c["p"])


_AS_CARD = ("kind", "statement", "metric", "unit", "setting", "where", "evidence", "best_tier")
_AS_JUDGED = (
    *("id", "tier", "verdict", "expect", "why", "observed", "by_ratio", "link", "n_seeds"),
    *("margins", "comparable", "reason"),
)
"""Keys that a claim and a check have as the card and the judge have them."""


def _check(
    report: Report,
    check: dict[str, Any],
    gates: Mapping[str, verdict.Gate],
    measured: verdict.Measurements,
) -> models.CheckOfClaim:
    card = report.method.checks(report.scale)[check["id"]]
    runs = _runs(report, card.parsed.references(), check["n_seeds"])
    numbers = _numbers(check)
    facts = {
        **{key: check[key] for key in _AS_JUDGED},
        **{key: value for key, (value, _) in numbers.items()},
        "interval": formatting.margin(check),
        "needs": [_need(gates[name]) for name in card.needs],
        "control": _control(report, card, measured),
        "paper": report.paper_says(check),
        "timing": report.is_timing(check),
        "runs": [f"{run['arm']}/{run['seed']}" for run in runs],
        "commits": sorted({str(run["commit"]) for run in runs if run["commit"]}),
        "absent": {key: why for key, (value, why) in numbers.items() if value is None},
    }
    return models.CheckOfClaim.model_validate(facts)


def _numbers(check: Mapping[str, Any]) -> dict[str, tuple[float | None, str]]:
    """Every number of a check that may be null, with the reason why it would be."""
    found: dict[str, tuple[float | None, str]] = {
        "least": (check["least"], "the card names none"),
        "smallest_detectable": (check["smallest_detectable"], "a single seed"),
        "p": (check["p"], "an identity or a single seed: nothing is tested"),
    }
    for key in ("margin", "margin_low", "margin_high"):
        value = check[key]
        found[key] = (value, "")
        name = key.replace("margin", "effect")
        found[name] = (_effect(value) if check["by_ratio"] else value, "")
    return {key: _finite(value, why) for key, (value, why) in found.items()}


def _effect(margin: float) -> float:
    try:
        return math.exp(margin)
    except OverflowError:
        return math.inf


def _finite(value: float | None, why: str) -> tuple[float | None, str]:
    if value is not None and not math.isfinite(value):
        return None, "not a number" if math.isnan(value) else "beyond the range of numbers"
    return value, why


def _need(gate: verdict.Gate) -> models.Need:
    holds = all(gate.holds) if gate.holds else None
    return models.Need(id=gate.id, expect=gate.expect, holds=holds, observed=gate.observed)


def _control(report: Report, card: Check, measured: verdict.Measurements) -> models.Control | None:
    if not card.has_control:
        return None
    first = len(report.method.preset(report.scale).seed_list())
    control = verdict.control_of(card, measured, first)
    if control is None:
        return models.Control(expect="", verdict="untested", observed="")
    decision = verdict.alone(control, first)
    facts = {
        "expect": control.check.expect,
        "verdict": decision.verdict,
        "observed": control.observed(decision.look.n),
    }
    return models.Control.model_validate(facts)


def _runs(report: Report, references: Iterable[Any], n_seeds: int) -> list[records.Record]:
    """The runs that a check reads: of random arms those of the seeds that decided it."""
    arms = {reference.arm for reference in references}
    kept = {arm: report.method.seeds(report.scale, arm)[:n_seeds] for arm in arms}
    return [r for r in report.results.records if r["seed"] in kept.get(r["arm"], ())]


# Writing ----------------------------------------------------------------------------------------


def files(claims: models.Claims) -> dict[str, str]:
    """Text of both files by name."""
    return {JSON: json_text(claims), CSV: csv_text(claims)}


def csv_text(claims: models.Claims) -> str:
    """A row a claim, with the check that decides it."""
    return records.to_csv(map(_row, claims.claims), list(columns()))


def _row(claim: models.ClaimResult) -> dict[str, Any]:
    row = claim.model_dump(exclude=set(_LONG))
    chosen = next((check for check in claim.checks if check.id == claim.deciding), None)
    if chosen is not None:
        row |= {f"check.{key}": value for key, value in chosen.model_dump().items()}
    return {key: _cell(value) for key, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return value
