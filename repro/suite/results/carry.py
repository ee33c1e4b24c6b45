"""To declare that a change of the code left the numbers of a method alone.

One cheap arm is run again with today's code and compared, bit for bit, with its committed run. If
they agree, every committed run and model of the method whose fingerprint is not today's is declared
to be today's (``carried.csv``); arms that do not belong to the code before the change are excepted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from repro import store
from repro.coordinates import at_key
from repro.errors import ReproError, nearest
from repro.places import work_root
from repro.suite import looks, records
from repro.suite import run as runner
from repro.suite.cards.method import Method
from repro.suite.plan import scale_config
from repro.suite.records import Record, Row
from repro.suite.results import manifest, today, writing
from repro.suite.results.evidence import is_commit
from repro.suite.results.today import Key


def carry(
    method: Method,
    scale: str,
    results: Path,
    arm: str,
    reason: str,
    seed: int | None = None,
    without: Sequence[str] = (),
) -> int:
    """Rerun a seed of an arm and declare all records of its method; returns how many.

    Args:
        seed: by default the first of the arm.
        without: arms that are not declared.

    Raises:
        ReproError: the rerun differs, is of uncommitted code, a record cannot be declared because
            its parameters are not those of the card, or a committed file is damaged.
    """
    scale_config(scale)  # names a scale that there is not
    folder = results / scale / method.slug
    for name in (arm, *without):
        if name not in method.arms(scale):
            raise ReproError(
                f"{method.slug} has no arm `{name}`{nearest(name, method.arms(scale))}"
            )
    if not reason.strip():
        raise ReproError("say why the numbers are the same: `--reason`")
    if not folder.is_dir():
        raise ReproError(f"{method.slug} has no results of scale {scale}; publish it first")
    with writing.alone(results):
        manifest.refuse_damage(folder)
        runs = {today.of_run(run): run for run in records.read_runs(folder, scale)}
        records.refuse_edited(folder, runs.values())
        models = {today.of_model(model): model for model in records.read_models(folder, scale)}
        method = looks.of_runs(method, scale, runs.values())
        seed = method.seeds(scale, arm)[0] if seed is None else seed
        if (arm, seed) not in runs:
            raise ReproError(f"{method.slug} has no committed run {arm}/{seed} at scale {scale}")
        code = _rerun(method, scale, runs[arm, seed])
        evidence = f"{arm}/{seed} rerun at {code} on {datetime.now(UTC):%Y-%m-%d}"
        rows = dict(today.declared(folder))
        declared = 0
        for key, identity in {**today.runs(method, scale), **today.models(method, scale)}.items():
            record = runs.get(key) or models.get(key)
            if record is None or key[0] in without:
                continue
            if today.is_current(record, identity, rows.get(key)):
                continue
            _refuse_other_parameters(method, scale, key, record)
            rows[key] = _row(key, record["fingerprint"] or "", identity, reason, evidence)
            declared += 1
        _write(folder, list(rows.values()))
    return declared


def _write(folder: Path, rows: list[Row]) -> None:
    with store.atomic_folder(folder) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
        if rows:
            store.write_text(temporary / today.CARRIED, today.carried_csv(rows))
        manifest.seal(temporary)


def _row(key: Key, old: str, new: str, reason: str, evidence: str) -> Row:
    values = (key[0], str(key[1]), old, new, " ".join(reason.split()), evidence)
    return dict(zip(today.COLUMNS, values, strict=True))


def _rerun(method: Method, scale: str, committed: Record) -> str:
    """Run a committed run again with today's code; the commit of that code.

    Raises:
        ReproError: the numbers differ, or the code is not committed.
    """
    arm, seed = today.of_run(committed)
    name = f"{method.slug}/{arm}/{seed}"
    options = runner.Options(scale, work=work_root() / "carry", force=True)
    runner.run_method(method, options, [arm], [seed])
    path = options.base / "runs" / method.slug / arm / str(seed) / "record.json"
    again = records.read_record(path)
    code = again["commit"]
    if not is_commit(code):
        raise ReproError(f"{name} was rerun on uncommitted code ({code}); commit it first")
    timed = {n for n, card in method.experiment.measurements.items() if card.timing}
    differing = sorted(_lasting(again, timed).items() ^ _lasting(committed, timed).items())
    if differing:
        (measurement, at), _ = differing[0]
        raise ReproError(
            f"{name} does not come out as committed: {measurement}[{at}] and "
            f"{len(differing) - 1} more values differ; nothing is declared, run the method again"
        )
    return code


def _lasting(record: Record, timed: set[str]) -> Mapping[tuple[str, str], str]:
    """What a run measured but for timings, by name and coordinates, to the last bit."""
    return {
        (m["name"], at_key(m["at"])): float(m["value"]).hex()
        for m in record["measurements"]
        if m["name"] not in timed
    }


def _refuse_other_parameters(method: Method, scale: str, key: Key, record: Record) -> None:
    """A run under other parameters has other numbers. Where none were recorded nothing is known."""
    owner, _, name = key[0].rpartition("/")
    own = method.model_params(scale, owner, name) if owner else method.arm_params(scale, name)
    if record["params"] is not None and record["params"] != json.loads(json.dumps(own)):
        raise ReproError(
            f"{method.slug}: {today.named(key)} was run with other parameters than its card has; "
            f"run it again, or leave its arm out with `--except {key[0]}`"
        )
