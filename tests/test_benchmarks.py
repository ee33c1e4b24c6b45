"""The table of ratios, without any ratio of real code: times are never asserted."""

import sys

import pandas as pd
import pytest
import torch

from benchmarks import __main__ as main
from benchmarks import rows
from benchmarks.measure import Row
from repro.errors import ReproError
from repro.metrics.cost import Latency


def row(ratios, goal=1.0):
    seconds = Latency.of([1.0] * len(ratios))
    return Row("a over b", seconds, seconds, Latency.of(ratios), goal, "a reason")


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.8] * 9, "met"),
        ([1.2] * 9, "missed"),
        ([0.8, 0.9, 1.2], "met (median)"),
        ([0.8, 1.1, 1.2], "missed (median)"),
    ],
)
def test_a_goal_is_met_for_sure_only_by_the_whole_interval(ratios, verdict):
    assert row(ratios).verdict == verdict


def test_unlike_results_are_not_timed():
    rows.same([1.0, 2.0], torch.tensor([1.0, 2.1]), 0.2, "x")
    with pytest.raises(ReproError, match="x: both sides differ by 0.1"):
        rows.same([1.0, 2.0], torch.tensor([1.0, 2.1]), 0.01, "x")
    with pytest.raises(ReproError, match="differ by nan"):
        rows.same([1.0], [float("nan")], 1.0, "x")


def test_the_table_is_printed_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_WORK", str(tmp_path))
    monkeypatch.setattr(rows, "ALL", {"one": lambda clock: [row([0.5] * 9)]})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "one"])
    assert main.main() == 0
    printed = capsys.readouterr().out
    assert "a over b" in printed and "≤ 1" in printed
    assert (tmp_path / "bench/bench.md").read_text(encoding="utf-8") in printed
    assert pd.read_csv(tmp_path / "bench/bench.csv")["ratio"].tolist() == [0.5]
