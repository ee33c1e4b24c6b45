"""What lies where under ``results/``, and which file follows from what.

::

    results/README.md                      the ledger over all scales
    results/claims.json                    every claim of every scale, for other programs
    results/claims.csv                     the same, a row a claim with the check that decides it
    results/others/<machine>/<scale>/<method>/
                                           what another machine measured
    results/<scale>/environment.json       machines, commits and versions of all runs
    results/<scale>/ledger.md              every claim with its verdict
    results/<scale>/comparisons/           tables, figures, manifest.sha256
    results/<scale>/<method>/
        runs.csv                           every measurement, in full precision
        records.csv                        where each run comes from, and a hash of what it measured
        models.csv                         the same for the models that the method uses
        items.csv                          which items of the data they read, and what for
        carried.csv                        fingerprints declared equal to today's, with the evidence
        claims.csv                         every check with its verdict
        findings.json                      why claims came out as they did
        tables/ figures/                   as the page shows them
        manifest.sha256                    the hash of every file (``sha256sum -c`` reads it)

``runs.csv``, ``records.csv``, ``models.csv``, ``items.csv``, ``carried.csv`` and the drawings are
the results; every other file follows from them and from the cards, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite import records
from repro.suite.export import claims
from repro.suite.report import ledger, tables
from repro.suite.report.inputs import Report, findings_of

BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"


def of_method(report: Report) -> dict[str, str]:
    """Text by path of every file of a method's folder but drawings, declarations and manifest."""
    runs = report.results.records
    models = [*report.results.model_records, *report.zoo_records]
    items = records.items_csv(runs, models)
    rows = tables.claim_records(report)
    return {
        "runs.csv": records.runs_csv(runs, report.experiment),
        "records.csv": records.records_csv(runs),
        "models.csv": records.models_csv(models),
        **({} if items is None else {"items.csv": items}),
        "claims.csv": records.to_csv(rows, tables.CLAIM_COLUMNS),
        "findings.json": store.json_text(findings_of(report.method, report.scale)),
        **{f"tables/{name}": text for name, text in tables.files(report).items()},
    }


def of_scale(scale: str, reports: Sequence[Report]) -> dict[str, str]:
    """Text by path of what a scale says over all its methods."""
    return {
        "environment.json": store.json_text(ledger.environment(reports)),
        "ledger.md": ledger.scale_ledger(scale, list(reports)),
    }


def of_results(results: Path, known: Mapping[str, Sequence[Report]]) -> dict[str, str]:
    """Text by path of what the results say over all scales.

    Args:
        known: scale → reports of all its methods, where they are read already.

    Raises:
        ReproError: a committed file is damaged.
    """
    return {
        "README.md": ledger.readme(results),
        **claims.files(claims.committed(results, known=known)),
    }


def of_readme(path: Path, results: Path, root: Path | None = None) -> str:
    """The README of the tree with the ledger's table between its markers.

    Raises:
        ReproError: it is not UTF-8, or a marker is missing or stands twice.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReproError(f"{short(path)}: cannot be read as UTF-8; restore it") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ReproError(f"README.md lacks the markers {BEGIN} … {END}; restore them")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{ledger.overview(results, root)}\n{END}{rest.split(END)[1]}"


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by their paths below a folder."""
    for name, text in texts.items():
        store.write_text(folder / name, text)
