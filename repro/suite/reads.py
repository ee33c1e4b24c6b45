"""What runs and models may read: a run is not measured on what one of its models was fitted to.

The items that a job reads are noted by `repro.data.items` and stand in its record under ``items``;
a model's record holds those of the models that it was trained from as well. Records that were made
before hold none: what they read is not recorded, which is not the same as clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from repro.data import items
from repro.data.items import FITTED, Found, Part, Purpose, Reading
from repro.errors import ReproError
from repro.suite.cards.models import Owner
from repro.suite.records import Record

ITEMS = "items"
"""The key of a record."""


def of_job(owner: Owner, name: str, purpose: Purpose) -> Reading:
    """Where the reads of an arm or a model are noted, with what its card says of them."""
    return Reading(purpose, {part: reads[0] for part, reads in _declared(owner, name).items()})


def _declared(owner: Owner, name: str) -> dict[Part, tuple[Purpose, str]]:
    return {
        (dataset, part): (reads.purpose, reads.why)
        for reads in owner.reads(name)
        for dataset in reads.data
        for part in reads.part
    }


def on_purpose(owner: Owner, name: str) -> dict[Part, str]:
    """The parts on which an arm is measured although a model has seen them, and why."""
    declared = _declared(owner, name).items()
    return {part: why for part, (purpose, why) in declared if purpose == "measured"}


def _refuse_undeclared(owner: Owner, name: str, job: Reading) -> None:
    """Whose card says which parts of a data set it reads may read no other."""
    declared = _declared(owner, name)
    datasets = {dataset for dataset, _ in declared}
    for dataset, part in {part for found in job.found.values() for part in found}:
        if dataset in datasets and (dataset, part) not in declared:
            raise ReproError(
                f"{owner.slug}/{name} reads `{part}` of `{dataset}`, which its card does not say; "
                "add it under `reads` in experiment.yaml with its purpose, or read what it says"
            )


def of_model(
    owner: Owner, name: str, job: Reading, earlier: Mapping[str, Record]
) -> dict[str, Any]:
    """The items of a model's record: its own, and those of the models that it was trained from.

    Raises:
        ReproError: it reads what its card does not say.
    """
    _refuse_undeclared(owner, name, job)
    inherited, unknown = _of_records(earlier)
    return items.recorded(items.union(job.found, inherited), unknown)


def of_run(owner: Owner, name: str, job: Reading, models: Mapping[str, Record]) -> dict[str, Any]:
    """The items of a run's record.

    Raises:
        ReproError: it is measured on what it, or one of its models, was fitted to, or reads what
            its card does not say.
    """
    _refuse_undeclared(owner, name, job)
    measured = job.found.get("measured", {})
    allowed = on_purpose(owner, name)
    for who, record in models.items():
        found, _ = _of_records({who: record})
        for purpose in FITTED:
            _refuse(f"{owner.slug}/{name}", measured, found.get(purpose, {}), allowed,
                    f"on which `{who}` is {purpose}")  # fmt: skip
    for purpose in FITTED:
        _refuse(f"{owner.slug}/{name}", measured, job.found.get(purpose, {}), {},
                f"on which it is {purpose} itself")  # fmt: skip
    return items.recorded(job.found, _of_records(models)[1])


def _refuse(
    who: str, measured: Found, fitted: Found, allowed: Iterable[Part], seen_by: str
) -> None:
    asked = {part: numbers for part, numbers in measured.items() if part not in allowed}
    for (dataset, part), numbers in items.shared(asked, fitted).items():
        shown = items.ranges(numbers)
        raise ReproError(
            f"{who} is measured on {len(numbers)} items of `{dataset}` ({part} "
            f"{shown if len(shown) <= 40 else shown[:40] + '…'}) {seen_by}; measure on others, or "
            "say under `reads` in experiment.yaml what they are read for, and why"
        )


def _of_records(models: Mapping[str, Record]) -> tuple[dict[Purpose, Found], list[str]]:
    """Items of several models together, and those models of which they are not recorded."""
    found: dict[Purpose, Found] = {}
    unknown: list[str] = []
    for name, record in models.items():
        content = record.get(ITEMS)
        if content is None:
            unknown.append(name)
            continue
        own, missing = items.restored(content)
        found = items.union(found, own)
        unknown += missing
    return found, unknown
