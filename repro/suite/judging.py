"""runs -> verdicts: the records of a method, all of today's code, and what its checks say."""

from __future__ import annotations

from typing import Any

from repro import store
from repro.errors import ReproError
from repro.suite import fingerprint, records, verdict
from repro.suite.cards.method import Method
from repro.suite.run import Options


def records_of(method: Method, options: Options) -> list[dict[str, Any]]:
    """The run records of a method, in card order.

    Raises:
        ReproError: one is missing, damaged or stale (its fingerprint is not that of today's code,
            cards and data); the message says what changed.
    """
    method = options.plan.planned(method)
    found, stale = [], []
    remedy = f"run `repro run {method.slug} --scale {options.scale}`"
    if options.retrain:
        remedy = remedy.removesuffix("`") + " --retrain`"
    for arm in method.arms(options.scale):
        for seed in method.seeds(options.scale, arm):
            path = options.base / "runs" / method.slug / arm / str(seed) / "record.json"
            record = records.read_record(path, remedy)
            parts = fingerprint.parts_of_run(method, options.scale, arm, seed, options.retrain)
            if record.get("fingerprint") != fingerprint.digest(parts):
                stale.append(f"{arm}/{seed} ({', '.join(changed(record, parts))})")
            found.append(record)
    if stale:
        more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
        raise ReproError(
            f"{options.base / 'runs' / method.slug}: {', '.join(stale[:3])}{more} changed since "
            f"the run; {remedy} or `make {options.scale}` again"
        )
    return found


def changed(record: dict[str, Any], parts: dict[str, str]) -> list[str]:
    """Which parts of a fingerprint differ from what a record was made with."""
    had = record.get("depends_on") or {}
    return [name for name in parts if had.get(name) != parts[name]] or ["fingerprint"]


def judge(method: Method, options: Options) -> dict[str, Any]:
    """Judge a method and write its verdicts, with the evidence of which runs they are."""
    runs = records_of(method, options)
    result = verdict.judge(method, options.scale, runs)
    path = options.base / "verdicts" / f"{method.slug}.json"
    store.write_sealed(path, {**result, "evidence": records.evidence(runs)})
    return result
