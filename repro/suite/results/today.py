"""Which recorded fingerprints are today's: equal, or declared equal in ``carried.csv``.

A row of ``carried.csv`` says that the run or model (``arm``; a model is ``owner/name``) with the
fingerprint ``old`` would come out the same, bit for bit, under the code that gives ``new``;
``evidence`` names the arm that was rerun to show it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from repro.suite import fingerprint, records
from repro.suite.cards.method import Method
from repro.suite.records import Record, Row

CARRIED = "carried.csv"
COLUMNS = ("arm", "seed", "old", "new", "reason", "evidence")

Key = tuple[str, int]
"""A run by its arm and seed, or a model by ``owner/name`` and seed."""


def runs(method: Method, scale: str) -> dict[Key, str]:
    """Today's fingerprint of every run of a method."""
    return {
        (arm, seed): fingerprint.of_run(method, scale, arm, seed)
        for arm in method.arms(scale)
        for seed in method.seeds(scale, arm)
    }


def models(method: Method, scale: str) -> dict[Key, str]:
    """Today's fingerprint of every model that a method uses, its own and others'."""
    return {
        (f"{ref.owner}/{ref.name}", ref.seed): fingerprint.of_model(method, scale, ref)
        for ref in method.in_order(scale, method.models(scale))
    }


def of_run(record: Record) -> Key:
    return record["arm"], record["seed"]


def of_model(record: Record) -> Key:
    return f"{record['method']}/{record['arm']}", record["seed"]


def named(key: Key) -> str:
    """``exact/0`` for a run, ``zoo/digits/0`` for a model."""
    return f"{key[0]}/{key[1]}"


def declared(folder: Path) -> dict[Key, Row]:
    """The rows of ``carried.csv`` of a committed method; none where nothing is declared.

    Raises:
        ReproError: the file is damaged.
    """
    path = folder / CARRIED
    if not path.is_file():
        return {}
    found: dict[Key, Row] = {}
    for number, row in enumerate(records.read_rows(path, COLUMNS), 2):
        with records.at_line(path, number):
            key = (row["arm"], int(row["seed"]))
            if key in found:
                raise ValueError(f"{named(key)} stands twice")
            found[key] = row
    return found


def carried_csv(rows: Iterable[Row]) -> str:
    return records.to_csv(rows, COLUMNS)


def is_current(record: Record, identity: str, row: Row | None) -> bool:
    """Whether a record has today's fingerprint or is declared to."""
    recorded = record["fingerprint"] or ""
    if recorded == identity:
        return True
    return row is not None and (row["old"], row["new"]) == (recorded, identity)
