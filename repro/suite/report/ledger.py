"""The ledger: every claim with its verdict, for one scale and over all committed scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite import records
from repro.suite.cards import comparisons, library
from repro.suite.cards.method import Method
from repro.suite.cards.paper import Paper
from repro.suite.records import to_csv
from repro.suite.report import markdown, summary
from repro.suite.report.inputs import HEADINGS, MEANINGS, SYMBOLS, Report, headline, held
from repro.suite.report.markdown import Markdown
from repro.suite.report.tables import CLAIM_COLUMNS, RESERVED, claim_records
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
    counts.append([Markdown("**all**"), *headline(every)])
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
        parts += [
            f"## {markdown.inline(report.paper.short)}",
            _pipe(rows, ["Claim", "Kind", "Verdict", "Tier"]),
        ]
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
    numeric = [numeric_from is not None and i >= numeric_from for i in range(len(headers))]
    return markdown.table(rows, headers, numeric)


# Over all scales --------------------------------------------------------------------------------

BESIDE = ("code", "ours")

KINDS = {"tables": ".md", "figures": ".png"}
"""Folders that the ledger links to, with the ending of what it shows of them."""

Ledger = dict[tuple[str, str], list[dict[str, str]]]
"""(method, claim) → the rows of its checks."""


def read_claims(folder: Path, slugs: Iterable[str]) -> Ledger:
    """(method, claim) → rows of the committed `claims.csv` of those methods that a scale has.

    Raises:
        ReproError: a file is damaged, or of another method than its folder.
    """
    found: Ledger = {}
    for slug in sorted({*slugs} & {*records.committed(folder)}):
        path = folder / slug / "claims.csv"
        for number, row in enumerate(records.read_rows(path, CLAIM_COLUMNS), 2):
            with records.at_line(path, number):
                if row["method"] != slug:
                    raise ValueError(f"is of the method {row['method']}")
            found.setdefault((slug, row["claim"]), []).append(row)
    return found


def overview(results_root: Path, root: Path | None = None, page: str = "results/README.md") -> str:
    """Markdown table: how many claims of each paper have each verdict, scale by scale.

    Args:
        results_root: folder with `<scale>/<method>/claims.csv`.
        root: folder that holds `methods/`, by default the repository.
        page: where the sections of the papers are, relative to the text that shows the table.
    """
    ledgers, methods = _committed(results_root, root)
    rows, beside = [], []
    for paper in [method.paper for method in methods]:
        for scale, ledger in ledgers.items():
            if _has(ledger, paper):
                verdicts: list[tuple[str, str]] = [
                    (claim.kind, _verdict(ledger.get((paper.slug, claim.id))))
                    for claim in paper.claims
                ]
                shown = markdown.label(paper.short)
                link = Markdown(f"[{shown}]({page}#{_anchor(paper.short)})")
                rows.append([link, scale, *headline(verdicts)])
                beside.append((Markdown(f"{link}, {scale}"), verdicts))
    parts = [_pipe(rows, ["Paper", "Scale", *HEADINGS], numeric_from=2), COUNTED, _beside(beside)]
    return "\n\n".join(part for part in parts if part)


def _committed(results_root: Path, root: Path | None) -> tuple[dict[Scale, Ledger], list[Method]]:
    """Ledger of each committed scale, and the methods that occur in one."""
    slugs = library.slugs(root)
    ledgers = {s: found for s in SCALES if (found := read_claims(results_root / s, slugs))}
    known = {method for ledger in ledgers.values() for method, _ in ledger}
    return ledgers, [library.load(slug, root) for slug in slugs if slug in known]


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
    ledgers, methods = _committed(results_root, root)
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
    across = sorted(comparisons.load(root))
    if links := _links(results_root, "comparisons", {scale: (across, across) for scale in ledgers}):
        parts += ["## Across papers", links]
    parts += [_paper_section(results_root, method, ledgers) for method in methods]
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
        try:
            devices, commits = ([str(one) for one in found[key]] for key in ("devices", "commits"))
            runs, minutes = int(found["runs"]), float(found["wall_s"]) / 60
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ReproError(
                f"{short(path)}: is not what the runs of scale {scale} were made with; publish a "
                "method again"
            ) from error
        cells = ", ".join(markdown.code(commit[:10]) for commit in commits)
        rows.append([scale, "; ".join(devices), Markdown(cells), runs, f"{minutes:.1f}"])
    headers = ["Scale", "Machine", "Commit", "Runs", "Minutes"]
    return _pipe(rows, headers) if rows else ""


def _paper_section(results_root: Path, method: Method, ledgers: Mapping[Scale, Ledger]) -> str:
    paper = method.paper
    own = [scale for scale, ledger in ledgers.items() if _has(ledger, paper)]
    rows = []
    for claim in paper.claims:
        cells = [_claim_cell(ledgers[scale].get((paper.slug, claim.id))) for scale in own]
        rows.append([claim.statement, claim.kind, claim.where, *cells])
    parts = [
        f"## {markdown.inline(paper.short)}",
        markdown.block(paper.citation()),
        _pipe(rows, ["Claim", "Kind", "Where", *own]),
    ]
    made = [*RESERVED, *(table.id for table in method.experiment.tables)]
    shown = {scale: (made, [figure.id for figure in method.figures(scale)]) for scale in own}
    if links := _links(results_root, paper.slug, shown):
        parts.append(links)
    return "\n\n".join(parts)


def _claim_cell(found: list[dict[str, str]] | None) -> Markdown:
    """The verdict of a claim, with the tiers and the first observation that decide it."""
    verdict = _verdict(found)
    deciding = [row for row in found or () if row["verdict"] == verdict]
    tiers = dict.fromkeys(row["tier"] for row in deciding)
    note = f" ({', '.join(tiers)})" if verdict != "untested" and tiers else ""
    seen = [row["observed"] for row in deciding if row.get("observed")]
    observed = f": {markdown.code(seen[0])}" if seen else ""
    return Markdown(f"{SYMBOLS[verdict]} {verdict}{markdown.inline(note)}{observed}")


def _links(
    results_root: Path, folder: str, shown: Mapping[Scale, tuple[Sequence[str], Sequence[str]]]
) -> str:
    """A list of the tables and figures of a folder, by scale: those of the cards that are there."""
    links = []
    for scale, kinds in shown.items():
        for (kind, suffix), ids in zip(KINDS.items(), kinds, strict=True):
            place = Path(scale) / folder / kind
            wanted = sorted(f"{identity}{suffix}" for identity in ids)
            names = [name for name in wanted if (results_root / place / name).is_file()]
            if names:
                listed = ", ".join(f"[{Path(n).stem}]({(place / n).as_posix()})" for n in names)
                links.append(f"- {kind.capitalize()}, {scale}: {listed}")
    return "\n".join(links)


def _anchor(text: str) -> str:
    kept = "".join(c for c in text.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
