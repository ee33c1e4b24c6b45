"""What the report reads: the cards, the verdicts and the runs of a method at one scale.

Two sources hold them: a work folder after a run, and the committed results. Everything below reads
a `Source` and cannot tell which.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from repro.errors import ReproError
from repro.places import short
from repro.store import read_json, read_sealed
from repro.suite import expression, looks, records, verdict
from repro.suite.cards import library
from repro.suite.cards.checks import Check
from repro.suite.cards.experiment import Experiment
from repro.suite.cards.method import Method, ModelRef
from repro.suite.cards.paper import Claim, Paper
from repro.suite.records import Record
from repro.suite.report.formatting import number
from repro.suite.report.results import Results
from repro.suite.results import manifest
from repro.suite.words import OF_THE_PAPER, TIERS, VERDICTS

SYMBOLS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "≈", "untested": "–"}

MEANINGS = {
    "reproduced": "the whole interval of every margin is on the predicted side",
    "contradicted": "the whole interval of one is on the other side, also after correction",
    "inconclusive": "the interval holds both sides, or there are too few seeds to tell",
    "untested": "nothing at this scale can judge it",
}
TIER_MEANINGS = {
    "exact": "an identity or closed form, checked numerically",
    "structural": "counted on the paper's own architecture; no trained weights",
    "reduced": "the paper's comparison, on small models and small real data",
    "paper": "the paper's own models or data",
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
        published_findings: the findings at this scale as the source has them.
        drawings: folder of the figures.
    """

    method: Method
    scale: str
    results: Results
    checks: list[dict[str, Any]]
    claims: dict[str, dict[str, Any]]
    zoo_records: list[Record]
    published_findings: list[dict[str, Any]]
    drawings: Path

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

    def counts(self, *kinds: str) -> dict[str, int]:
        """How many claims of these kinds (default: those of the paper) have each verdict."""
        wanted = kinds or OF_THE_PAPER
        verdicts = [self.claim_verdict(c.id) for c in self.paper.claims if c.kind in wanted]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    def verdicts(self) -> list[tuple[str, str]]:
        """Kind and verdict of every claim."""
        return [(claim.kind, self.claim_verdict(claim.id)) for claim in self.paper.claims]

    @functools.cached_property
    def _cards_of_checks(self) -> dict[str, Check]:
        return self.method.checks(self.scale)

    def paper_says(self, check: Mapping[str, Any]) -> str:
        """The paper's number that stands beside a check: the check's own, or else the claim's."""
        card = self._cards_of_checks.get(check["id"])
        if card is not None and card.paper:
            return card.paper
        return paper_number(self.paper.claim(check["claim"]))

    def is_timing(self, check: dict[str, Any]) -> bool:
        """Whether a check reads wall-clock figures, which differ from run to run."""
        declared = self.experiment.measurements
        return any(declared[name].timing for name in _names(check["expect"]) if name in declared)

    def findings(self, claim: str) -> list[str]:
        return [f["text"] for f in self.published_findings if f["claim"] == claim]


KIND_MEANINGS = {
    "empirical": "the paper measured it",
    "theorem": "the paper proves or defines it",
    "structure": "the paper prints a count: parameters, operations, bits, sizes",
    "code": "what the released code does, departures included",
    "ours": "we found or derived it",
}
HEADINGS = [*VERDICTS, "theorems", "structure"]
"""Of a headline: verdicts of empirical claims, and how many of the theorems and counts hold."""


def headline(verdicts: Iterable[tuple[str, str]]) -> list[str]:
    """Cells under `HEADINGS` for the claims of a paper, as (kind, verdict)."""
    found = list(verdicts)
    cells = [str(found.count(("empirical", verdict))) for verdict in VERDICTS]
    return cells + [held(found, kind) for kind in ("theorem", "structure")]


def held(verdicts: Iterable[tuple[str, str]], kind: str) -> str:
    """`3 of 4`: how many claims of a kind are reproduced; nothing where there are none."""
    own = [verdict for of, verdict in verdicts if of == kind]
    return f"{own.count('reproduced')} of {len(own)}" if own else ""


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


def findings_of(method: Method, scale: str) -> list[dict[str, Any]]:
    """The findings of the card that belong to a scale."""
    return [
        {"claim": claim, "text": text}
        for claim in method.expected.claims
        for text in method.expected.findings(claim, scale)
    ]


@functools.cache
def _names(expect: str) -> frozenset[str]:
    return frozenset(reference.name for reference in expression.parse(expect).references())


# Sources ------------------------------------------------------------------------------------


class Source(Protocol):
    """Runs, models, verdicts, findings and figures of methods at one scale, from somewhere."""

    @property
    def scale(self) -> str: ...

    @property
    def root(self) -> Path | None:
        """Folder that holds ``methods/``; None is the repository."""

    def slugs(self) -> set[str]:
        """The methods that have verdicts here."""

    def planned(self, method: Method) -> Method:
        """A method with the seeds that it has here."""

    def runs(self, slug: str) -> list[Record]: ...

    def models(self, slug: str, owners: Iterable[str]) -> list[Record]:
        """Models that a method uses, of itself and of other owners, in any order."""

    def verdicts(self, method: Method, runs: list[Record]) -> dict[str, Any]: ...

    def findings(self, method: Method) -> list[dict[str, Any]]: ...

    def drawings(self, name: str) -> Path:
        """Folder of the figures of a method, or of the comparisons."""


class Filed(Source, Protocol):
    """A source whose records are files that a page can lead to."""

    def record_file(self, slug: str, record: Record, is_model: bool) -> Path:
        """The file that holds the record of a run or a model of a method."""


@dataclass(frozen=True)
class Work:
    """What the runs of a scale left under its work folder (``work/<scale>``).

    Attributes:
        judged: verdicts of methods that this process has judged; those of others are read.
    """

    scale: str
    folder: Path
    root: Path | None = None
    judged: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def slugs(self) -> set[str]:
        return {path.stem for path in (self.folder / "verdicts").glob("*.json")}

    def planned(self, method: Method) -> Method:
        return looks.planned(method, self.scale, self.folder.parent)

    def runs(self, slug: str) -> list[Record]:
        card = self.planned(library.load(slug, self.root))
        places = [(slug, arm, seed) for arm, seed in _runs_of(card, self.scale)]
        return records.read_work(self.folder / "runs", places, self._remedy(slug))

    def models(self, slug: str, owners: Iterable[str]) -> list[Record]:
        refs = _models_of(self.planned(library.load(slug, self.root)), self.scale)
        wanted = set(owners)
        places = [(ref.owner, ref.name, ref.seed) for ref in refs if ref.owner in wanted]
        return records.read_work(self.folder / "models", places, self._remedy(slug))

    def verdicts(self, method: Method, runs: list[Record]) -> dict[str, Any]:
        """The verdicts of these runs.

        Raises:
            ReproError: missing, damaged, or of other runs.
        """
        if method.slug in self.judged:
            return self.judged[method.slug]
        path = self.folder / "verdicts" / f"{method.slug}.json"
        try:
            judged = read_sealed(path)
        except ReproError as error:
            why = str(error).partition(";")[0]
            raise ReproError(f"{why}; {self._remedy(method.slug)}") from error
        if judged.pop("evidence", None) != records.evidence(runs):
            raise ReproError(
                f"{path}: is not of the runs that are here; {self._remedy(method.slug)}"
            )
        return judged

    def _remedy(self, slug: str) -> str:
        return f"run `repro run {slug} --scale {self.scale}`"

    def findings(self, method: Method) -> list[dict[str, Any]]:
        return findings_of(method, self.scale)

    def drawings(self, name: str) -> Path:
        return self.folder / "report" / "figures" / name

    def record_file(self, slug: str, record: Record, is_model: bool) -> Path:
        return record["folder"] / "record.json"


@dataclass(frozen=True)
class Committed:
    """The committed results of a scale (``results/<scale>``); verdicts are derived from its runs.

    arrays: a work folder that may still hold the arrays of these runs, for figures.
    """

    scale: str
    folder: Path
    root: Path | None = None
    arrays: Path | None = None

    def slugs(self) -> set[str]:
        return set(records.committed(self.folder))

    def planned(self, method: Method) -> Method:
        found = records.read_runs(self.folder / method.slug, self.scale)
        return looks.of_runs(method, self.scale, found)

    def runs(self, slug: str) -> list[Record]:
        """The runs of a method, when every file of it is as it was published."""
        manifest.refuse_damage(self.folder / slug)
        found = records.read_runs(self.folder / slug, self.scale)
        records.refuse_edited(self.folder / slug, found)
        if self.arrays is None:
            return found
        return [_with_arrays(run, self.arrays / "runs" / slug) for run in found]

    def models(self, slug: str, owners: Iterable[str]) -> list[Record]:
        return records.read_models(self.folder / slug, self.scale)

    def verdicts(self, method: Method, runs: list[Record]) -> dict[str, Any]:
        return verdict.judge(method, self.scale, runs)

    def findings(self, method: Method) -> list[dict[str, Any]]:
        path = self.folder / method.slug / "findings.json"
        found = read_json(path, list)
        if not all(_is_finding(one) for one in found):
            raise ReproError(f"{short(path)}: is not a list of findings; publish the method again")
        return found

    def drawings(self, name: str) -> Path:
        return self.folder / name / "figures"

    def record_file(self, slug: str, record: Record, is_model: bool) -> Path:
        return self.folder / slug / ("models.csv" if is_model else "records.csv")


def _is_finding(one: Any) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("claim", "text"))


def _with_arrays(run: Record, work: Path) -> Record:
    """A committed run with the arrays of the same run in a work folder: same numbers, same code."""
    path = work / run["arm"] / str(run["seed"]) / "record.json"
    try:
        kept = records.read_record(path)
    except ReproError:  # missing or damaged: what is committed stands for itself
        return run
    if kept.get("fingerprint") != run["fingerprint"]:
        return run
    if records.measured_sha256(kept) != records.measured_sha256(run):
        return run
    return {**run, **{key: kept.get(key) for key in ("arrays", "arrays_sha256", "folder")}}


def load(slug: str, source: Source) -> Report:
    """Read one method from a source.

    Raises:
        ReproError: no such method, or its verdicts or records are missing or not readable.
    """
    card = source.planned(library.load(slug, source.root))
    owners = {ref.owner for ref in _models_of(card, source.scale)}
    return report_of(card, source, source.runs(slug), source.models(slug, owners))


def report_of(card: Method, source: Source, runs: list[Record], models: list[Record]) -> Report:
    """One method with its runs and models; those that its card of today has not are left out.

    Raises:
        ReproError: its verdicts cannot be read or derived.
    """
    scale = source.scale
    planned = set(_runs_of(card, scale))
    runs = [run for run in runs if (run["arm"], run["seed"]) in planned]
    known = {(ref.owner, ref.name, ref.seed) for ref in _models_of(card, scale)}
    by_place = {(model["method"], model["arm"], model["seed"]): model for model in models}
    used = [by_place[place] for place in sorted(known & by_place.keys())]
    own = [model for model in used if model["method"] == card.slug]
    checks, claims = _verdicts(card, scale, source.verdicts(card, runs))
    return Report(
        method=card,
        scale=scale,
        results=Results(card.paper, card.experiment, scale, runs, own),
        checks=checks,
        claims=claims,
        zoo_records=[model for model in used if model["method"] != card.slug],
        published_findings=source.findings(card),
        drawings=source.drawings(card.slug),
    )


def _runs_of(card: Method, scale: str) -> list[tuple[str, int]]:
    return [(arm, seed) for arm in card.arms(scale) for seed in card.seeds(scale, arm)]


def _verdicts(
    card: Method, scale: str, judged: Any
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """The verdicts of the checks, and of the claims by their ids.

    Raises:
        ReproError: they are not of the form that a verdict has.
    """
    try:
        if not isinstance(judged["claims"], list) or not isinstance(judged["checks"], list):
            raise ValueError("no lists of claims and checks")
        claims = {claim["id"]: claim for claim in judged["claims"]}
        checks = [dict(check) for check in judged["checks"]]
        for one in [*checks, *claims.values()]:
            if one["verdict"] not in VERDICTS or one["tier"] not in (*TIERS, ""):
                raise ValueError(f"`{one['verdict']}` of tier `{one['tier']}` is no verdict")
            for key in {"id", "claim", "expect", "why", "observed", "reason", "paper"} & one.keys():
                one[key].encode()
        for check in checks:
            card.paper.claim(check["claim"])
            margins = [check["margin"], check["margin_low"], check["margin_high"]]
            if not all(math.isfinite(value) for value in [*margins, *check["margins"]]):
                raise ValueError(f"the margin of {check['id']} is no number")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReproError(
            f"{card.slug} at scale {scale}: its verdicts cannot be read "
            f"({' '.join(str(error).split())[:200]}); judge it again"
        ) from error
    return checks, claims


def _models_of(card: Method, scale: str) -> list[ModelRef]:
    return card.in_order(scale, card.models(scale))


def load_all(source: Source) -> list[Report]:
    """Every method that has verdicts in a source, in the order of their slugs."""
    judged = source.slugs()
    return [load(slug, source) for slug in library.slugs(source.root) if slug in judged]
