"""The kernel distance: against torchmetrics, without bias, and with groups left out."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from repro.errors import ReproError
from repro.metrics.kid import KernelDistance
from repro.metrics.resampling import groups_of

RNG = np.random.default_rng(0)


def distance(x, y):
    return KernelDistance(x, y, [np.arange(len(x))]).without()


def test_it_is_torchmetrics():
    x, y = RNG.normal(size=(50, 6)), RNG.normal(0.3, 1.2, size=(50, 6))
    theirs = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert distance(x, y) == pytest.approx(theirs, rel=1e-10)


def test_a_group_left_out_is_the_distance_of_the_others():
    x, y = RNG.normal(size=(47, 4)), RNG.normal(0.5, 1, size=(2000, 4))
    groups = groups_of(47, 5)
    found = KernelDistance(x, y, groups)
    assert found.without() == pytest.approx(distance(x, y), rel=1e-10)
    for g, rows in enumerate(groups):
        assert found.without(g) == pytest.approx(distance(np.delete(x, rows, 0), y), rel=1e-10)


def test_it_has_no_bias_at_few_samples():
    found = [distance(RNG.normal(size=(20, 3)), RNG.normal(size=(30, 3))) for _ in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_bad_features():
    with pytest.raises(ReproError, match="cannot be compared"):
        distance(np.ones((4, 2)), np.ones((4, 3)))
    with pytest.raises(ReproError, match="not finite"):
        distance(np.full((4, 2), 1e200), np.ones((4, 2)))
