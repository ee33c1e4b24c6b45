"""The ledger: every claim with its verdict, for one scale and over all committed scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from repro import store
from repro.suite import records
from repro.suite.cards import library
from repro.suite.cards.paper import Paper
from repro.suite.records import to_csv
from repro.suite.report import summary
from repro.suite.report.inputs import HEADINGS, MEANINGS, SYMBOLS, Report, headline, held
from repro.suite.report.tables import CLAIM_COLUMNS, claim_records
from repro.suite.words import ORDER, SCALES, VERDICTS, Scale


def environment(reports: Iterable[Report]) -> dict[str, Any]:
    """Where the runs of a scale were made: commits, devices, versions, first and last start."""
    made = [
        record
        for report in reports
        for record in [*report.results.records, *report.results.model_records]
    ]
    versions: dict[str, set[str]] = {}
    for record in made:
        for package, version in (record.get("versions") or {}).items():
            versions.setdefault(package, set()).add(str(version))
    started = sorted(str(record["started"]) for record in made if record.get("started"))
    return {
        "commits": _distinct(made, "commit"),
        "devices": _distinct(made, "device"),
        "threads": _distinct(made, "threads"),
        "versions": {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())},
        "first_start": started[0] if started else None,
        "last_start": started[-1] if started else None,
        "runs": len(made),
        "wall_s": round(sum(float(record.get("wall_s") or 0) for record in made), 1),
    }


def _distinct(made: list[records.Record], key: str) -> list[str]:
    return sorted({str(record[key]) for record in made if record.get(key) not in (None, "")})


def write(scale: str, reports: list[Report], out: Path) -> None:
    """Write `claims.csv`, `runs.csv`, `environment.json` and `ledger.md` of a scale."""
    claims = [record for report in reports for record in claim_records(report)]
    store.write_text(out / "claims.csv", to_csv(claims, CLAIM_COLUMNS))
    store.write_text(out / "runs.csv", runs_csv(reports))
    store.write_text(out / "ledger.md", scale_ledger(scale, reports))
    store.write_json(out / "environment.json", environment(reports))


def runs_csv(reports: Iterable[Report]) -> str:
    """Every number that was measured, one row each, in full precision."""
    rows = [row for r in reports for row in records.run_rows(r.results.records, r.experiment)]
    return to_csv(rows, records.RUNS)


def scale_ledger(scale: str, reports: list[Report]) -> str:
    """Markdown of one scale: counts per paper, then one line per claim."""
    every = [pair for report in reports for pair in report.verdicts()]
    counts = [[r.paper.short, *headline(r.verdicts())] for r in reports]
    counts.append(["**all**", *headline(every)])
    parts = [
        f"# Ledger at scale {scale}",
        _pipe(counts, ["Paper", *HEADINGS], numeric_from=1),
        COUNTED,
        _beside([(r.paper.short, r.verdicts()) for r in reports]),
        summary.discoveries(reports),
    ]
    for report in reports:
        rows = [
            [
                claim.statement,
                claim.kind,
                f"{SYMBOLS[report.claim_verdict(claim.id)]} {report.claim_verdict(claim.id)}",
                report.claims.get(claim.id, {}).get("tier") or f"needs {claim.best_tier}",
            ]
            for claim in report.paper.claims
        ]
        parts += [f"## {report.paper.short}", _pipe(rows, ["Claim", "Kind", "Verdict", "Tier"])]
    return "\n\n".join(part for part in parts if part) + "\n"


COUNTED = (
    "The four verdicts count what a paper claims to have measured; of its theorems and of the "
    "counts that it prints stands how many hold."
)


def _beside(papers: Iterable[tuple[str, list[tuple[str, str]]]]) -> str:
    """What is no claim in print: how much of the released code's behaviour and of ours holds."""
    rows = [[name, *(held(found, kind) for kind in BESIDE)] for name, found in papers]
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return ""
    table = _pipe(rows, ["Paper", "what the released code does", "found here"], numeric_from=1)
    return f"Beside the papers' own claims:\n\n{table}"


def _pipe(rows: list[list[Any]], headers: list[str], numeric_from: int | None = None) -> str:
    align = [
        "right" if numeric_from is not None and i >= numeric_from else "left"
        for i in range(len(headers))
    ]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True, colalign=align)


# Over all scales --------------------------------------------------------------------------------

BESIDE = ("code", "ours")

Ledger = dict[tuple[str, str], list[dict[str, str]]]
"""(method, claim) → the rows of its checks."""


def read_claims(folder: Path) -> Ledger:
    """(method, claim) → rows of the committed `claims.csv` of a scale's methods.

    Raises:
        ReproError: a file is damaged.
    """
    found: Ledger = {}
    for slug in records.committed(folder):
        for row in records.read_rows(folder / slug / "claims.csv", CLAIM_COLUMNS):
            found.setdefault((row["method"], row["claim"]), []).append(row)
    return found


def overview(results_root: Path, root: Path | None = None, page: str = "results/README.md") -> str:
    """Markdown table: how many claims of each paper have each verdict, scale by scale.

    Args:
        results_root: folder with `<scale>/<method>/claims.csv`.
        root: folder that holds `methods/`, by default the repository.
        page: where the sections of the papers are, relative to the text that shows the table.
    """
    ledgers, papers = _committed(results_root, root)
    rows, beside = [], []
    for paper in papers:
        for scale, ledger in ledgers.items():
            if _has(ledger, paper):
                verdicts: list[tuple[str, str]] = [
                    (claim.kind, _verdict(ledger.get((paper.slug, claim.id))))
                    for claim in paper.claims
                ]
                link = f"[{paper.short}]({page}#{_anchor(paper.short)})"
                rows.append([link, scale, *headline(verdicts)])
                beside.append((f"{link}, {scale}", verdicts))
    parts = [_pipe(rows, ["Paper", "Scale", *HEADINGS], numeric_from=2), COUNTED, _beside(beside)]
    return "\n\n".join(part for part in parts if part)


def _committed(results_root: Path, root: Path | None) -> tuple[dict[Scale, Ledger], list[Paper]]:
    """Ledger of each committed scale, and the papers that occur in one."""
    ledgers = {s: found for s in SCALES if (found := read_claims(results_root / s))}
    known = {method for ledger in ledgers.values() for method, _ in ledger}
    papers = [library.load(slug, root).paper for slug in library.slugs(root) if slug in known]
    return ledgers, papers


def _has(ledger: Ledger, paper: Paper) -> bool:
    return any((paper.slug, claim.id) in ledger for claim in paper.claims)


def readme(results_root: Path, root: Path | None = None) -> str:
    """`README.md` of the committed results: the ledger over all their scales.

    Args:
        results_root: folder with `<scale>/<method>/`.
        root: folder that holds `methods/`, by default the repository.

    Raises:
        ReproError: a committed file is damaged.
    """
    ledgers, papers = _committed(results_root, root)
    parts = [
        "# Ledger",
        "Which claims of which papers hold, claim by claim. Derived from the committed "
        "`claims.csv` of each method; nothing here is edited by hand.",
        "\n".join(f"- {SYMBOLS[v]} **{v}**: {MEANINGS[v]}" for v in VERDICTS),
        "A verdict at a reduced scale tests the direction and the size of an effect on small "
        "models and small real data; the paper's own numbers are then not comparable.",
        _environments(results_root, ledgers),
        overview(results_root, root, page=""),
    ]
    if across := _links(results_root, ledgers, "comparisons"):
        parts += ["## Across papers", across]
    parts += [_paper_section(results_root, paper, ledgers) for paper in papers]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(rows: list[dict[str, str]] | None) -> str:
    have = {row["verdict"] for row in rows or ()}
    return next((verdict for verdict in ORDER if verdict in have), "untested")


def _environments(results_root: Path, scales: Iterable[str]) -> str:
    rows = []
    for scale in scales:
        path = results_root / scale / "environment.json"
        if not path.is_file():
            continue
        found = store.read_json(path)
        rows.append(
            [
                scale,
                "; ".join(found["devices"]),
                ", ".join(f"`{commit[:10]}`" for commit in found["commits"]),
                found["runs"],
                f"{found['wall_s'] / 60:.1f}",
            ]
        )
    headers = ["Scale", "Machine", "Commit", "Runs", "Minutes"]
    return _pipe(rows, headers) if rows else ""


def _paper_section(results_root: Path, paper: Paper, ledgers: Mapping[Scale, Ledger]) -> str:
    own = [scale for scale, ledger in ledgers.items() if _has(ledger, paper)]
    rows = []
    for claim in paper.claims:
        cells = []
        for scale in own:
            found = ledgers[scale].get((paper.slug, claim.id))
            verdict = _verdict(found)
            deciding = [row for row in found or () if row["verdict"] == verdict]
            tiers = dict.fromkeys(row["tier"] for row in deciding)
            note = f" ({', '.join(tiers)})" if verdict != "untested" and tiers else ""
            seen = [row["observed"] for row in deciding if row.get("observed")]
            note += f": `{seen[0]}`" if seen else ""
            cells.append(f"{SYMBOLS[verdict]} {verdict}{note}")
        rows.append([claim.statement, claim.kind, claim.where, *cells])
    parts = [
        f"## {paper.short}",
        paper.citation(),
        _pipe(rows, ["Claim", "Kind", "Where", *own]),
    ]
    if links := _links(results_root, own, paper.slug):
        parts.append(links)
    return "\n\n".join(parts)


def _links(results_root: Path, scales: Iterable[str], folder: str) -> str:
    """A list of the tables and figures of a folder, by scale."""
    links = []
    for scale in scales:
        for kind, pattern in (("tables", "*.md"), ("figures", "*.png")):
            place = Path(scale) / folder / kind
            names = sorted(p.name for p in (results_root / place).glob(pattern))
            if names:
                listed = ", ".join(f"[{Path(n).stem}]({(place / n).as_posix()})" for n in names)
                links.append(f"- {kind.capitalize()}, {scale}: {listed}")
    return "\n".join(links)


def _anchor(text: str) -> str:
    kept = "".join(c for c in text.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
