"""What a job needs: one declaration, of which its request and its requirement are two readings.

The DAG asks the machine for it (the resources of the rules), and the job refuses to run without it
(`repro.suite.run.device_for`): no job demands a GPU that nobody asked for.

A job is on the GPU of a scale that has one where its card says ``gpu: true`` or, where the card
says nothing, where its code reads ``job.device``; code that does not is on the CPU whatever there
is. Arms that exact and structural checks alone read (identities, counts) stay on the CPU too, but
for those that measure latency. Weights that are loaded, not trained, need no GPU.

Time and memory are those of the committed records of the scale, with room for a slower machine;
where there are none, what ``workflow/config/<scale>.yaml`` says. A repeated attempt asks for more.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import definitions, records
from repro.suite.cards.experiment import Arm, Model
from repro.suite.cards.method import Method
from repro.suite.cards.models import ModelRef
from repro.suite.plan import Plan, scale_config

SLOWER = 3.0
"""A node may be this much slower than the machine of the records."""
SPARE_MEMORY = 1.5
START_S = 120.0
"""Until a job computes, on a node whose disk has not yet seen the environment."""
LEAST_MINUTES, LEAST_MB = 10, 2000
GROWTH = 2
"""A job that was ended for its time or memory asks for this much more at its next attempt."""


@dataclass(frozen=True)
class Needs:
    """What one job asks of a machine, and refuses to run without.

    Attributes:
        gpu: whether it runs on the GPU of its scale.
        threads: CPU cores.
        machine: whether it measures latency and wants nothing beside it.
        seconds: wall-clock time by the records; None where there are none.
        megabytes: peak of its host memory by the records, in 10⁶ bytes; None likewise.
        otherwise: minutes and megabytes where nothing is known.
    """

    gpu: bool
    threads: int
    machine: bool
    seconds: float | None
    megabytes: float | None
    otherwise: tuple[int, int]

    def minutes(self, attempt: int = 1) -> int:
        """The time limit to ask for, counting attempts from 1."""
        if self.seconds is None:
            first = self.otherwise[0]
        else:
            first = max(LEAST_MINUTES, math.ceil((START_S + SLOWER * self.seconds) / 60))
        return first * GROWTH ** (attempt - 1)

    def mem_mb(self, attempt: int = 1) -> int:
        """The host memory to ask for, in 10⁶ bytes, counting attempts from 1."""
        if self.megabytes is None:
            first = self.otherwise[1]
        else:
            first = max(LEAST_MB, 500 * math.ceil((SPARE_MEMORY * self.megabytes + 500) / 500))
        return first * GROWTH ** (attempt - 1)


def of_arm(plan: Plan, method: Method, name: str) -> Needs:
    """What an arm needs with all its seeds, which one job runs one after another."""
    card = method.arm(plan.scale, name)
    gpu = _has_gpu(plan.scale) and arm_uses_gpu(method, plan.scale, name)
    cost = _recorded(plan.scale).get(("run", method.slug, name))
    return _needs(plan.scale, card, gpu, cost, len(method.seeds(plan.scale, name)))


def of_model(plan: Plan, ref: ModelRef) -> Needs:
    """What it needs to train a model with one seed, or to load it."""
    gpu = _has_gpu(plan.scale) and model_uses_gpu(plan, ref)
    cost = _recorded(plan.scale).get(("model", ref.owner, ref.name))
    return _needs(plan.scale, plan.card(ref), gpu, cost if plan.is_trained(ref) else Cost(), 1)


def arm_uses_gpu(method: Method, scale: str, name: str) -> bool:
    """Whether an arm runs on a GPU where its scale, or a person, gives it one."""
    card = method.arm(scale, name)
    if card.gpu is not None:
        return card.gpu
    if name in method.certain_arms and not card.machine:
        return False
    return definitions.uses_device(card.run)


def model_uses_gpu(plan: Plan, ref: ModelRef) -> bool:
    """Whether a model is trained on a GPU where its scale, or a person, gives it one."""
    card = plan.card(ref)
    if not plan.is_trained(ref):
        return False
    return definitions.uses_device(card.train) if card.gpu is None else card.gpu


def _has_gpu(scale: str) -> bool:
    return scale_config(scale)["device"].startswith("cuda")


def together(found: Iterable[Needs]) -> Needs:
    """What a job needs that does the work of several one after another.

    Args:
        found: at least one.
    """
    each = list(found)
    known = [one.seconds for one in each if one.seconds is not None]
    memory = [one.megabytes for one in each if one.megabytes is not None]
    otherwise = (max(one.otherwise[0] for one in each), max(one.otherwise[1] for one in each))
    return Needs(
        any(one.gpu for one in each),
        max(one.threads for one in each),
        any(one.machine for one in each),
        sum(known) if len(known) == len(each) else None,
        max(memory) if len(memory) == len(each) else None,
        otherwise,
    )


def _needs(scale: str, card: Arm | Model, gpu: bool, cost: Cost | None, seeds: int) -> Needs:
    resources = scale_config(scale)["resources"]
    return Needs(
        gpu,
        card.threads,
        isinstance(card, Arm) and card.machine,
        None if cost is None else cost.seconds * seeds,
        # what a record of a GPU says is the memory of the GPU
        None if cost is None or gpu else cost.megabytes,
        (resources["runtime"], resources["mem_mb"]),
    )


# Committed records --------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """The most that one seed took: seconds, and 10⁶ bytes."""

    seconds: float = 0.0
    megabytes: float = 0.0


@functools.cache
def _recorded(scale: str) -> dict[tuple[str, str, str], Cost]:
    return costs(ROOT / "results" / scale)


def costs(results: Path) -> dict[tuple[str, str, str], Cost]:
    """What the records of a scale took, by kind (run or model), method or owner, and name.

    A table that is missing or damaged says nothing (`repro check` names it), and so does a record
    without its time.
    """
    found: dict[tuple[str, str, str], Cost] = {}
    tables: tuple[tuple[str, str, Sequence[str], str, str], ...] = (
        ("run", "records.csv", records.RECORDS, "method", "arm"),
        ("model", "models.csv", records.MODELS, "owner", "model"),
    )
    for folder in records.committed(results):
        for kind, table, columns, owner, name in tables:
            with contextlib.suppress(ReproError):
                for row in records.read_rows(results / folder / table, columns):
                    key = (kind, row[owner], row[name])
                    found[key] = _larger(found.get(key, Cost()), row)
    return {key: cost for key, cost in found.items() if cost.seconds > 0}


def _larger(cost: Cost, row: Mapping[str, Any]) -> Cost:
    return Cost(
        max(cost.seconds, _number(row["wall_s"])),
        max(cost.megabytes, _number(row["peak_memory_mb"])),
    )


def _number(text: str) -> float:
    """A figure of a record; nothing where nobody recorded it, or none that a machine could have."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and value > 0:
            return value
    return 0.0
