from __future__ import annotations

import math

import numpy as np
import pytest

from repro.suite.report.formatting import (
    Summary,
    detectable,
    margin,
    number,
    seconds,
    summarise,
    with_interval,
)


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (162265682, ".4g", "162,265,682"),
        (1024.0, ".4g", "1,024"),
        (647.5, ".4g", "647.5"),
        (0.63212, ".3g", "0.632"),
        (-0.5, ".2f", "−0.50"),
        (3.1e-16, ".2e", "3.10e−16"),
        (1e-9, ".3g", "1e−9"),
        (12345.678, ".1f", "12345.7"),
        (0.0, ".2e", "0"),
        (0.0, ".2f", "0.00"),
        (-0.0, ".4g", "0"),
        (-0.0001, ".2f", "0.00"),
        (7.0, "d", "7"),
        (math.inf, ".4g", "∞"),
        (math.nan, ".4g", "–"),
        (None, ".4g", "–"),
    ],
)
def test_number(value, spec, text):
    assert number(value, spec) == text


def test_summary_has_the_interval_of_the_judge():
    # Three values with s = 1: the first look decides at 6.97.
    found = summarise([1.0, 2.0, 3.0])
    assert found.n == 3
    assert found.mean == 2.0
    assert found.half == pytest.approx(6.97 / math.sqrt(3), rel=1e-9)
    assert (found.low, found.high) == (2 - found.half, 2 + found.half)


def test_summary_covers_the_mean_at_its_level():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = summarise(rng.standard_normal(3))
        hits += found.low <= 0 <= found.high
    # the first look spends 2 %: 1960 of 2000 with a standard error of 6.3
    assert abs(hits - 1960) < 25


def test_summary_of_one_value_has_no_interval():
    assert summarise([4.0]) == Summary(1, 4.0, None)
    with pytest.raises(ValueError, match="no values"):
        summarise([])


@pytest.mark.parametrize(
    ("values", "spec", "text"),
    [
        ([2.0, 2.0, 2.0], ".1f", "2.0"),
        ([1.6, 1.6, 1.6], ".2f", "1.60"),
        ([0.631], ".3f", "0.631"),
        ([0.630, 0.631, 0.632], ".3f", "0.631 ± 0.004"),
        ([10.0, 10.001, 10.002], ".1f", "10.0 ± 0.004"),
        ([1e-9, 2e-9, 3e-9], ".1e", "2.0e−9 ± 4e−9"),
    ],
)
def test_with_interval(values, spec, text):
    assert with_interval(summarise(values), spec) == text


def test_margins_of_differences_and_of_ratios():
    check = {"margin": 0.5, "margin_low": -0.25, "margin_high": 1.25, "n_seeds": 3}
    assert margin(check) == "0.5 [−0.25, 1.25]"
    assert margin({**check, "by_ratio": True}) == "×1.65 [×0.779, ×3.49]"
    assert margin({"margin": 2.0, "margin_low": 2.0, "margin_high": 2.0, "n_seeds": 1}) == "2"
    assert detectable({**check, "smallest_detectable": 0.1, "by_ratio": True}) == "×1.1"
    assert detectable({**check, "smallest_detectable": None}) == "–"


def test_seconds():
    assert [seconds(v) for v in (0.031, 0.84, 41.7, 200, 7505, None)] == [
        "0.03 s",
        "0.8 s",
        "42 s",
        "3 min 20 s",
        "2 h 5 min",
        "–",
    ]
