"""All that the page of one paper shows, as data for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from repro.suite.cards.paper import Claim, Paper, ReferenceTable
from repro.suite.records import Record
from repro.suite.report import inputs, ledger, tables
from repro.suite.report.formatting import detectable, margin, number
from repro.suite.report.inputs import EVIDENCE, HEADINGS, Report, headline, held, paper_number
from repro.suite.report.site import drawing, effects, pictures, places, sentences
from repro.suite.report.site.drawing import Mark
from repro.suite.report.site.effects import Effect
from repro.suite.report.site.evidence import Evidence, Examiner
from repro.suite.report.site.pictures import Picture
from repro.suite.report.site.places import Tree, anchor
from repro.suite.report.tables import Table
from repro.suite.results import others
from repro.suite.results.others import Beside
from repro.suite.words import KINDS, OF_THE_PAPER, ORDER

LONGEST_PARAMETER = 80

MOSTLY = 0.5
"""Share of empty cells from which a table of one measurement becomes a list."""

MOST_FIGURES, MOST_ROWS = 2, 4
"""Links to figures and to rows of tables that a check has at most."""


@dataclass(frozen=True)
class Checked:
    """A check as the site shows it."""

    evidence: Evidence
    sentence: sentences.Sentence
    effect: Effect | None
    shown: dict[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.evidence.result["verdict"])

    @property
    def mark(self) -> Mark | None:
        return None if self.effect is None else Mark(self.effect, self.verdict)


@dataclass(frozen=True)
class Judged:
    """A claim at one scale: its verdict and its checks, the deciding one first."""

    scale: str
    verdict: str
    tier: str
    reason: str
    checks: list[Checked]
    findings: list[str]

    @property
    def deciding(self) -> Checked | None:
        return self.checks[0] if self.checks else None


@dataclass(frozen=True)
class Claimed:
    """A claim with what each scale says of it."""

    claim: Claim
    anchor: str
    scales: list[Judged]

    @property
    def verdicts(self) -> dict[str, str]:
        return {judged.scale: judged.verdict for judged in self.scales}

    @property
    def best(self) -> str:
        """The verdict at the largest scale that judges the claim."""
        tested = [j.verdict for j in self.scales if j.verdict != "untested"]
        return tested[-1] if tested else "untested"


@dataclass
class Pages:
    """A paper at the scales that have it.

    Attributes:
        reports: by scale, smallest first.
    """

    paper: Paper
    reports: dict[str, Report]
    sources: Mapping[str, inputs.Filed]
    tree: Tree
    claims: list[Claimed] = field(default_factory=list)
    shown: dict[str, list[Picture]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, list[Table]] = field(default_factory=dict)
    machines: dict[str, list[Beside]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.paper.slug

    def counts(self, scale: str) -> dict[str, int]:
        """Verdicts of the claims of the paper, empirical, theorems and counts together."""
        return self.reports[scale].counts()

    def of_kind(self, *kinds: str) -> list[Claimed]:
        return [claimed for claimed in self.claims if claimed.claim.kind in kinds]

    def marks(self, kinds: Sequence[str] = ("empirical",)) -> list[Mark]:
        """The deciding effects of claims of some kinds, at the largest scale that has one."""
        found = []
        for claimed in self.of_kind(*kinds):
            marks = [j.deciding.mark for j in claimed.scales if j.deciding and j.deciding.mark]
            found += marks[-1:]
        return found


def of_paper(
    reports: Mapping[str, Report], sources: Mapping[str, inputs.Filed], tree: Tree, site: Path
) -> Pages:
    """A paper at its scales: verdicts, evidence, tables.

    Args:
        site: folder into which its drawings are put; `tree` says where that will lie.

    Raises:
        ReproError: a drawing cannot be read, or a check cannot be evaluated.
    """
    first = next(iter(reports.values()))
    pages = Pages(first.paper, dict(reports), sources, tree)
    for scale, report in reports.items():
        pages.shown[scale], pages.missing[scale] = _pictures(report, site)
        cards = [tables.card_table(report, card) for card in report.experiment.tables]
        costs = [table for table in tables.cost_tables(report) if table.id != "claims"]
        made = [_filled(report, t) for t in [*tables.measurement_tables(report), *costs]]
        pages.machines[scale] = _beside(sources[scale], report)
        pages.tables[scale] = _distinct([*cards, *made])
    examiners = {scale: Examiner(report) for scale, report in reports.items()}
    pages.claims = [
        Claimed(
            claim,
            anchor(claim.id),
            [_judged(pages, examiners[scale], report, claim) for scale, report in reports.items()],
        )
        for claim in first.paper.claims
    ]
    return pages


def _beside(source: inputs.Filed, report: Report) -> list[Beside]:
    """What other machines have of committed results; beside runs of a work folder stands nothing.

    Raises:
        ReproError: results of another machine are damaged.
    """
    if not isinstance(source, inputs.Committed):
        return []
    return others.beside(source.folder.parent, report.scale, report.paper.slug, report)


def _filled(report: Report, table: Table) -> Table:
    """A table of one measurement as a list, where most of its cells would be dashes."""
    names = {str(record.get("measurement")) for record in table.records}
    if len(names) != 1 or _empty_share(table) < MOSTLY:
        return table
    return tables.listed(report.results, names.pop(), table.id)


def _empty_share(table: Table) -> float:
    """The share of dashes among the cells of a table but its first column."""
    texts = [cell.text for row in table.rows for cell in row[1:]]
    return sum(text in ("–", "") for text in texts) / max(1, len(texts))


def _distinct(every: list[Table]) -> list[Table]:
    """The same tables with ids that differ, for links to them."""
    seen: dict[str, int] = {}
    for table in every:
        count = seen[table.id] = seen.get(table.id, 0) + 1
        if count > 1:
            table.id = f"{table.id}-{count}"
    return every


def _pictures(report: Report, site: Path) -> tuple[list[Picture], list[str]]:
    found, missing = [], []
    for card in report.method.figures(report.scale):
        if not (report.drawings / f"{card.id}.json").is_file():
            missing.append(card.title)
            continue
        name = anchor(report.paper.slug, report.scale, card.id)
        found.append(pictures.show(report.drawings, card.id, site, name))
    return found, missing


def _judged(pages: Pages, examiner: Examiner, report: Report, claim: Claim) -> Judged:
    judged = report.claims.get(claim.id, {})
    verdict = report.claim_verdict(claim.id)
    checks = [_checked(pages, examiner, report, check) for check in report.claim_checks(claim.id)]
    return Judged(
        scale=report.scale,
        verdict=verdict,
        tier=judged.get("tier") or claim.best_tier,
        reason=(judged.get("reason") or "") if verdict == "untested" else "",
        checks=sorted(checks, key=_weight),
        findings=report.findings(claim.id),
    )


def _weight(checked: Checked) -> tuple[int, float]:
    """What decides comes first: failing before passing, then the least margin."""
    result = checked.evidence.result
    half = abs(result["margin_high"] - result["margin_low"]) / 2 or 1.0
    distance = checked.effect.distance if checked.effect else result["margin"] / half
    return ORDER.index(result["verdict"]), float(distance)


def _checked(
    pages: Pages, examiner: Examiner, report: Report, result: Mapping[str, Any]
) -> Checked:
    evidence = examiner.of(result)
    claim = report.paper.claim(result["claim"])
    own = evidence.check.paper or ""
    effect = effects.effect(
        evidence, report.paper_says(result), effects.claim_numbers(claim, result, bool(own))
    )
    seeds = int(result["n_seeds"])
    several = seeds > 1 and result["margin_low"] != result["margin_high"]
    mark = None if effect is None else Mark(effect, result["verdict"])
    return Checked(
        evidence,
        sentences.sentence(evidence, report.experiment),
        effect,
        {
            "anchor": anchor("check", report.scale, result["id"]),
            "svg": drawing.large(mark) if mark else Markup(""),
            "effect": drawing.words(effect) if effect else "",
            "margin": margin(result),
            "detectable": detectable(result) if several else "",
            "runs": f"{seeds} seeds" if seeds > 1 else "one run",
            "own_paper": own if own != paper_number(claim) else "",
            "links": _links(pages, report, evidence),
        },
    )


# Where the evidence is ---------------------------------------------------------------------------


def _links(pages: Pages, report: Report, evidence: Evidence) -> dict[str, list[dict[str, Any]]]:
    """What a check leads to, by kind: figures, table rows, runs and code."""
    scale, references = report.scale, evidence.check.parsed.references()
    arms = list(dict.fromkeys(reference.arm for reference in references))
    titles = {picture.id: picture.about["title"] for picture in pages.shown[scale]}
    drawn = [name for name in places.figures(report, references) if name in titles]
    found = [places.row(scale, pages.tables[scale], reference) for reference in references]
    rows = {row.anchor: f"{row.table.title}: {_row_words(report, row)}" for row in found if row}
    functions = dict.fromkeys(report.experiment.arms[arm].run for arm in arms)
    return {
        "figures": [
            {"text": titles[name], "href": "#" + anchor("figure", scale, name), "id": name}
            for name in drawn[:MOST_FIGURES]
        ],
        "rows": [{"text": text, "href": f"#{row}"} for row, text in rows.items()][:MOST_ROWS],
        "runs": [link for arm in arms for link in _run_link(report, arm)],
        "code": [places.code(pages.tree, run) for run in functions],
    }


def _run_link(report: Report, arm: str) -> list[dict[str, Any]]:
    """The runs of an arm, by the first of them."""
    made = [record for record in report.results.records if record["arm"] == arm]
    if not made:
        return []
    seeds = f"{len(made)} seeds" if len(made) > 1 else f"seed {made[0]['seed']}"
    href = "#" + places.run_anchor(report.scale, made[0])
    return [{"text": f"{report.results.title(arm)} ({seeds})", "href": href}]


def _row_words(report: Report, row: places.Row) -> str:
    """What a row is of, as its first columns say."""
    arm, at = row.key
    coordinates = dict(part.split("=", 1) for part in at.split(",") if part)
    words = [report.results.title(arm)] if arm else []
    return ", ".join([*words, *([sentences.places(coordinates)] if at else [])])


# The template's data -----------------------------------------------------------------------------


def data(pages: Pages) -> dict[str, Any]:
    """What `paper.html.j2` needs."""
    scales = list(pages.reports)
    seen: set[str] = set()
    return {
        "pages": pages,
        "card": pages.paper,
        "citation": pages.paper.citation(),
        "bibtex": pages.paper.bibtex(),
        "scales": scales,
        "headings": HEADINGS,
        "headlines": {s: headline(r.verdicts()) for s, r in pages.reports.items()},
        "counts": {s: pages.counts(s) for s in scales},
        "beside": {
            s: {kind: held(r.verdicts(), kind) for kind in ledger.BESIDE}
            for s, r in pages.reports.items()
        },
        "own": [_claim(pages, c, seen) for c in pages.of_kind(*OF_THE_PAPER)],
        "others": [_claim(pages, c, seen) for c in pages.of_kind(*set(KINDS) - set(OF_THE_PAPER))],
        "axis": drawing.scale(300),
        "licences": [
            (kind, text)
            for kind, text in dict(pages.paper.licence).items()
            if text not in (None, "")
        ],
        "references": [_reference(table) for table in pages.paper.tables],
        "sections": [_section(pages, scale) for scale in scales],
        "machines": [_machines(pages, scale) for scale in scales if pages.machines[scale]],
    }


def _machines(pages: Pages, scale: str) -> dict[str, Any]:
    """Other machines at a scale: a line each, and their verdicts, a row a claim."""
    found = pages.machines[scale]
    current = [one for one in found if one.report is not None]
    claims = [c for c in pages.claims if any(c.claim.id in one.verdicts for one in current)]
    return {
        "scale": scale,
        "lines": [(one.machine, "; ".join(one.devices), one.summary()) for one in found],
        "names": [one.machine for one in current],
        "rows": [
            {
                "claim": c,
                "ours": c.verdicts[scale],
                "theirs": [one.verdicts.get(c.claim.id, ("", "untested"))[1] for one in current],
            }
            for c in claims
        ],
    }


def _claim(pages: Pages, claimed: Claimed, seen: set[str]) -> dict[str, Any]:
    """A claim; `seen`: the figures that stand beside an earlier one and need not stand twice."""
    claim = claimed.claim
    return {
        "card": claim,
        "anchor": claimed.anchor,
        "verdict": claimed.best,
        "scales": [
            {
                "judged": judged,
                "thumbnail": _thumbnail(pages, judged, seen),
                "comparable": bool(judged.checks)
                and all(c.evidence.result["comparable"] for c in judged.checks),
            }
            for judged in claimed.scales
        ],
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
    }


def _thumbnail(pages: Pages, judged: Judged, seen: set[str]) -> Picture | None:
    """The figure to stand beside a claim: the first that its deciding check leads to."""
    links = judged.deciding.shown["links"]["figures"] if judged.deciding else []
    by_id = {picture.id: picture for picture in pages.shown[judged.scale]}
    for link in links:
        picture = by_id[link["id"]]
        if picture.src not in seen:
            seen.add(picture.src)
            return picture
    return None


def _section(pages: Pages, scale: str) -> dict[str, Any]:
    """Figures, tables, runs and machines of a paper at a scale."""
    report, every = pages.reports[scale], pages.tables[scale]
    cards = [card.id for card in report.experiment.tables]
    costs = [table for table in every if _is_timed(report, table)]
    shown = [table for table in every if table.id in cards]
    rest = [table for table in every if table not in shown and table not in costs]
    return {
        "scale": scale,
        "figures": [
            {"picture": picture, "claims": _claims_of(pages, scale, picture.id)}
            for picture in pages.shown[scale]
        ],
        "missing": pages.missing[scale],
        "tables": [_table(scale, table) for table in shown],
        "measurements": [_table(scale, table) for table in rest],
        "costs": [_table(scale, table) for table in costs],
        "environment": ledger.environment([report]),
        "runs": _runs(pages, scale),
    }


def _is_timed(report: Report, table: Table) -> bool:
    """Whether a table holds what depends on the clock."""
    read = {str(record.get("measurement")) for record in table.records}
    declared = report.experiment.measurements
    cards = [card.id for card in report.experiment.tables]
    timed = any(declared[name].timing for name in read if name in declared)
    return table.id not in cards and (timed or table.id == "cost")


def _claims_of(pages: Pages, scale: str, figure: str) -> list[dict[str, Any]]:
    """The claims whose deciding check leads to a figure, with what was found."""
    found = []
    for claimed in pages.claims:
        for judged in claimed.scales:
            deciding = judged.deciding
            if judged.scale != scale or deciding is None:
                continue
            if figure in [link["id"] for link in deciding.shown["links"]["figures"]]:
                found.append(
                    {
                        "anchor": claimed.anchor,
                        "statement": claimed.claim.statement,
                        "verdict": judged.verdict,
                        "paper": paper_number(claimed.claim),
                    }
                )
    return found


def _table(scale: str, table: Table) -> dict[str, Any]:
    """A table with the ids of its rows, and whether it holds nothing but dashes."""
    keys = table.keys or [("", "")] * len(table.rows)
    return {
        "table": table,
        "anchor": places.table_anchor(scale, table),
        "rows": [
            (places.row_anchor(scale, table, key) if any(key) else "", row)
            for key, row in zip(keys, table.rows, strict=True)
        ],
        "empty": _empty_share(table) == 1,
    }


def _runs(pages: Pages, scale: str) -> list[dict[str, Any]]:
    """Every run and model with where its record is, grouped by arm."""
    report, source = pages.reports[scale], pages.sources[scale]
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for kind, records in (
        ("arm", report.results.records),
        ("model", report.results.model_records),
        ("shared model", report.zoo_records),
    ):
        for record in records:
            groups.setdefault((kind, record["method"], record["arm"]), []).append(record)
    return [_group(pages, source, scale, kind, made) for (kind, _, _), made in groups.items()]


def _group(
    pages: Pages, source: inputs.Filed, scale: str, kind: str, made: list[Record]
) -> dict[str, Any]:
    report, name = pages.reports[scale], made[0]["arm"]
    params = made[0].get("params") or {}
    if kind == "arm":
        title, run = report.results.title(name), report.experiment.arms[name].run
    else:
        card = report.method.model_card(made[0]["method"], name)
        title, run = card.title or name, card.train
    return {
        "kind": kind,
        "name": name if made[0]["method"] == pages.slug else f"{made[0]['method']}/{name}",
        "title": title,
        "code": places.code(pages.tree, run),
        "params": {key: _short(value) for key, value in params.items()},
        "runs": [
            {
                "anchor": places.run_anchor(scale, record) if kind == "arm" else "",
                "seed": record["seed"],
                "commit": str(record.get("commit") or "unknown"),
                "commit_href": pages.tree.commit(str(record.get("commit") or "")),
                "fingerprint": str(record.get("fingerprint") or "–")[:10],
                "started": record.get("started"),
                "seconds": record.get("wall_s"),
                "href": pages.tree.link(source.record_file(pages.slug, record, kind != "arm")),
            }
            for record in made
        ],
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_PARAMETER else text[: LONGEST_PARAMETER - 3] + "…"


def _reference(table: ReferenceTable) -> dict[str, Any]:
    """A table of the paper, its numbers as the card gives them but for separators in large ones."""
    columns = list(zip(*table.rows, strict=True)) or [() for _ in table.columns]
    return {
        "card": table,
        "anchor": anchor("reference", table.id),
        "numeric": [all(v is None or isinstance(v, (int, float)) for v in c) for c in columns],
        "rows": [[_as_given(value) for value in row] for row in table.rows],
    }


def _as_given(value: float | int | str | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, (int, float)) and abs(value) >= 10_000 and float(value).is_integer():
        return number(value)
    return str(value)
