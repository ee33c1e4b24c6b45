"""The committed results: how they get there and how their verdicts are derived again.

``results/<scale>/`` holds what a reader needs to check every verdict: ``runs.csv`` (each
measurement in full precision), ``claims.csv`` (each verdict), tables, figures, provenance of each
run (``records.csv``) and the environment.
"""

from __future__ import annotations

import csv
import difflib
import json
import shutil
from pathlib import Path
from typing import Any

from repro import store
from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import verdict
from repro.suite.cards import library
from repro.suite.run import Options

COPIED = ("runs.csv", "claims.csv", "environment.json", "ledger.md")
RECORD_COLUMNS = (
    "method",
    "arm",
    "seed",
    "fingerprint",
    "commit",
    "device",
    "threads",
    "started",
    "wall_s",
    "peak_memory_mb",
    "params",
)


def publish(options: Options, results: Path) -> Path:
    """Copy a finished scale to ``results/<scale>``, whole or not at all.

    Raises:
        ReproError: the scale is not finished, or a run was made by uncommitted code.
    """
    source = options.base / "report"
    for name in ("runs.csv", "claims.csv", "index.html"):
        if not (source / name).is_file():
            raise ReproError(f"{source / name} is missing; run `make {options.scale}` first")
    records = [store.read_json(p) for p in sorted(options.base.glob("runs/*/*/*/record.json"))]
    records = [r for r in records if _is_wanted(r, options.scale)]
    dirty = sorted({f"{r['method']}/{r['arm']}" for r in records if "+changes" in r["commit"]})
    if dirty:
        raise ReproError(
            f"{len(dirty)} arms ran on uncommitted code ({', '.join(dirty[:3])} …); commit it and "
            f"run them again: delete {options.base / 'runs'} and repeat"
        )
    target = results / options.scale
    with store.atomic_folder(target) as temporary:
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        for kind in ("tables", "figures"):
            # Snakemake marks the folders it made by a file that says nothing to a reader.
            ignored = shutil.ignore_patterns(".snakemake_timestamp")
            shutil.copytree(source / kind, temporary / kind, ignore=ignored)
        with (temporary / "records.csv").open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(RECORD_COLUMNS)
            for record in records:
                row = {**record, "params": json.dumps(record["params"], sort_keys=True)}
                writer.writerow([row[column] for column in RECORD_COLUMNS])
    from repro.suite import report

    report.results_readme(results)
    update_readme(ROOT / "README.md", results)
    return target


def _is_wanted(record: dict[str, Any], scale: str) -> bool:
    method = library.load(record["method"])
    arms = method.arms(scale)
    return record["arm"] in arms and record["seed"] in method.seeds(scale, record["arm"])


def check(results: Path) -> list[str]:
    """Derive every committed verdict again; returns the differences, one line each.

    Raises:
        ReproError: there are no results, or a file is not of its format.
    """
    scales = sorted(p.name for p in results.iterdir() if p.is_dir()) if results.is_dir() else []
    if not scales:
        raise ReproError(f"no committed results under {results}; make them with `make small`")
    differences: list[str] = []
    for scale in scales:
        folder = results / scale
        found = (folder / "claims.csv").read_text(encoding="utf-8")
        derived = claims_csv(scale, read_runs(folder / "runs.csv"))
        count = derived.count("\n") - 1
        lines = difflib.unified_diff(
            found.splitlines(),
            derived.splitlines(),
            f"{folder.name}/claims.csv (committed)",
            f"{folder.name}/claims.csv (derived from runs.csv)",
            lineterm="",
            n=0,
        )
        changed = list(lines)
        differences += changed
        print(f"{scale}: {count} verdicts, {'differences' if changed else 'all derived again'}")
    return differences


def read_runs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Method → run records, from ``runs.csv``."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise ReproError(f"{path}: cannot be read ({error.strerror})") from error
    records: dict[tuple[str, str, int], dict[str, Any]] = {}
    for number, row in enumerate(rows, 2):
        try:
            key = (row["method"], row["arm"], int(row["seed"]))
            at = dict(part.split("=", 1) for part in row["at"].split(",") if part)
            item = {"name": row["measurement"], "at": at, "value": float(row["value"])}
        except (KeyError, ValueError) as error:
            raise ReproError(f"{path} line {number}: is not a measurement ({error})") from error
        record = records.setdefault(
            key, {"method": key[0], "arm": key[1], "seed": key[2], "measurements": []}
        )
        record["measurements"].append(item)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for (method, _, _), record in records.items():
        grouped.setdefault(method, []).append(record)
    return grouped


def claims_csv(scale: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    """The text of ``claims.csv`` that follows from run records and the cards of today."""
    from repro.suite.report.inputs import Report
    from repro.suite.report.tables import CLAIM_COLUMNS, claim_records, to_csv

    rows = []
    for slug in sorted(runs):
        method = library.load(slug)
        judged = verdict.judge(method, scale, runs[slug])
        claims = {claim["id"]: claim for claim in judged["claims"]}
        rows += claim_records(Report(method, scale, None, judged["checks"], claims, []))
    return to_csv(rows, CLAIM_COLUMNS)


BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"


def readme_ledger(results: Path) -> str:
    """The table of the README: verdicts per paper and scale, from the committed claims."""
    from repro.suite.report.ledger import overview

    return f"{BEGIN}\n{overview(results)}\n{END}"


def update_readme(readme: Path, results: Path) -> None:
    """Write the ledger's table between its markers."""
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ReproError(f"{readme.name} lacks the markers {BEGIN} … {END}; restore them")
    head, rest = text.split(BEGIN)
    store.write_text(readme, head + readme_ledger(results) + rest.split(END)[1])
