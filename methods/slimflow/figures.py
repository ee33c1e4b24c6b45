"""Figures of SlimFlow, drawn from the measurements and arrays of its arms."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from methods.slimflow.method import SCHEDULES
from repro.suite.report import style
from repro.suite.report.results import Results

FLOWS = {
    "teacher": "teacher",
    "direct": "small 1-RF",
    "reflow-plain": "plain reflow",
    "reflow-flip": "mirrored pairs",
    "reflow-anneal": "annealing",
    "reflow-both": "annealing, mirrored",
}
STUDENTS = {
    "naive": "naive, l2",
    "distil-l2": "from 2-RF, l2",
    "guided-l2": "+ two-step, l2",
    "distil-feature": "from 2-RF, feature",
    "guided-feature": "+ two-step, feature",
    "distil-scratch": "random start, l2",
    "distil-teacher-pairs": "teacher pairs, l2",
    "guided-teacher-pairs": "teacher pairs, + two-step",
    "consistency-l2": "consistency, l2",
    "consistency-feature": "consistency, feature",
}
PAPER = {
    "reflow-flip": 5.06 / 5.84,
    "reflow-anneal": 5.46 / 5.84,
    "reflow-both": 4.51 / 5.84,
    "distil-l2": 7.90 / 12.09,
    "guided-l2": 7.30 / 12.09,
    "distil-feature": 6.43 / 12.09,
    "guided-feature": 5.81 / 12.09,
}
MANY = 10


def schedules(results: Results) -> Figure:
    """β over training, and the correlation √(1 − β²) with the pair's own noise."""
    k = np.arange(0, 800_001, 4000)
    figure, axes = style.subplots(1, 2, width="full", height=2.5, sharex=True)
    for index, name in enumerate(("linear", "cosine", "exponential")):
        beta = np.array([SCHEDULES[name](int(step), 300_000) for step in k])
        look = {"color": style.PALETTE[index], "linestyle": style.LINES[index]}
        axes[0].plot(k / 1000, beta, label=name, **look)
        axes[1].plot(k / 1000, np.sqrt(1 - beta**2), label=name, **look)
    axes[0].set(xlabel="updates (thousands)", ylabel="weight of fresh noise")
    axes[1].set(xlabel="updates (thousands)", ylabel="correlation with own noise")
    style.legend(axes[0])
    return figure


def look(arm: str) -> dict[str, Any]:
    """Colour and marker of a compared arm: flows first, then students, which share no panel."""
    names = list(FLOWS if arm in FLOWS else STUDENTS)
    index = names.index(arm)
    return {"color": style.PALETTE[index], "marker": style.MARKERS[index]}


def quality(results: Results) -> Figure:
    """Fréchet distance of flows by evaluations, and of everything that takes one step."""
    figure, (left, right) = style.subplots(
        1, 2, width="full", height=3.0, sharey=True, width_ratios=(3, 2)
    )
    seen: set[float] = set()
    for arm, label in FLOWS.items():
        if results.has("frechet", arm):
            nfe, values = results.sweep("frechet", arm, "nfe")
            style.curve(left, nfe, values, arm, label=label, linestyle="-", **look(arm))
            seen |= set(nfe.tolist())
    arms = [arm for arm in STUDENTS if results.has("frechet", arm, nfe=1)]
    for place, arm in enumerate(arms):
        values = results.values("frechet", arm, nfe=1)
        right.plot(np.full(len(values), place), values, linestyle="none", alpha=0.7, **look(arm))
    style.ticks(left, sorted(seen))
    left.set(xlabel="network evaluations per sample", ylabel="Fréchet distance", yscale="log")
    right.set_xticks(range(len(arms)), [STUDENTS[arm] for arm in arms], rotation=30, ha="right")
    right.set(title="one-step students", xlim=(-0.5, len(arms) - 0.5))
    low, high = left.get_ylim()
    marks = [m for d in (1, 10, 100, 1000) for m in (d, 2 * d, 5 * d) if low <= m <= high]
    left.set_yticks(marks, [f"{m:g}" for m in marks])
    left.set_yticks([], minor=True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def ablations(results: Results) -> Figure:
    """Every part over the baseline of its seed."""
    groups = (
        ("2-RF, 10 steps", "reflow-plain", ("reflow-flip", "reflow-anneal", "reflow-both"), MANY),
        ("students, one step", "naive", tuple(STUDENTS)[1:], 1),
    )
    figure, axes = style.subplots(1, 2, width="full", height=3.0)
    for ax, (title, baseline, arms, nfe) in zip(axes, groups, strict=True):
        shown = [arm for arm in arms if results.has("frechet", arm, nfe=nfe)]
        reference = results.values("frechet", baseline, nfe=nfe)
        for place, arm in enumerate(shown):
            ratio = results.values("frechet", arm, nfe=nfe) / reference
            ax.plot(ratio, np.full(len(ratio), place), linestyle="none", alpha=0.6, **look(arm))
            ax.plot(ratio.mean(), place, "|", color=look(arm)["color"], markersize=12)
            if arm in PAPER:
                ax.plot(PAPER[arm], place, "x", color=style.MUTED)
        labels = FLOWS | STUDENTS
        ax.set_yticks(range(len(shown)), [labels[arm] for arm in shown])
        ax.set(ylim=(len(shown) - 0.5, -0.5), title=title, xlabel=f"over {labels[baseline]}")
        style.reference(ax, 1.0, "baseline", axis="x")
    return figure


def straightness(results: Results) -> Figure:
    """S of flows, a dot a seed."""
    arms = [arm for arm in FLOWS if results.has("straightness", arm)]
    networks = ("teacher", "wide", "narrow")
    rows: tuple[list[tuple[str, np.ndarray, str]], ...] = (
        [(FLOWS[a], results.values("straightness", a), look(a)["color"]) for a in arms],
        [
            (name, results.values("straightness", "digits", network=name), style.PALETTE[i])
            for i, name in enumerate(networks)
        ],
    )
    figure, axes = style.subplots(1, 2, width="full", height=2.4)
    titles = ("Fashion-MNIST", "digits")
    for ax, title, entries in zip(axes, titles, rows, strict=True):
        for place, (_, values, colour) in enumerate(entries):
            ax.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.7)
        ax.set_yticks(range(len(entries)), [label for label, *_ in entries])
        ax.set(ylim=(len(entries) - 0.5, -0.5), xlabel="straightness S", title=title)
        ax.set_xlim(left=0)
    return figure


def samples(results: Results) -> Figure:
    """What networks make of the same noises; the first seed."""
    rows = []
    for arm, label in FLOWS.items():
        if results.has("frechet", arm):
            nfe, _ = results.sweep("frechet", arm, "nfe")
            chosen = (nfe[0], nfe[-1]) if arm in ("teacher", "direct", "reflow-both") else nfe[:1]
            rows += [(f"{label}, {n:g}", arm, f"pictures-{n:g}") for n in chosen]
    rows += [
        (f"{label}, 1", arm, "pictures-1")
        for arm, label in STUDENTS.items()
        if results.has("frechet", arm)
    ]
    pictures = [results.array(arm, results.seeds(arm)[0], name) for _, arm, name in rows]
    return style.image_grid(
        np.concatenate(pictures), len(rows), len(pictures[0]), row_labels=[r[0] for r in rows]
    )
