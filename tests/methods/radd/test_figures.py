"""Figures of RADD, drawn from made-up measurements."""

import numpy as np
import pytest

from methods.radd import figures
from repro.suite.cards import library
from repro.suite.report import style
from repro.suite.report.results import Results

METHOD = library.load("radd")


def record(arm, seed, *measured):
    return {
        "arm": arm,
        "seed": seed,
        "measurements": [{"name": n, "at": at, "value": v} for n, v, at in measured],
    }


@pytest.fixture
def results():
    steps = (32, 1024, 4096)
    records = [
        record(
            "enfe", 0,
            *[("nfe", n * 0.9, {"steps": n}) for n in steps],
            *[("nfe_batch_cache", n, {"steps": n}) for n in steps],
        ),
        *[
            record(
                "latency", seed,
                *[
                    (
                        name,
                        (value + 0.1 * seed) * n,
                        {"batch": 1, "over": "sedd", "steps_per_token": n},
                    )
                    for name, value in (("speedup", 2), ("speedup_low", 1.5), ("speedup_high", 3))
                    for n in (1, 4)
                ],
            )
            for seed in range(3)
        ],
        record(
            "draws", 0,
            *[
                ("draw_entropy", 5.0, {"draws_in": dtype, "steps": n})
                for dtype in ("float32", "float64")
                for n in steps
            ],
        ),
        record("held-out", 0, ("judge_nll", 1.5, {}), ("entropy", 2.5, {})),
    ]  # fmt: skip
    for seed in range(3):
        for arm in ("radd-dse", "sedd-scale"):
            for split in ("test", "ood"):
                at = {"split": split, "scorer": "lambda-dce"}
                records.append(record(arm, seed, ("nats", 2 + 0.1 * seed, at)))
        at = [{"steps": n} for n in (8, 128)]
        records += [
            record(
                "samples-radd", seed,
                *[(name, 3.0, a) for a in at for name in ("judge_nll", "entropy")],
            ),
            record(
                "samples-radd-ao", seed,
                *[(name, 2.9, {"order": "random"}) for name in ("judge_nll", "entropy")],
            ),
        ]  # fmt: skip
    merged = {}
    for r in records:
        run = merged.setdefault((r["arm"], r["seed"]), r | {"measurements": []})
        run["measurements"] += r["measurements"]
    return Results(METHOD.paper, METHOD.experiment, "small", list(merged.values()))


def line(ax, label):
    (found,) = [item for item in ax.get_lines() if item.get_label() == label]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def test_evaluations_show_the_closed_form(results):
    (ax,) = figures.evaluations(results).axes
    n, nfe = line(ax, "closed form")
    np.testing.assert_allclose(nfe, n * (1 - (1 - 1 / n) ** 1024))
    assert nfe[-1] == pytest.approx(906.13, abs=0.01)
    assert line(ax, "measured")[1].tolist() == pytest.approx([28.8, 921.6, 3686.4])


def test_speedup_shows_the_ideal_and_the_paper(results):
    (ax,) = figures.speedup(results).axes
    per_token, ideal = line(ax, "steps by evaluations")
    assert np.interp([1, 4], per_token, ideal) == pytest.approx([1.582, 4.52], abs=0.01)
    per_token, paper = line(ax, "paper, batch 1 (GPU, not comparable)")
    assert paper[-1] == pytest.approx(109.90 / 30.70) and per_token[-1] == 4
    (ours,) = ax.containers
    assert ours.lines[0].get_ydata().tolist() == pytest.approx([2.1, 8.4])  # the middle of the runs
    bars = [bar[:, 1].tolist() for bar in ours.lines[2][0].get_segments()]
    assert bars == [pytest.approx([1.5, 3.2]), pytest.approx([6, 12.8])]


def test_likelihood_has_a_row_for_each_arm_and_a_dot_for_each_seed(results):
    figure = figures.likelihood(results)
    left = figure.axes[0]
    assert [t.get_text() for t in left.get_yticklabels()] == ["RADD-DSE", "SEDD-Scale"]
    assert left.get_lines()[0].get_xdata().tolist() == pytest.approx([2, 2.1, 2.2])
    assert list(left.get_lines()[1].get_xdata()) == pytest.approx([2.1])


def test_quality_and_precision_have_what_their_captions_say(results):
    with style.context():
        figure = figures.quality(results)
    assert line(figure.axes[0], "RADD, random order")[1].tolist() == [2.9, 2.9]
    assert figure.axes[0].get_title("left") == "held-out text: 1.50"
    figure = figures.draw_precision(results)
    assert line(figure.axes[1], "float32")[1][-1] == 7.27
