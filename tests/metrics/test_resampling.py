"""The jackknife's intervals, against the spread over samples drawn again."""

import numpy as np
import pytest
from scipy.stats import t

from repro.errors import ReproError
from repro.metrics.fid import frechet_from_features
from repro.metrics.resampling import groups_of, jackknife


def leaving_out(x, of):
    groups = groups_of(len(x))
    return lambda g: of(x if g is None else np.delete(x, groups[g], 0))


def test_of_a_mean_it_is_the_interval_of_students_t():
    x = np.random.default_rng(0).normal(3, 2, 200)
    value, low, high = jackknife(leaving_out(x, np.mean))
    means = x.reshape(10, 20).mean(1)
    width = t.ppf(0.975, 9) * means.std(ddof=1) / np.sqrt(10)
    assert value == x.mean() and (high - low) / 2 == pytest.approx(width, rel=1e-9)


def test_of_a_frechet_distance_it_covers_as_it_says():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(4000, 4))
    drawn = [rng.normal(0.6, 1.3, size=(400, 4)) for _ in range(200)]
    found = [jackknife(leaving_out(x, lambda part: frechet_from_features(part, real)))
             for x in drawn]  # fmt: skip
    values = np.array([value for value, _, _ in found])
    covered = np.mean([low <= values.mean() <= high for _, low, high in found])
    assert 0.90 <= covered <= 0.99


def test_too_few():
    with pytest.raises(ReproError, match="19 samples make no 10 groups; give 20"):
        groups_of(19)
