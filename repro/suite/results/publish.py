"""How results get into ``results/``: method by method, run by run, each folder whole or not at all.

A run whose record in the work folder is today's replaces the committed one; a committed run that is
today's, or declared so (`repro.suite.results.today`), is kept. Tables, claims and findings are made
from the union.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import store
from repro.errors import ReproError
from repro.suite import provenance, records, verdict
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.plan import methods_at
from repro.suite.records import Record, Row
from repro.suite.report import comparisons, figures, inputs, ledger
from repro.suite.results import layout, today
from repro.suite.results.today import Key
from repro.suite.run import Options


def publish(options: Options, results: Path, slugs: Sequence[str] = ()) -> list[str]:
    """Publish methods of a scale, by default all; nothing is written if one is refused.

    Returns:
        What was done, a line each.

    Raises:
        ReproError: the scale is no evidence, or a method has runs that are missing, stale, not
            judged or of uncommitted code.
    """
    scale = options.scale
    if scale == "smoke":
        raise ReproError("smoke output is not evidence and is never published; use small or gpu")
    methods = [library.load(slug) for slug in slugs] or methods_at(scale)
    merged = [merge(method, options, results / scale / method.slug) for method in methods]
    reports = [inputs.load(one.method.slug, one) for one in merged]
    said = []
    for one, report in zip(merged, reports, strict=True):
        kept = _replace(one, report)
        total = len(one.made)
        said.append(f"{one.method.slug}: {total} runs, {one.from_work} of them from work")
        said += [_taken_over(f"{one.method.slug}/{name}") for name in kept]
    return said + derive(scale, results, options.base)


def unpublish(scale: str, slug: str, results: Path) -> list[str]:
    """Remove the committed results of a method; returns what else was done, a line each.

    Raises:
        ReproError: there are none.
    """
    known = records.committed(results / scale)
    if slug not in known:
        raise ReproError(
            f"{slug} has no results of scale {scale}; published are {', '.join(known) or 'none'}"
        )
    store.remove_folder(results / scale / slug)
    return derive(scale, results)


def derive(scale: str, results: Path, work: Path | None = None) -> list[str]:
    """Write anew what follows from the methods of a scale together; returns what was taken over.

    Args:
        work: the scale's work folder, for arrays that the figures across methods show.

    Raises:
        ReproError: a committed file is damaged, or a method cannot be judged.
    """
    folder = results / scale
    said: list[str] = []
    if records.committed(folder):
        reports = inputs.load_all(inputs.Committed(scale, folder, arrays=work))
        across = folder / comparisons.FOLDER
        if any(comparisons.ran(reports)):
            with store.atomic_folder(across) as temporary:
                places = temporary / "tables", temporary / "figures"
                kept = comparisons.write(reports, *places, kept=across / "figures")
                layout.seal(temporary)
            said = [_taken_over(f"{comparisons.FOLDER}/{name}") for name in kept]
        elif across.exists():
            store.remove_folder(across)
        layout.write(folder, layout.of_scale(scale, reports))
    elif folder.exists():
        store.remove_folder(folder)
    store.write_text(results / "README.md", ledger.readme(results))
    path = results.parent / "README.md"
    if path.is_file():
        store.write_text(path, layout.of_readme(path.read_text(encoding="utf-8"), results))
    return said


def _taken_over(figure: str) -> str:
    return f"figure {figure}: kept as committed, for the arrays of some of its runs are not here"


def _replace(one: Merged, report: inputs.Report) -> list[str]:
    """Replace the folder of a method; returns the figures that were taken over."""
    with store.atomic_folder(one.target) as temporary:
        layout.write(temporary, layout.of_method(report))
        taken_over = figures.write(report, temporary / "figures", one.target / "figures")
        if one.declared:
            store.write_text(temporary / today.CARRIED, today.carried_csv(one.declared))
        layout.seal(temporary)
    return taken_over


@dataclass
class Merged:
    """A source (`repro.suite.report.inputs.Source`): runs of today from work, others as committed.

    Attributes:
        declared: rows of ``carried.csv`` that the kept records still need.
        from_work: how many runs come from work.
    """

    method: Method
    scale: str
    target: Path
    made: dict[Key, Record]
    trained: dict[Key, Record]
    declared: list[Row]
    from_work: int
    root: Path | None = None

    def slugs(self) -> set[str]:
        return {self.method.slug}

    def runs(self, slug: str) -> list[Record]:
        return list(self.made.values())

    def models(self, slug: str, owners: Iterable[str]) -> list[Record]:
        return list(self.trained.values())

    def verdicts(self, method: Method, runs: list[Record]) -> dict[str, Any]:
        return verdict.judge(method, self.scale, runs)

    def findings(self, method: Method) -> list[dict[str, Any]]:
        return inputs.findings_of(method, self.scale)

    def drawings(self, name: str) -> Path:
        return self.target / "figures"


def merge(method: Method, options: Options, target: Path) -> Merged:
    """The runs and models of a method, each from work if it is today's there, else as committed.

    Raises:
        ReproError: one is missing or stale in both places, is of uncommitted code, or all are from
            work and were not judged there.
    """
    scale, base = options.scale, options.base
    old_runs, old_models = [], []
    if target.is_dir():
        old_runs = records.read_runs(target, scale)
        old_models = records.read_models(target, scale)
    declared = today.declared(target)
    made, missing_runs, stay = _choose(
        today.runs(method, scale),
        base / "runs" / method.slug,
        {today.of_run(record): record for record in old_runs},
        declared,
    )
    trained, missing_models, also = _choose(
        today.models(method, scale),
        base / "models",
        {today.of_model(record): record for record in old_models},
        declared,
    )
    if missing := missing_runs + missing_models:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ReproError(
            f"{method.slug} at scale {scale}: {', '.join(missing[:3])}{more} not of today's code, "
            f"neither in {base} nor as committed; run `repro run {method.slug} --scale {scale}` "
            f"or `make {scale}` first"
        )
    from_work = _fresh(made)
    _refuse_uncommitted(method, options, from_work + _fresh(trained))
    if len(from_work) == len(made) and not (base / "verdicts" / f"{method.slug}.json").is_file():
        raise ReproError(
            f"{method.slug} at scale {scale} is not judged; run `repro run {method.slug} --scale "
            f"{scale}` or `make {scale}` first"
        )
    return Merged(method, scale, target, made, trained, stay + also, len(from_work))


def _fresh(chosen: dict[Key, Record]) -> list[Record]:
    """Those that come from work."""
    return [record for record in chosen.values() if record["folder"] is not None]


def _refuse_uncommitted(method: Method, options: Options, fresh: Iterable[Record]) -> None:
    names = [f"{r['method']}/{r['arm']}" for r in fresh if provenance.is_uncommitted(r["commit"])]
    if names:
        more = ", …" if len(set(names)) > 3 else ""
        raise ReproError(
            f"{method.slug} at scale {options.scale}: {', '.join(sorted(set(names))[:3])}{more} "
            f"ran on uncommitted code; commit it, delete their folders under {options.base} and "
            "run them again"
        )


def _choose(
    wanted: dict[Key, str], work: Path, committed: dict[Key, Record], declared: dict[Key, Row]
) -> tuple[dict[Key, Record], list[str], list[Row]]:
    """Records by key, the names of those that are nowhere, and the declarations still needed."""
    chosen, missing, needed = {}, [], []
    for key, identity in wanted.items():
        path = work / key[0] / str(key[1]) / "record.json"
        fresh = records.read_record(path) if path.is_file() else None
        if fresh is not None and fresh.get("fingerprint") == identity:
            chosen[key] = fresh
            continue
        old, row = committed.get(key), declared.get(key)
        if old is None or not today.is_current(old, identity, row):
            missing.append(today.named(key))
            continue
        chosen[key] = old
        if row is not None and old["fingerprint"] != identity:
            needed.append(row)
    return chosen, missing, needed
