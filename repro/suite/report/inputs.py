"""What the report reads: the cards, the verdicts and the runs of a method at one scale."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.store import read_json
from repro.suite import expression
from repro.suite.cards import library
from repro.suite.cards.experiment import Experiment
from repro.suite.cards.method import Method
from repro.suite.cards.paper import Claim, Paper
from repro.suite.report.formatting import number
from repro.suite.report.results import Results, read_records
from repro.suite.words import VERDICTS

SYMBOLS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "≈", "untested": "–"}

MEANINGS = {
    "reproduced": "the whole 95 % interval of the margin is on the predicted side",
    "contradicted": "the whole interval is on the other side",
    "inconclusive": "the interval contains zero, or there are too few seeds to tell",
    "untested": "nothing at this scale can judge it",
}
TIER_MEANINGS = {
    "exact": "an identity or closed form, checked numerically",
    "structural": "counted on the paper's own architecture; no trained weights",
    "reduced": "the paper's comparison, on small models and small real data",
    "paper": "official weights and data",
}
EVIDENCE = {
    "paper": "from the paper",
    "code": "from the official code",
    "secondary": "from a secondary source",
    "derived": "derived from the paper",
    "measured": "measured with the official code",
    "unsure": "unverified",
}
"""Words for where a reference number comes from; `unsure` numbers are never thresholds."""


@dataclass(frozen=True)
class Report:
    """One method at one scale: its cards, its results and its verdicts.

    Attributes:
        method: both cards, cross-checked.
        scale: name of the scale.
        results: measurements of the runs.
        checks: verdicts of the checks, in card order (see `repro.suite.verdict.CheckResult`).
        claims: verdict of each claim by its id (see `repro.suite.verdict.ClaimResult`).
        zoo_records: records of the models of the zoo and of other methods, trained or loaded.
    """

    method: Method
    scale: str
    results: Results
    checks: list[dict[str, Any]]
    claims: dict[str, dict[str, Any]]
    zoo_records: list[dict[str, Any]]

    @property
    def paper(self) -> Paper:
        return self.method.paper

    @property
    def experiment(self) -> Experiment:
        return self.method.experiment

    def claim_verdict(self, claim: str) -> str:
        return self.claims.get(claim, {}).get("verdict") or "untested"

    def claim_checks(self, claim: str) -> list[dict[str, Any]]:
        return [check for check in self.checks if check["claim"] == claim]

    def counts(self) -> dict[str, int]:
        """How many claims of the paper have each verdict."""
        verdicts = [self.claim_verdict(claim.id) for claim in self.paper.claims]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    def paper_says(self, check: dict[str, Any]) -> str:
        """The paper's number that stands beside a check: the check's own, or else the claim's."""
        card = self.method.checks(self.scale).get(check["id"])
        if card is not None and card.paper:
            return card.paper
        return paper_number(self.paper.claim(check["claim"]))

    def is_timing(self, check: dict[str, Any]) -> bool:
        """Whether a check reads wall-clock figures, which differ from run to run."""
        declared = self.experiment.measurements
        return any(declared[name].timing for name in _names(check["expect"]) if name in declared)

    def findings(self, claim: str) -> list[str]:
        return self.method.expected.findings(claim, self.scale)


def paper_number(claim: Claim) -> str:
    """The paper's own figures of a claim, e.g. "59.56 → 18.2 s"."""
    unit = f" {claim.unit}" if claim.unit else ""
    baseline, method = (
        number(v, ".7g") if isinstance(v, (int, float)) else v
        for v in (claim.baseline, claim.method)
    )
    if method is None:
        return "" if baseline is None else f"baseline {baseline}{unit}"
    return f"{method}{unit}" if baseline is None else f"{baseline} → {method}{unit}"


@functools.cache
def _names(expect: str) -> frozenset[str]:
    return frozenset(reference.name for reference in expression.parse(expect).references())


def load(method: str, scale: str, work: Path, root: Path | None = None) -> Report:
    """Read one method.

    Args:
        method: slug.
        scale: name of the scale.
        work: folder of the scale, with `runs/`, `models/` and `verdicts/`.
        root: folder that holds `methods/`, by default the repository.

    Raises:
        ReproError: no such method, or its verdicts or records are missing or not readable.
    """
    card = library.load(method, root)
    work = Path(work)
    path = _verdict_path(work, card.slug)
    judged = read_json(path)
    runs = {(arm, seed) for arm in card.arms(scale) for seed in card.seeds(scale, arm)}
    models = {(ref.owner, ref.name, ref.seed) for ref in card.in_order(scale, card.models(scale))}
    results = Results.load(
        card.paper,
        card.experiment,
        scale,
        work,
        runs=runs,
        models={(name, seed) for owner, name, seed in models if owner == card.slug},
    )
    shared = [
        record
        for owner in sorted({owner for owner, _, _ in models} - {card.slug})
        for record in read_records(work / "models" / owner)
        if (owner, record["folder"].parent.name, record["seed"]) in models
    ]
    try:
        claims = {claim["id"]: claim for claim in judged["claims"]}
        checks = list(judged["checks"])
    except (KeyError, TypeError) as error:
        raise ReproError(f"{path}: no verdicts ({error}); delete it and judge again") from error
    return Report(card, scale, results, checks, claims, shared)


def load_all(scale: str, work: Path, root: Path | None = None) -> list[Report]:
    """Every method that has verdicts at a scale, in the order of their slugs."""
    known = {slug.replace("-", "_"): slug for slug in library.slugs(root)}
    found = sorted(path.stem.replace("-", "_") for path in (Path(work) / "verdicts").glob("*.json"))
    return [load(known[name], scale, work, root) for name in found if name in known]


def _verdict_path(work: Path, slug: str) -> Path:
    folder = work / "verdicts"
    spelt = folder / f"{slug.replace('-', '_')}.json"
    return spelt if spelt.is_file() else folder / f"{slug}.json"
