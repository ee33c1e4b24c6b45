"""How results get into ``results/``: method by method, run by run, each folder whole or not at all.

A run whose record in the work folder is today's replaces the committed one; a committed run that is
today's, or declared so (`repro.suite.results.today`), is kept. Tables, claims and findings are made
from the union. What is published is evidence (`repro.suite.results.evidence`), and what is kept has
the hashes that it was published with.

A command that is killed leaves every folder as it was or as it becomes, and what follows from all
of them behind; the same command again brings everything to where it would have been.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import store
from repro.errors import ReproError
from repro.places import short
from repro.suite import judging, looks, records, verdict
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.plan import methods_at, scale_config
from repro.suite.records import Record, Row
from repro.suite.report import comparisons, figures, inputs
from repro.suite.results import evidence, layout, manifest, today, writing
from repro.suite.results.today import Key
from repro.suite.run import Options
from repro.suite.words import SCALES


def publish(options: Options, results: Path, slugs: Sequence[str] = ()) -> list[str]:
    """Publish methods of a scale, by default all; nothing is written if one is refused.

    Returns:
        What was done, a line each.

    Raises:
        ReproError: the scale is no evidence, a method has runs that are missing, stale, not judged
            or no evidence, committed files are damaged, or another command writes the results.
    """
    scale = options.scale
    if scale == "smoke":
        raise ReproError("smoke output is not evidence and is never published; use small or gpu")
    scale_config(scale)  # names a scale that there is not
    methods = [library.load(slug) for slug in slugs] or methods_at(scale)
    if not methods:
        raise ReproError(f"no method has runs at scale {scale}; choose another scale")
    with writing.alone(results):
        _refuse_damage(results, [results / scale / method.slug for method in methods])
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
        ReproError: there are none, another method's are damaged, or another command writes there.
    """
    scale_config(scale)  # names a scale that there is not
    with writing.alone(results):
        known = records.committed(results / scale)
        if slug in known:
            _refuse_damage(results, [results / scale / slug])
            store.remove_folder(results / scale / slug)
        elif slug not in library.slugs() or _follows(scale, results):
            raise ReproError(
                f"{slug} has no results of scale {scale}; published are "
                f"{', '.join(known) or 'none'}"
            )
        return derive(scale, results)


def _refuse_damage(results: Path, but: Collection[Path]) -> None:
    """What follows from all methods is not written from files that are not those published."""
    for scale in SCALES:
        for slug in library.slugs():
            path = results / scale / slug
            if path.exists() and not path.is_dir():
                raise ReproError(
                    f"{short(path)}: is not the folder of a method's results; restore it (`git "
                    "checkout`) or remove it"
                )
        for slug in records.committed(results / scale):
            if results / scale / slug not in but:
                manifest.refuse_damage(results / scale / slug)


def _follows(scale: str, results: Path) -> bool:
    """Whether a command that was killed has left nothing to be derived."""
    folder = results / scale
    known: dict[str, list[inputs.Report]] = {}
    wanted: dict[Path, str] = {}
    if records.committed(folder):
        reports = known[scale] = inputs.load_all(inputs.Committed(scale, folder))
        texts = layout.of_scale(scale, reports)
        wanted |= {folder / name: text for name, text in texts.items()}
    elif folder.exists():
        return False
    wanted |= {results / name: text for name, text in layout.of_results(results, known).items()}
    readme = results.parent / "README.md"
    if readme.is_file():
        wanted[readme] = layout.of_readme(readme, results)
    return all(p.is_file() and p.read_bytes() == t.encode() for p, t in wanted.items())


def derive(scale: str, results: Path, work: Path | None = None) -> list[str]:
    """Write anew what follows from the methods of a scale together; returns what was taken over.

    Args:
        work: the scale's work folder, for arrays that the figures across methods show.

    Raises:
        ReproError: a committed file is damaged, or a method cannot be judged.
    """
    folder = results / scale
    said: list[str] = []
    known: dict[str, list[inputs.Report]] = {}
    if records.committed(folder):
        reports = known[scale] = inputs.load_all(inputs.Committed(scale, folder, arrays=work))
        across = folder / comparisons.FOLDER
        if any(comparisons.ran(reports)):
            with store.atomic_folder(across) as temporary:
                places = temporary / "tables", temporary / "figures"
                earlier = across / "figures" if manifest.is_whole(across) else None
                kept = comparisons.write(reports, *places, kept=earlier)
                manifest.seal(temporary)
            said = [_taken_over(f"{comparisons.FOLDER}/{name}") for name in kept]
        elif across.exists():
            store.remove_folder(across)
        layout.write(folder, layout.of_scale(scale, reports))
    elif folder.exists():
        store.remove_folder(folder)
    layout.write(results, layout.of_results(results, known))
    path = results.parent / "README.md"
    if path.is_file():
        store.write_text(path, layout.of_readme(path, results))
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
        manifest.seal(temporary)
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

    def planned(self, method: Method) -> Method:
        return self.method

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
    method = options.plan.planned(method)
    if (target / "records.csv").is_file():
        method = _with_looks(method, scale, target)
    runs, models = today.runs(method, scale), today.models(method, scale)
    if not runs:
        raise ReproError(f"{method.slug} runs no arm at scale {scale}; there is nothing to publish")
    fresh = _in_work(runs, base / "runs" / method.slug)
    trained = _in_work(models, base / "models")
    evidence.refuse_others(method, options, fresh, trained)
    old = _Committed.read(target, scale, needed=len(fresh) + len(trained) < len(runs) + len(models))
    made, missing_runs, stay = _joined(runs, fresh, old.runs, old.declared)
    every, missing_models, also = _joined(models, trained, old.models, old.declared)
    if missing := missing_runs + missing_models:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ReproError(
            f"{method.slug} at scale {scale}: {', '.join(missing[:3])}{more} not of today's code, "
            f"neither in {base} nor as committed; run `repro run {method.slug} --scale {scale}` "
            f"or `make {scale}` first"
        )
    evidence.refuse_uneven(method, made)
    if len(fresh) == len(made):
        evidence.refuse_unjudged(method, options, list(made.values()))
    return Merged(method, scale, target, made, every, stay + also, len(fresh))


def _with_looks(method: Method, scale: str, target: Path) -> Method:
    """A method with the further seeds of its committed runs, as far as these are today's.

    Code that changed begins anew: how far its predecessor had to look says nothing about it.
    """
    committed, declared = records.read_runs(target, scale), today.declared(target)
    identities = today.runs(looks.of_runs(method, scale, committed), scale)
    current = [
        record
        for record in committed
        if (key := today.of_run(record)) in identities
        and today.is_current(record, identities[key], declared.get(key))
    ]
    return looks.of_runs(method, scale, current)


def verdicts(method: Method, options: Options, results: Path) -> dict[str, Any]:
    """Verdicts of a method: of its runs here, and of committed ones where not all are here.

    Raises:
        ReproError: a run is nowhere, stale or damaged.
    """
    planned = options.plan.planned(method)
    target, here = results / options.scale / method.slug, options.base / "runs" / method.slug
    if not target.is_dir() or all(
        (here / arm / str(seed) / "record.json").exists()
        for arm in planned.arms(options.scale)
        for seed in planned.seeds(options.scale, arm)
    ):
        return judging.judge(method, options)
    merged = merge(method, options, target)
    return merged.verdicts(merged.method, merged.runs(method.slug))


@dataclass(frozen=True)
class _Committed:
    """What is committed of a method, as it was published."""

    runs: dict[Key, Record]
    models: dict[Key, Record]
    declared: dict[Key, Row]

    @classmethod
    def read(cls, folder: Path, scale: str, needed: bool) -> _Committed:
        """Read and verified; empty where there is nothing, or nothing of it is needed.

        Raises:
            ReproError: a file is damaged.
        """
        if not needed or not folder.is_dir():
            return cls({}, {}, {})
        manifest.refuse_damage(folder)
        runs = {today.of_run(record): record for record in records.read_runs(folder, scale)}
        records.refuse_edited(folder, runs.values())
        models = {today.of_model(record): record for record in records.read_models(folder, scale)}
        return cls(runs, models, today.declared(folder))


def _in_work(wanted: dict[Key, str], work: Path) -> dict[Key, Record]:
    """The records of a work folder that are today's."""
    found = {}
    for key, identity in wanted.items():
        path = work / key[0] / str(key[1]) / "record.json"
        if path.exists():
            record = records.read_record(path)
            if record.get("fingerprint") == identity:
                found[key] = record
    return found


def _joined(
    wanted: dict[Key, str],
    fresh: dict[Key, Record],
    committed: dict[Key, Record],
    declared: dict[Key, Row],
) -> tuple[dict[Key, Record], list[str], list[Row]]:
    """Records by key, the names of those that are nowhere, and the declarations still needed."""
    chosen, missing, needed = {}, [], []
    for key, identity in wanted.items():
        if key in fresh:
            chosen[key] = fresh[key]
            continue
        old, row = committed.get(key), declared.get(key)
        if old is None or not today.is_current(old, identity, row):
            missing.append(today.named(key))
            continue
        evidence.refuse_kept(key, old)
        chosen[key] = old
        if row is not None and old["fingerprint"] != identity:
            needed.append(row)
    return chosen, missing, needed
