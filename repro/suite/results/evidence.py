"""What may be published: runs of committed code, of this method and scale, whole and judged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from repro import store
from repro.coordinates import at_key, outside
from repro.errors import ReproError
from repro.suite import verdict
from repro.suite.cards.method import Method
from repro.suite.records import Record
from repro.suite.results.today import Key, named
from repro.suite.run import Options

COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(code: object) -> bool:
    """Whether a record names the commit that its code was, and no changes beside it."""
    return isinstance(code, str) and COMMIT.fullmatch(code) is not None


def refuse_others(
    method: Method, options: Options, runs: Mapping[Key, Record], models: Mapping[Key, Record]
) -> None:
    """Raises ReproError: a record of the work folder is no evidence of what its place says."""
    for key, record in runs.items():
        owner, arm = method.slug, key[0]
        _refuse_other_place(options, key, record, (owner, arm, key[1], options.scale))
        _refuse_measurements(method, options, key, record)
    for key, record in models.items():
        owner, _, name = key[0].rpartition("/")
        _refuse_other_place(options, key, record, (owner, name, key[1], options.scale))
        _refuse_other_weights(key, record)
    _refuse_uncommitted(method, options, [*runs.values(), *models.values()])


def _refuse_other_place(
    options: Options, key: Key, record: Record, place: tuple[str, str, int, str]
) -> None:
    found = tuple(record.get(part) for part in ("method", "arm", "seed", "scale"))
    if found != place:
        method, arm, seed, scale = found
        raise ReproError(
            f"{record['folder'] / 'record.json'}: is of {method}/{arm}/{seed} at scale {scale}, "
            f"not of {named(key)} at scale {options.scale}; delete its folder and run again"
        )


def _refuse_measurements(method: Method, options: Options, key: Key, record: Record) -> None:
    """Raises ReproError: nothing was measured, or not what the card declares, or no number."""
    where = f"{record['folder'] / 'record.json'}"
    declared = method.declared(options.scale, key[0])
    if not record["measurements"]:
        raise ReproError(f"{where}: holds no measurements; delete its folder and run again")
    for measured in record["measurements"]:
        try:
            name, at, value = measured["name"], dict(measured["at"]), measured["value"]
            finite = not isinstance(value, bool) and math.isfinite(value)
        except (KeyError, TypeError, ValueError) as error:
            raise ReproError(
                f"{where}: a measurement is not of its form; delete its folder and run again"
            ) from error
        if not isinstance(name, str) or name not in declared or outside(at, declared[name]):
            raise ReproError(
                f"{where}: `{name}` is measured where the card does not declare it; delete its "
                "folder and run again"
            )
        if not finite:
            raise ReproError(f"{where}: {name} is {value}, not a finite number; run it again")


def _refuse_other_weights(key: Key, record: Record) -> None:
    path = record["folder"] / "model.safetensors"
    if path.is_file() and store.sha256(path) != record.get("sha256"):
        raise ReproError(
            f"{path}: is not the model that its record names ({named(key)}); delete its folder and "
            "run again"
        )


def _refuse_uncommitted(method: Method, options: Options, fresh: Iterable[Record]) -> None:
    names = {f"{r['method']}/{r['arm']}" for r in fresh if not is_commit(r.get("commit"))}
    if names:
        more = ", …" if len(names) > 3 else ""
        raise ReproError(
            f"{method.slug} at scale {options.scale}: {', '.join(sorted(names)[:3])}{more} "
            f"ran on uncommitted code; commit it, delete their folders under {options.base} and "
            "run them again"
        )


def refuse_kept(key: Key, record: Record) -> None:
    """Raises ReproError: a committed record is of no commit (of some models none was recorded)."""
    unknown = record["commit"] is None and "/" in key[0]
    if not unknown and not is_commit(record["commit"]):
        raise ReproError(
            f"{named(key)} is committed as of the code `{record['commit']}`, which is no commit; "
            "run it again"
        )


def refuse_uneven(method: Method, runs: Mapping[Key, Record]) -> None:
    """Raises ReproError: a seed of an arm lacks what another has measured."""
    first: dict[str, tuple[Key, set[str]]] = {}
    for key, run in runs.items():
        places = {f"{m['name']}[{at_key(m['at'])}]" for m in run["measurements"]}
        other, wanted = first.setdefault(key[0], (key, places))
        if places != wanted:
            lacking = sorted(places ^ wanted)[0]
            have, lack = (key, other) if lacking in places else (other, key)
            raise ReproError(
                f"{method.slug}: {named(lack)} lacks {lacking}, which {named(have)} has; run "
                f"{named(lack)} again"
            )


def refuse_unjudged(method: Method, options: Options, runs: list[Record]) -> None:
    """Raises ReproError: the verdicts of the work folder are not those of these runs."""
    path = options.base / "verdicts" / f"{method.slug}.json"
    again = f"run `repro run {method.slug} --scale {options.scale}` or `make {options.scale}` first"
    if not path.is_file():
        raise ReproError(f"{method.slug} at scale {options.scale} is not judged; {again}")
    found = store.read_json(path)
    judged = verdict.judge(method, options.scale, runs)
    wanted: dict[str, Any] = json.loads(store.json_text(judged))
    if not isinstance(found, dict) or any(found.get(part) != wanted[part] for part in wanted):
        raise ReproError(f"{path}: its verdicts are not those of the runs; {again}")
