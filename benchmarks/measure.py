"""One row of the table: two functions that take turns, and the ratio of their times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from repro.metrics.cost import Latency, interleaved

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Row:
    """A measured ratio.

    name: what is compared. ours, reference: seconds. ratio: ours / reference, round by round. goal:
    largest ratio that is good enough. why: the reason for the goal.
    """

    name: str
    ours: Latency
    reference: Latency
    ratio: Latency
    goal: float
    why: str

    @property
    def verdict(self) -> str:
        """`met` or `missed` if the whole interval says so, else what the median says."""
        if self.ratio.hi <= self.goal:
            return "met"
        if self.ratio.lo > self.goal:
            return "missed"
        return "met (median)" if self.ratio.median <= self.goal else "missed (median)"

    def cells(self) -> dict[str, Any]:
        """The row as printed."""
        ratio = self.ratio
        return {
            "comparison": self.name,
            "ours, ms": f"{1e3 * self.ours.median:.4g}",
            "reference, ms": f"{1e3 * self.reference.median:.4g}",
            "ratio": f"{ratio.median:.3f}",
            "95 % interval": f"{ratio.lo:.3f} to {ratio.hi:.3f}",
            "rounds": len(ratio.values),
            "goal": f"≤ {self.goal:g}",
            "goal met": self.verdict,
            "reason of the goal": self.why,
        }


def compare(
    name: str,
    ours: Callable[[], Any],
    reference: Callable[[], Any],
    *,
    clock: str,
    goal: float,
    why: str,
    rounds: int,
    warmup: int = 1,
) -> Row:
    """Measures ours / reference over `rounds` rounds in which each runs once."""
    times = interleaved({"ours": ours, "reference": reference}, rounds, warmup, CLOCKS[clock])
    ratio = times.ratio("ours", "reference")
    return Row(name, times["ours"], times["reference"], ratio, goal, why)
