"""Figures of SlimFlow, drawn from made-up measurements."""

from __future__ import annotations

import numpy as np
import pytest

from methods.slimflow import figures
from repro.suite.cards import library
from repro.suite.report import style
from repro.suite.report.results import Results

METHOD = library.load("slimflow")
SEEDS = 3


@pytest.fixture
def results(tmp_path):
    style.assign(METHOD.experiment.arms)
    records = []

    def record(arm, seed, *measured):
        folder = tmp_path / arm / str(seed)
        folder.mkdir(parents=True)
        nfes = sorted({at["nfe"] for _, _, at in measured if "nfe" in at})
        pixels = np.random.default_rng(seed).integers(0, 255, (10, 1, 32, 32), dtype=np.uint8)
        np.savez(folder / "arrays.npz", **{f"pictures-{n}": pixels for n in nfes})
        items = [{"name": n, "at": at, "value": v} for n, v, at in measured]
        records.append({"arm": arm, "folder": folder, "seed": seed, "measurements": items})

    def many(value, nfes):
        return [("frechet", value * (1 + 1 / n), {"nfe": n}) for n in nfes]

    record("teacher", 0, *many(20, (1, 2, 4, 10, 50)), ("straightness", 9.0, {}))
    values = {"direct": 150, "reflow-plain": 100, "reflow-flip": 95, "reflow-both": 90}
    for seed in range(SEEDS):
        for arm, value in values.items():
            nfes = (1, 2, 4, 10, 50) if arm == "reflow-both" else (1, 10)
            bend = ("straightness", value / 20 + seed, {})
            record(arm, seed, *many(value + seed, nfes), bend)
        for place, arm in enumerate(figures.STUDENTS):
            record(arm, seed, ("frechet", 200.0 - 20 * place + seed, {"nfe": 1}))
        record(
            "digits", seed,
            *[("straightness", 2.0 + i, {"network": n})
              for i, n in enumerate(("teacher", "wide", "narrow"))],
        )  # fmt: skip
    return Results(METHOD.paper, METHOD.experiment, "small", records)


def test_schedules_show_the_numbers_of_the_release(results):
    left, right = figures.schedules(results).axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert set(lines) == {"linear", "cosine", "exponential"}
    x, y = lines["exponential"].get_data()
    assert np.interp([50, 300], x, y) == pytest.approx([0.846482, 0.367879], abs=1e-4)
    x, y = right.get_lines()[0].get_data()
    assert np.interp(300, x, y) == pytest.approx(1)


def test_quality_has_a_curve_a_flow_and_a_mark_a_student(results):
    figure = figures.quality(results)
    ax, students = figure.axes
    labels = ax.get_legend_handles_labels()[1]
    assert labels == [v for k, v in figures.FLOWS.items() if k != "reflow-anneal"]
    names = [t.get_text() for t in students.get_xticklabels()]
    assert names == list(figures.STUDENTS.values())
    assert students.get_lines()[1].get_ydata().tolist() == [180, 181, 182]
    curve = next(line for line in ax.get_lines() if line.get_label() == "teacher")
    assert curve.get_data()[1].tolist() == pytest.approx([40, 30, 25, 22, 20.4])


def test_ablations_are_paired_by_seed(results):
    left, right = figures.ablations(results).axes
    assert [t.get_text() for t in left.get_yticklabels()] == [
        "mirrored pairs",
        "annealing, mirrored",
    ]
    dots, mean, paper = left.get_lines()[:3]
    assert dots.get_xdata().tolist() == pytest.approx([(95 + s) / (100 + s) for s in range(3)])
    assert list(paper.get_xdata()) == pytest.approx([5.06 / 5.84])
    assert len(right.get_yticklabels()) == len(figures.STUDENTS) - 1
    assert right.get_lines()[0].get_xdata()[0] == pytest.approx(180 / 200)


def test_straightness_has_a_dot_a_seed(results):
    left, right = figures.straightness(results).axes
    assert len(left.get_lines()[1].get_xdata()) == SEEDS
    assert [t.get_text() for t in right.get_yticklabels()] == ["teacher", "wide", "narrow"]


def test_samples_name_network_and_evaluations(results):
    figure = figures.samples(results)
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert texts[:3] == ["teacher, 1", "teacher, 50", "small 1-RF, 1"]
    assert texts[-1] == "consistency, feature, 1"
    assert len(figure.axes) == 10 * len(texts)


def test_every_figure_of_the_card_is_drawn_and_saved(results, tmp_path):
    for card in METHOD.experiment.figures:
        draw = getattr(figures, card.run.split(":")[1])
        with style.context():
            draw(results).savefig(tmp_path / f"{card.id}.png")
        assert (tmp_path / f"{card.id}.png").stat().st_size > 5000
