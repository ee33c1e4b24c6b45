"""What holds the committed results: all that ought to follow is derived again and compared.

Against the cards: every arm, seed and parameter, and no other. Against the code: every fingerprint
is today's or declared so. Against each other: each run's hash over its measurements, the verdicts,
tables, findings and ledgers that follow from the runs, and the manifest of every folder. Against
sense: finite numbers, and random arms whose seeds differ.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.places import short
from repro.suite import looks, records
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.export import claims
from repro.suite.plan import methods_at
from repro.suite.records import Record, Row
from repro.suite.report import comparison_figures, comparisons, figures, inputs
from repro.suite.results import layout, manifest, others, today, writing
from repro.suite.results.evidence import is_commit
from repro.suite.results.today import Key
from repro.suite.words import SCALES

OF_RESULTS = ("README.md", *claims.FILES)
OF_SCALE = ("environment.json", "ledger.md")

Say = Callable[[str, str], None]
"""Takes the kind of a difference and what differs."""


class Differences:
    """What was found, by place and kind."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[str]] = {}

    def at(self, where: str) -> Say:
        """A function that notes a difference at a place."""
        return lambda kind, what: self._found.setdefault((where, kind), []).append(what)

    def lines(self) -> list[str]:
        """One line for each place and kind: the first difference, and how many more there are."""
        found = [
            f"{where}: {kind}: {items[0]}"
            + (f" (and {len(items) - 1} more)" if len(items) > 1 else "")
            for (where, kind), items in self._found.items()
        ]
        return [" ".join(line.split()) for line in found]  # names may hold anything


@contextlib.contextmanager
def _noted(say: Say, kind: str) -> Iterator[None]:
    """An error of the user's kind becomes a difference."""
    try:
        yield
    except ReproError as error:
        say(kind, str(error))


def check(results: Path) -> list[str]:
    """Every difference between the committed results and what they ought to be, grouped in lines.

    Raises:
        ReproError: there are no results.
    """
    there = sorted(path.name for path in results.iterdir()) if results.is_dir() else []
    scales = [scale for scale in SCALES if scale in there]
    if not scales:
        raise ReproError(f"no committed results under {results}; make them with `make small`")
    found = Differences()
    say = found.at("results")
    for path in writing.leftovers(results):
        where = path.relative_to(results.parent)
        say("left of a killed command", f"{where}; run that command again, it sweeps it")
    for name in there:
        if name not in (*SCALES, *OF_RESULTS, others.FOLDER) and not _is_leftover(name):
            say("extra file", name)
    _check_others(results, found)
    remedy = ""
    known: dict[str, list[inputs.Report]] = {}
    for scale in scales:
        reports, writes = _check_scale(scale, results / scale, found)
        remedy = writes or remedy
        if reports is not None:
            known[scale] = reports
    with _noted(say, "cannot be derived"):
        texts = layout.of_results(results, known)
        if len(known) < len(scales):  # of a method that cannot be read the claims are unknown
            texts = {"README.md": texts["README.md"]}
        _compare(results, texts, say, remedy=remedy)
        readme = results.parent / "README.md"
        if readme.is_file():
            own = {"README.md": layout.of_readme(readme, results)}
            _compare(results.parent, own, found.at("the tree"), remedy=remedy)
    return found.lines()


def _check_others(results: Path, found: Differences) -> None:
    """Results of other machines: as they were imported, and still to be judged.

    That they are of earlier code is no difference; nobody here can run them again.
    """
    for machine, scale, slug, folder in others.places(results):
        say = found.at("/".join((others.FOLDER, machine, scale, slug)))
        if slug not in library.slugs() or scale not in library.load(slug).experiment.scales:
            say("no method of this scale", slug)
            continue
        with _noted(say, "cannot be read"):
            others.about(folder)
            others.compared(machine, scale, slug, folder, None)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith(".partial")


def _check_scale(
    scale: str, folder: Path, found: Differences
) -> tuple[list[inputs.Report] | None, str]:
    """Check a scale; returns its methods and what writes again what follows from all of them.

    None in their place says that one cannot be read.
    """
    say = found.at(scale)
    if not folder.is_dir() or folder.is_symlink():
        say("not a folder", folder.name)
        return None, ""
    published = _published(scale, folder, say)
    slug = f" {published[0].slug}" if published else ""
    remedy = f"; `repro publish{slug} --scale {scale}` writes it again"
    source = inputs.Committed(scale, folder)
    reports: list[inputs.Report] = []
    for method in published:
        report = _check_method(method, source, found.at(f"{scale}/{method.slug}"))
        if report is not None:
            reports.append(report)
    if len(reports) < len(published):
        return None, remedy
    with _noted(say, "cannot be derived"):
        _compare(folder, layout.of_scale(scale, reports), say, remedy=remedy)
        across = found.at(f"{scale}/across")
        _check_comparisons(folder / comparisons.FOLDER, reports, across, remedy)
    return reports, remedy


def _published(scale: str, folder: Path, say: Say) -> list[Method]:
    """The methods of a scale that have a folder; notes those that have none, and other folders."""
    wanted = {method.slug: method for method in methods_at(scale)}
    there = [path.name for path in sorted(folder.iterdir()) if not _is_leftover(path.name)]
    for name in there:
        if name not in wanted and name not in (comparisons.FOLDER, *OF_SCALE):
            say("no method of this scale", name)
    for slug in wanted:
        if slug not in there:
            say(
                "method without results",
                f"{slug}; run `make {scale}`, `repro publish --scale {scale}`",
            )
    return [method for slug, method in wanted.items() if slug in there]


# One method ---------------------------------------------------------------------------------


def _check_method(method: Method, source: inputs.Committed, say: Say) -> inputs.Report | None:
    """Check the folder of a method; its report, or None where that cannot be made."""
    folder = source.folder / method.slug
    with _noted(say, "cannot be read"):
        for kind, name in manifest.broken_seals(folder):
            say(kind, name)
    with _noted(say, "cannot be read"):
        report = examined(method, source, say)
        _compare(folder, layout.of_method(report), say, "tables")
        drawn = {card.id: figures.words(card) for card in report.method.figures(report.scale)}
        _check_figures(folder / "figures", drawn, say)
        return report
    return None


def examined(method: Method, source: inputs.Committed, say: Say) -> inputs.Report:
    """Hold the runs and models of a method against cards and code; its report, judged anew.

    Raises:
        ReproError: they cannot be read or judged.
    """
    folder, scale = source.folder / method.slug, source.scale
    _check_rows(folder, say)
    runs = {today.of_run(run): run for run in records.read_runs(folder, scale)}
    models = {today.of_model(model): model for model in records.read_models(folder, scale)}
    declared = today.declared(folder)
    method = looks.of_runs(method, scale, runs.values())
    _check_runs(method, scale, runs, declared, say)
    _check_models(method, scale, models, declared, say)
    _check_declared({**runs, **models}, declared, say)
    return inputs.report_of(method, source, [*runs.values()], [*models.values()])


def _check_rows(folder: Path, say: Say) -> None:
    """Rows that stand twice."""
    for name, columns, key in (
        ("runs.csv", records.RUNS, ("arm", "seed", "measurement", "at")),
        ("records.csv", records.RECORDS, ("arm", "seed")),
        ("models.csv", records.MODELS, ("owner", "model", "seed")),
    ):
        rows = records.read_rows(folder / name, columns)
        counts = Counter(tuple(row[column] for column in key) for row in rows)
        for place, count in counts.items():
            if count > 1:
                say("row stands twice", f"{name}: {' '.join(place)}")


def _check_runs(
    method: Method,
    scale: str,
    runs: Mapping[Key, Record],
    declared: Mapping[Key, Row],
    say: Say,
) -> None:
    wanted = today.runs(method, scale)
    _check_keys("run", runs, wanted, say)
    for key in [key for key in wanted if key in runs]:
        run, name = runs[key], today.named(key)
        _check_params(run, method.arm_params(scale, key[0]), name, say)
        _check_numbers(run, name, say)
        if not today.is_current(run, wanted[key], declared.get(key)):
            say("stale run", f"{name} has {run['fingerprint']}, today's is {wanted[key]}")
        if not is_commit(run["commit"]):
            say("not of committed code", f"{name} ({run['commit']})")
        if run["method"] != method.slug:
            say("run of another method", f"{name} ({run['method']})")
        if records.measured_sha256(run) != run["measured_sha256"]:
            say("measurements are not those of the record", name)


def _check_models(
    method: Method,
    scale: str,
    models: Mapping[Key, Record],
    declared: Mapping[Key, Row],
    say: Say,
) -> None:
    wanted = today.models(method, scale)
    _check_keys("model", models, wanted, say)
    for key in [key for key in wanted if key in models]:
        model, name = models[key], today.named(key)
        _check_numbers(model, name, say)
        if not today.is_current(model, wanted[key], declared.get(key)):
            had = model["fingerprint"] or "none"
            say("stale model", f"{name} has {had}, today's is {wanted[key]}")
        if model["commit"] is not None and not is_commit(model["commit"]):
            say("not of committed code", f"{name} ({model['commit']})")
        # of a model whose fingerprint was not recorded the declaration stands for the parameters
        if model["fingerprint"] is not None or model["params"] is not None:
            params = method.model_params(scale, model["method"], model["arm"])
            _check_params(model, params, name, say)


def _check_keys(kind: str, there: Iterable[Key], wanted: Iterable[Key], say: Say) -> None:
    for key in sorted({*wanted} - {*there}):
        say(f"{kind} is gone", today.named(key))
    for key in sorted({*there} - {*wanted}):
        say(f"{kind} that the card has not", today.named(key))


def _check_params(record: Record, params: Mapping[str, Any], name: str, say: Say) -> None:
    had, has = record["params"] or {}, json.loads(json.dumps(dict(params)))
    for key in sorted({*had, *has}):
        if key not in had:
            say("parameter is missing", f"{name}: {key}")
        elif key not in has:
            say("parameter that the card has not", f"{name}: {key}")
        elif had[key] != has[key]:
            say("parameter differs", f"{name}: {key} was {had[key]}, the card has {has[key]}")


def _check_numbers(record: Record, name: str, say: Say) -> None:
    for measured in record["measurements"] or ():
        if not math.isfinite(measured["value"]):
            say("not a finite number", f"{name}: {measured['name']} is {measured['value']}")


def _check_declared(known: Mapping[Key, Record], declared: Mapping[Key, Row], say: Say) -> None:
    for key, row in declared.items():
        name = f"{today.CARRIED}: {today.named(key)}"
        if key not in known or (known[key]["fingerprint"] or "") != row["old"]:
            say("declaration of another record", name)
        elif not row["reason"] or not row["evidence"]:
            say("declaration without reason or evidence", name)


# Files --------------------------------------------------------------------------------------


def _compare(
    folder: Path, texts: Mapping[str, str], say: Say, whole: str = "", remedy: str = ""
) -> None:
    """Compare files with what follows from the runs and the cards.

    Args:
        whole: a folder below that may hold no other file.
        remedy: what writes the files again.
    """
    for name, text in texts.items():
        path = folder / name
        if path.is_symlink():
            say("link in place of a file", f"{name}{remedy}")
        elif not path.is_file():
            say("missing file", f"{name}{remedy}")
        elif (there := _bytes(path)) != text.encode():
            line = _first(there.decode(errors="replace"), text)
            say("does not follow from runs and cards", f"{name} line {line}{remedy}")
    if whole:
        for path in sorted((folder / whole).glob("*")):
            if f"{whole}/{path.name}" not in texts:
                say("extra file", f"{whole}/{path.name}{remedy}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReproError(f"{short(path)}: cannot be read ({error.strerror})") from error


def _first(there: str, derived: str) -> int:
    """The first line in which two texts differ."""
    pairs = itertools.zip_longest(there.split("\n"), derived.split("\n"))
    return next((n for n, (one, other) in enumerate(pairs, 1) if one != other), 1)


def _check_figures(folder: Path, wanted: Mapping[str, Mapping[str, str]], say: Say) -> None:
    """Drawings are those of the cards, under their titles and captions of today (by id)."""
    there = {path.name for path in folder.glob("*")}
    allowed = {f"{one}.{suffix}" for one in wanted for suffix in ("png", "svg", "json")}
    for name in sorted(there - allowed):
        say("extra file", f"figures/{name}")
    for identity, words in wanted.items():
        for name in sorted({f"{identity}.json", f"{identity}.png"} - there):
            say("missing file", f"figures/{name}")
        if f"{identity}.json" in there:
            about = figures.read_about(folder, identity)
            for key, text in words.items():
                if about.get(key) != text:
                    say("does not follow from runs and cards", f"figures/{identity}.json: {key}")


def _check_comparisons(
    folder: Path, reports: Sequence[inputs.Report], say: Say, remedy: str
) -> None:
    texts: dict[str, str] = {}
    drawn = {}
    for identity, compared in comparisons.ran(reports):
        made = comparisons.files(identity, compared)
        texts |= {f"tables/{name}": text for name, text in made.items()}
        if compared.drawn:
            drawn[identity] = comparison_figures.words(compared)
    if not folder.is_dir():
        if texts:
            say("missing folder", f"{comparisons.FOLDER}{remedy}")
        return
    for kind, name in manifest.broken_seals(folder):
        say(kind, name)
    _compare(folder, texts, say, "tables", remedy)
    _check_figures(folder / "figures", drawn, say)
