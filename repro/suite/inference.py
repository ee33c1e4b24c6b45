"""What n paired seeds say about a margin.

A margin is positive where a prediction holds, one value a seed. With mean m and standard deviation
s over n seeds, T = m / (s / √n) follows Student's law with n − 1 degrees of freedom when nothing is
there. Seeds are added in looks of 3, 5 and 8 while a check is open; |T| must reach 6.97, 3.82 and
2.97, which together are wrong in 5 % of cases (found by simulation, see the tests). The interval
that is printed is m ± limit · s / √n: it leaves out 0 exactly when the check is decided.

Several margins under one verdict are corrected by Holm; the suite as a whole is described by
Benjamini and Hochberg's false discovery rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOOKS = {3: 6.97, 5: 3.82, 8: 2.97}
"""Least |T| that decides, by the number of seeds."""

PER_LOOK = 0.02
"""Two-sided error of a number of seeds that is no look; about what each look spends."""


def limit(n: int) -> float:
    """The least |T| that decides with n ≥ 2 seeds; infinite for fewer."""
    if n < 2:
        return math.inf
    from scipy.special import stdtrit

    return LOOKS.get(n) or float(stdtrit(n - 1, 1 - PER_LOOK / 2))


@dataclass(frozen=True)
class Evidence:
    """Margins of one link over the seeds.

    Attributes:
        mean: of the margins.
        half_width: of the interval; 0 for a single seed or seeds that agree.
        t: the statistic T; infinite where the margins agree and are not 0.
        n: number of seeds.
    """

    mean: float
    half_width: float
    t: float
    n: int

    @property
    def p(self) -> float:
        """Two-sided probability of such a T when nothing is there, in one look."""
        if math.isinf(self.t):
            return 0.0
        from scipy.special import stdtr

        return 2 * float(stdtr(self.n - 1, -abs(self.t)))

    @property
    def level(self) -> float:
        """Two-sided error that this number of seeds may make."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.n - 1, -limit(self.n)))


def evidence(margins: Sequence[float] | np.ndarray) -> Evidence:
    """Mean, interval and T of margins, one a seed, n ≥ 1."""
    x = np.asarray(margins, dtype=float)
    n, mean = len(x), float(np.mean(x))
    error = float(np.std(x, ddof=1)) / math.sqrt(n) if n > 1 and np.ptp(x) > 0 else 0.0
    if error == 0:
        return Evidence(mean, 0.0, math.copysign(math.inf, mean) if mean else 0.0, n)
    return Evidence(mean, limit(n) * error, mean / error, n)


def holm(found: Sequence[Evidence]) -> list[bool]:
    """Which of several T are beyond their level after Holm's correction, in their order."""
    order = sorted(range(len(found)), key=lambda i: found[i].p)
    beyond = [False] * len(found)
    for rank, i in enumerate(order):
        if found[i].n < 2 or found[i].p > found[i].level / (len(found) - rank):
            break
        beyond[i] = True
    return beyond


def false_discoveries(p: Sequence[float], rate: float = 0.05) -> int:
    """How many of these tests stand at a false discovery rate (Benjamini and Hochberg 1995)."""
    ranked = np.sort(np.asarray(p, dtype=float))
    below = np.flatnonzero(ranked <= rate * np.arange(1, len(ranked) + 1) / max(len(ranked), 1))
    return int(below[-1]) + 1 if len(below) else 0
