r"""The kernel distance of two sets of features, unbiased at any number of samples.

$$ d = \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
       - \frac{2}{nm} \sum_{i,j} k(x_i, y_j), \qquad k(x, y) = (x^\top y / D + 1)^3, $$

the squared maximum mean discrepancy of Bińkowski et al. (Demystifying MMD GANs, 2018, sec. 3). They
average it over subsets to get an error; here all pairs count, and the sums are kept group by group,
so that groups can be left out (`repro.metrics.resampling`). Called KID when the features are
Inception's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.metrics import arrays
from repro.numbers import finite


class KernelDistance:
    """Sums of kernels within groups of one set, and between each group and the other set.

    Arguments:
        x: features (N, D), in groups.
        y: features (M, D).
        groups: indices of the rows of x, group by group.

    Raises:
        ReproError: shapes do not match, a set has fewer than two rows, or a value is not finite.
    """

    def __init__(self, x: Any, y: Any, groups: Sequence[np.ndarray]) -> None:
        x, y = arrays.features(x), arrays.features(y)
        if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
            raise ReproError(
                f"features of shapes {x.shape} and {y.shape} cannot be compared; "
                "give (N, D) and (M, D) with at least 2 rows each"
            )
        parts = [x[rows] for rows in groups]
        self.counts = np.array([len(part) for part in parts])
        with np.errstate(over="ignore", invalid="ignore"):
            self.within = np.array([[_sum(a, b) for b in parts] for a in parts])
            self.within[np.diag_indices(len(parts))] -= [_diagonal(part) for part in parts]
            self.across = np.array([_sum(part, y) for part in parts]) / len(y)
            self.other = (_sum(y, y) - _diagonal(y)) / (len(y) * (len(y) - 1))
        finite(np.array([*self.within.ravel(), *self.across, self.other]), "sums of kernels")

    def without(self, left_out: int | None = None) -> float:
        """The distance without a group of x, or with all of them; may be below 0."""
        keep = np.array([g for g in range(len(self.counts)) if g != left_out])
        n = int(self.counts[keep].sum())
        within = self.within[np.ix_(keep, keep)].sum() / (n * (n - 1))
        return float(within + self.other - 2 * self.across[keep].sum() / n)


def _kernel(x: np.ndarray) -> np.ndarray:
    x += 1
    return x * x * x


def _sum(a: np.ndarray, b: np.ndarray, rows: int = 1024) -> float:
    """Sum of the kernel over all pairs of a (N, D) and b (M, D)."""
    parts = (a[start : start + rows] for start in range(0, len(a), rows))
    return float(sum(_kernel(part @ b.T / a.shape[1]).sum() for part in parts))


def _diagonal(a: np.ndarray) -> float:
    return float(_kernel((a * a).sum(axis=1) / a.shape[1]).sum())
