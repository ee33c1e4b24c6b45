r"""Intervals of a statistic of a sample, by the jackknife that leaves out groups.

With $\theta_{(g)}$ the statistic without group $g$ of $G$ equal groups,

$$ s^2 = \frac{G-1}{G} \sum_g (\theta_{(g)} - \bar\theta_{(\cdot)})^2, \qquad
   \theta \pm t_{G-1,\,0.975}\, s. $$

It needs no repeated rows, which a bootstrap has and which a covariance or a nearest neighbour
takes for structure (Shao and Tu, The Jackknife and Bootstrap, 1995, sec. 2.3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repro.errors import ReproError

GROUPS = 10
COVERAGE = 0.95


def groups_of(n: int, groups: int = GROUPS) -> list[np.ndarray]:
    """Row numbers 0 … n − 1 in consecutive groups of equal size, to one; shuffle the rows first.

    Raises:
        ReproError: a group would have fewer than two rows.
    """
    if n < 2 * groups:
        raise ReproError(f"{n} samples make no {groups} groups; give {2 * groups} or more")
    return np.array_split(np.arange(n), groups)


def jackknife(
    without: Callable[[int | None], float], groups: int = GROUPS
) -> tuple[float, float, float]:
    """A statistic and the ends of its interval.

    Arguments:
        without: the statistic without a group, or with all of them for None.
        groups: how many there are.

    Returns:
        value, low, high, in the unit of the statistic.
    """
    from scipy.stats import t

    value = without(None)
    left = np.array([without(g) for g in range(groups)])
    s = float(np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum()))
    width = float(t.ppf((1 + COVERAGE) / 2, groups - 1)) * s
    return value, value - width, value + width
