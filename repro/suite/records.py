"""Records of runs and models: one dict each, from a work folder or from the committed tables.

``work/<scale>/runs/<method>/<arm>/<seed>/record.json`` and, committed, a row of ``records.csv``
with its rows of ``runs.csv`` say the same about a run; a row of ``models.csv`` says it of a model.
The keys of a record are those of `repro.suite.provenance.record`, and ``folder``: where its arrays
lie, or None where they were not committed. What nobody recorded is None.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from repro import store
from repro.coordinates import at_key, from_key
from repro.errors import ReproError
from repro.places import short
from repro.suite.cards.experiment import Experiment

Record = dict[str, Any]
Row = dict[str, str]

MEASURED = ("runs.csv", "records.csv", "models.csv")
"""The tables that nothing else gives: all of them, or a folder is damaged."""

RUNS = ("method", "arm", "seed", "measurement", "at", "value", "unit", "timing")
_MADE = ("fingerprint", "commit", "device", "threads", "started", "wall_s", "peak_memory_mb")
RECORDS = ("method", "arm", "seed", *_MADE, "params", "versions", "arrays", "measured_sha256")
MODELS = ("owner", "model", "seed", *_MADE, "params", "versions", "arrays", "measured", "sha256")
"""Columns of the committed tables; ``params``, ``versions``, ``arrays``, ``measured`` are JSON."""

ITEMS = ("kind", "method", "arm", "seed", "purpose", "data", "part", "items", "sha256")
UNRECORDED = "not recorded"
"""In place of a purpose in ``items.csv``: models of which nobody recorded what they read."""

_NUMBERS = {"threads": int, "wall_s": float, "peak_memory_mb": float}
_JSON: dict[str, type] = {"params": dict, "versions": dict, "arrays": list}


# Work folders -------------------------------------------------------------------------------


FILES = {"sha256": "model.safetensors", "arrays_sha256": "arrays.npz"}
"""What lies beside a record, by the key under which it has the file's SHA-256."""


def read_work(folder: Path, places: Iterable[tuple[str, str, int]], remedy: str) -> list[Record]:
    """The records of ``runs`` or ``models`` of a work folder that the plan names.

    Args:
        folder: ``work/<scale>/runs`` or ``work/<scale>/models``.
        places: method, arm and seed of each; or owner, model and seed.
        remedy: what makes one anew that is missing or damaged, for the message.

    Raises:
        ReproError: a record is missing, damaged, or of another place than its path says.
    """
    paths = [folder / method / arm / str(seed) / "record.json" for method, arm, seed in places]
    return [read_record(path, remedy) for path in paths]


def read_record(path: Path, remedy: str = "delete its folder and run it again") -> Record:
    """One ``record.json``, ``<scale>/<kind>/<method>/<arm>/<seed>/record.json``.

    Raises:
        ReproError: it is missing, changed since it was written, or of another place than its path
            says.
    """
    try:
        record = store.read_sealed(path)
        record["arm"] = str(record["arm"])
        record["seed"] = int(record["seed"])
        record["measurements"] = list(record["measurements"])
        said = [str(record[key]) for key in ("scale", "method", "arm", "seed")]
    except ReproError as error:
        why = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise ReproError(f"{path} is not a run record ({why}); {remedy}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ReproError(f"{path} is not a run record ({error!r}); {remedy}") from error
    place = [path.absolute().parents[4].name, *path.parts[-4:-1]]
    if said != place:
        raise ReproError(
            f"{path} is not a run record (it is of {'/'.join(said)}, its path says "
            f"{'/'.join(place)}); {remedy}"
        )
    return {**record, "folder": path.parent}


def verify(record: Record, remedy: str = "delete its folder and run it again") -> None:
    """Hold the files beside a record of a work folder against the hashes that it has of them.

    Raises:
        ReproError: one is missing or of other content.
    """
    for key, name in FILES.items():
        if record.get(key) is not None:
            try:
                store.verify(record["folder"] / name, record[key])
            except ReproError as error:
                raise ReproError(f"{str(error).partition(';')[0]}; {remedy}") from error


def evidence(records: Iterable[Record]) -> str:
    """One hash over what runs measured and with which code: verdicts say of which they are."""
    lines = [
        f"{r['arm']}\t{r['seed']}\t{r['fingerprint']}\t{measured_sha256(r)}\n" for r in records
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


# Committed tables ---------------------------------------------------------------------------


def committed(scale: Path) -> list[str]:
    """The folders with results under ``results/<scale>``; which are methods, the cards say."""
    tables = (path for name in MEASURED for path in scale.glob(f"*/{name}"))
    return sorted({p.parent.name for p in tables if not p.parent.name.startswith(".")})


_FORMULA = re.compile(r"[=@\t\n]|[+-](?![\d.∞])|[+-].*[(|!\"']", re.DOTALL)
"""How a text begins that a spreadsheet would compute; a number with its sign is none."""


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV text with Unix line ends; numbers in full precision, None as an empty field.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, which
    :func:`read_rows` takes away again.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_field(row.get(column)) for column in columns])
    return out.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value))
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")  # the writer quotes no return
    return f"'{text}" if _FORMULA.match(text) else text


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def measured_sha256(record: Mapping[str, Any]) -> str:
    """SHA-256 over a run's measurements: a line ``name, at, value`` each, separated by tabs."""
    lines = [
        f"{m['name']}\t{at_key(m['at'])}\t{float(m['value'])!r}\n" for m in record["measurements"]
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def run_rows(records: Iterable[Record], experiment: Experiment) -> list[dict[str, Any]]:
    """Rows of ``runs.csv``: every number that was measured."""
    return [
        {
            "method": record["method"],
            "arm": record["arm"],
            "seed": record["seed"],
            "measurement": measured["name"],
            "at": at_key(measured["at"]),
            "value": float(measured["value"]),
            "unit": experiment.measurements[measured["name"]].unit,
            "timing": experiment.measurements[measured["name"]].timing,
        }
        for record in records
        for measured in record["measurements"]
    ]


def runs_csv(records: Iterable[Record], experiment: Experiment) -> str:
    """``runs.csv``: every number that was measured, one row each, in full precision."""
    return to_csv(run_rows(records, experiment), RUNS)


def records_csv(records: Iterable[Record]) -> str:
    """``records.csv``: where each run comes from."""
    rows = [{**_plain(record), "measured_sha256": measured_sha256(record)} for record in records]
    return to_csv(rows, RECORDS)


def models_csv(records: Iterable[Record]) -> str:
    """``models.csv``: where each model comes from, its weights' hash, and what it measured."""
    rows = [
        {
            **_plain(record),
            "owner": record["method"],
            "model": record["arm"],
            "measured": _measured(record["measurements"]),
        }
        for record in records
    ]
    return to_csv(rows, MODELS)


def items_csv(runs: Iterable[Record], models: Iterable[Record]) -> str | None:
    """``items.csv``: which items runs and models read and what for; None where nobody recorded any.

    One that reads no items has a row without purpose; one without a row was made before items were
    recorded.
    """
    rows = [
        {**{key: record[key] for key in ITEMS[1:4]}, "kind": kind, "purpose": purpose, **row}
        for kind, records in (("run", runs), ("model", models))
        for record in records
        if record.get("items") is not None
        for purpose, found in (record["items"] or {"": [{}]}).items()
        for row in ([{"data": ",".join(found)}] if purpose == UNRECORDED else found)
    ]
    return to_csv(rows, ITEMS) if rows else None


def _with_items(folder: Path, kind: str, found: list[Record]) -> list[Record]:
    """Records of a committed method with what ``items.csv`` says that they read."""
    path = folder / "items.csv"
    if not path.is_file():
        return found
    places = {(r["method"], r["arm"], r["seed"]): r for r in found}
    for number, row in enumerate(read_rows(path, ITEMS), 2):
        with at_line(path, number):
            record = places.get((row["method"], row["arm"], int(row["seed"])))
            if record is None or row["kind"] != kind:
                continue
            content = record["items"] = record["items"] or {}
            if row["purpose"] == UNRECORDED:
                content[UNRECORDED] = row["data"].split(",")
            elif row["purpose"]:
                part = {key: row[key] for key in ("data", "part", "items", "sha256")}
                content.setdefault(row["purpose"], []).append(part)
    return found


def _plain(record: Record) -> dict[str, Any]:
    texts = {key: None if record.get(key) is None else _json(record[key]) for key in _JSON}
    return {**record, **texts}


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


def _measured(measurements: list[dict[str, Any]] | None) -> str | None:
    if measurements is None:
        return None
    return _json([[m["name"], m["at"], float(m["value"])] for m in measurements])


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a committed table.

    Raises:
        ReproError: the file is missing, or its columns are not those.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            found, rows = reader.fieldnames, list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ReproError(f"{short(path)}: cannot be read ({reason}); publish it again") from error
    if found is None or list(found) != list(columns):
        raise ReproError(f"{short(path)}: its columns are not {', '.join(columns)}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ReproError(f"{short(path)} row {number}: does not have {len(columns)} fields")
    return [{column: _unquoted(text) for column, text in row.items()} for row in rows]


def refuse_edited(folder: Path, runs: Iterable[Record]) -> None:
    """Raises ReproError: what a committed run measured is not what its hash was taken of."""
    for run in runs:
        if measured_sha256(run) != run["measured_sha256"]:
            raise ReproError(
                f"{short(folder)}: the measurements of {run['arm']}/{run['seed']} are not those "
                "that were published; restore the folder (`git checkout`) or run it again"
            )


def read_runs(folder: Path, scale: str) -> list[Record]:
    """The runs of a committed method, from ``records.csv`` and ``runs.csv``, in their order.

    Raises:
        ReproError: a table is missing or damaged, or the two do not hold the same runs.
    """
    records: dict[tuple[str, int], Record] = {}
    path = folder / "records.csv"
    for number, row in enumerate(read_rows(path, RECORDS), 2):
        with at_line(path, number):
            record = _record(row, row["method"], row["arm"], scale)
            record["measured_sha256"] = row["measured_sha256"]
            records.setdefault((record["arm"], record["seed"]), record)
    path = folder / "runs.csv"
    for number, row in enumerate(read_rows(path, RUNS), 2):
        with at_line(path, number):
            run = records.get((row["arm"], int(row["seed"])))
            if run is None:
                raise ValueError(f"{row['arm']}/{row['seed']} is not in records.csv")
            at = from_key(row["at"])
            if at_key(at) != row["at"]:
                raise ValueError(f"`{row['at']}` is not how coordinates are written")
            run["measurements"].append(
                {"name": row["measurement"], "at": at, "value": float(row["value"])}
            )
    return _with_items(folder, "run", list(records.values()))


def read_models(folder: Path, scale: str) -> list[Record]:
    """The models of a committed method, from ``models.csv``, in its order.

    Raises:
        ReproError: the table is missing or damaged.
    """
    records = []
    path = folder / "models.csv"
    for number, row in enumerate(read_rows(path, MODELS), 2):
        with at_line(path, number):
            record = _record(row, row["owner"], row["model"], scale)
            record["sha256"] = row["sha256"] or None
            record["measurements"] = None
            if row["measured"]:
                record["measurements"] = [
                    {"name": str(name), "at": dict(at), "value": float(value)}
                    for name, at, value in _parsed(row, "measured")
                ]
            records.append(record)
    return _with_items(folder, "model", records)


def _record(row: Row, method: str, name: str, scale: str) -> Record:
    record: Record = {"method": method, "arm": name, "seed": int(row["seed"]), "scale": scale}
    for key in _MADE:
        kind = _NUMBERS.get(key, str)
        record[key] = kind(row[key]) if row[key] else None
    for key in _JSON:
        record[key] = _parsed(row, key) if row[key] else None
    if record["started"] is not None:
        datetime.fromisoformat(record["started"])
    for key in ("wall_s", "peak_memory_mb"):
        if record[key] is not None and not 0 <= record[key] < math.inf:
            raise ValueError(f"{key} is {row[key]}")
    return {**record, "measurements": [], "items": None, "folder": None}


def _parsed(row: Row, key: str) -> Any:
    """A cell that holds JSON of its kind.

    Raises:
        ValueError: it does not.
    """
    kind = _JSON.get(key, list)
    try:
        content = json.loads(row[key])
    except RecursionError:
        raise ValueError(f"{key} is nested too deeply") from None
    if not isinstance(content, kind):
        raise ValueError(f"{key} is not the JSON of a {kind.__name__}")
    if key == "arrays" and any(not isinstance(name, str) for name in json.loads(row[key])):
        raise ValueError("arrays is not a list of names")
    return content


@contextlib.contextmanager
def at_line(path: Path, number: int) -> Iterator[None]:
    """Names the table and the row of a mistake in it."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())[:300]
        raise ReproError(f"{short(path)} row {number}: {said}") from error
