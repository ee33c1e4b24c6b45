"""A baseline must beat its own start: else what wins against it has won for free.

The card of an arm says with ``beats`` which arm that is (the untrained network, the untuned
setting, the floor of the problem). Where the baseline is no better on average in something that
checks read of it and both measure, the comparisons that read it are inconclusive.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from repro.errors import ReproError
from repro.suite.cards.method import Method
from repro.suite.expression import Reference


class Table(Protocol):
    """Measurements as checks address them."""

    def seeds(self, reference: Reference) -> dict[int, float]: ...


def unbeaten(method: Method, scale: str, measured: Table) -> dict[str, str]:
    """Arm → why it does not beat its own start, of those that name one."""
    found = {}
    for arm, card in method.arms(scale).items():
        if card.beats is not None:
            if why := _why(method, scale, measured, arm, card.beats):
                found[arm] = why
    return found


def _why(method: Method, scale: str, measured: Table, arm: str, start: str) -> str:
    if start not in method.arms(scale):
        return f"`{start}`, which `{arm}` has to beat, is not run at this scale"
    compared = False
    for own in _read(method, scale, arm):
        direction = method.experiment.measurements[own.name].direction
        other = Reference(own.name, start, own.at)
        if direction == "none" or not method.measured(scale, other):
            continue
        compared = True
        reached, from_ = _mean(measured, own), _mean(measured, other)
        if not (reached < from_ if direction == "lower" else reached > from_):
            return f"baseline `{arm}` does not beat its start: {own} {reached:.4g}, {from_:.4g}"
    return "" if compared else f"`{start}` measures nothing that checks read of `{arm}`"


def _read(method: Method, scale: str, arm: str) -> dict[Reference, None]:
    """What comparisons read of an arm."""
    return dict.fromkeys(
        reference
        for check in method.checks(scale).values()
        if check.tier in ("reduced", "paper")
        for reference in check.parsed.references()
        if reference.arm == arm
    )


def _mean(measured: Table, reference: Reference) -> float:
    try:
        return float(np.mean(list(measured.seeds(reference).values())))
    except ReproError:
        return float("nan")
