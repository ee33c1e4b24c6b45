"""Figures of the page: distance by number of students, controls, samples, quality of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repro.suite.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from repro.suite.report.results import Results

KINDS = (
    ("toy-wide", "plain", "DM, width 32"),
    ("toy-narrow", "plain", "DM, width 8"),
    ("toy-consistency", "consistency", "consistency, width 32"),
)
CONTROLS = (
    ("default", {"students": 4, "variant": "plain", "times": 1}),
    ("batch of 32 instead of 128", {"students": 4, "variant": "small-batch", "times": 1}),
    ("random parts", {"students": 4, "variant": "random", "times": 1}),
    ("pairs of the part alone", {"students": 4, "variant": "filtered", "times": 1}),
    ("after TSM", {"students": 4, "variant": "tsm", "times": 1}),
    ("after post-distillation", {"students": 4, "variant": "post", "times": 1}),
    ("DM twice as long", {"students": 4, "variant": "plain", "times": 2}),
    ("one student", {"students": 1, "variant": "plain", "times": 1}),
    ("one student, after TSM", {"students": 1, "variant": "tsm", "times": 1}),
    ("one student, DM four times as long", {"students": 1, "variant": "plain", "times": 4}),
)
SETS = (
    ("students-1", "1 student"),
    ("students-2", "2 students"),
    ("students-5", "5 students"),
    ("students-1-long", "1 student, 5 x updates"),
    ("small-tsm", "half the channels, TSM"),
    ("small-random", "half the channels, no TSM"),
)


def students(results: Results) -> Figure:
    """L1 distance over the number of students; hollow: one student, four times as long."""
    figure, ax = style.subplots(width="half", height=3.0)
    shown: set[int] = set()
    for index, (arm, variant, label) in enumerate(KINDS):
        at = {"variant": variant, "times": 1}
        if not results.has("l1", arm, students=1, **at):
            continue
        k, values = results.sweep("l1", arm, "students", **at)
        look = {"color": style.PALETTE[index], "marker": style.MARKERS[index]}
        ax.plot(k, np.median(values, 1), label=label, **look)
        for column in values.T:
            ax.plot(k, column, linestyle="none", alpha=0.4, **look)
        long = {"students": 1, "variant": variant, "times": 4}
        if results.has("l1", arm, **long):
            again = results.values("l1", arm, **long)
            ax.plot(np.full(len(again), 1.0), again, linestyle="none", fillstyle="none", **look)
        shown |= {int(v) for v in k}
    for of, label in (("exact", "exact samples"), ("teacher", "exact denoiser")):
        if results.has("l1", "toy-teacher", of=of):
            value = float(np.median(results.values("l1", "toy-teacher", of=of)))
            ax.axhline(value, color=style.MUTED, linewidth=1,
                       linestyle="--" if of == "teacher" else ":", label=label)  # fmt: skip
    ax.set(xscale="log", xlabel="students K", ylabel="L1 distance", ylim=(0, None))
    style.ticks(ax, sorted(shown))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def controls(results: Results) -> Figure:
    """L1 distance of every set over that of the default of its seed."""
    rows = [(label, at) for label, at in CONTROLS if results.has("l1", "toy-wide", **at)]
    default = results.values("l1", "toy-wide", **rows[0][1])
    figure, ax = style.subplots(width="full", height=0.24 * len(rows) + 0.8)
    for place, (_, at) in enumerate(rows):
        ratio = results.values("l1", "toy-wide", **at) / default
        colour = style.PALETTE[0 if at["students"] == 4 else 1]
        ax.plot(ratio, np.full(len(ratio), place), "o", color=colour, alpha=0.7)
        ax.plot(np.median(ratio), place, "|", color=style.INK, markersize=12)
    ax.axvline(1, color=style.MUTED, linestyle="--", linewidth=1)
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.invert_yaxis()
    ax.set(xlabel="L1 distance over that of four students (default)")
    return figure


def _scatter(ax: Axes, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    colours = np.array(style.PALETTE)[labels % len(style.PALETTE)]
    ax.scatter(points[:, 0], points[:, 1], s=1.0, c=colours, linewidths=0)
    ax.set(title=title, xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[], yticks=[], aspect="equal")
    ax.grid(False)


def plane(results: Results) -> Figure:
    """Points of the exact denoiser and of students."""
    seed = results.seeds("toy-wide")[0]
    labels = results.array("toy-teacher", seed, "labels")
    panels = [("exact denoiser", results.array("toy-teacher", seed, "points"))]
    for name, title in (
        ("1-plain", "1 student"),
        ("4-plain", "4 students"),
        ("8-plain", "8 students"),
        ("1-plain-x4", "1 student, 4 x updates"),
        ("4-tsm", "4 students after TSM"),
    ):
        panels.append((title, results.array("toy-wide", seed, f"points-{name}")))
    figure, axes = style.subplots(2, 3, width="full", height=5.0)
    for ax, (title, points) in zip(axes.flat, panels, strict=True):
        _scatter(ax, points, labels, title)
    return figure


def quality(results: Results) -> Figure:
    """Frechet distance over evaluations: students at 1, the teacher's DDIM at more."""
    figure, ax = style.subplots(width="full", height=3.2)
    rows = [(arm, label) for arm, label in SETS if arm in results.arms()]
    for place, (arm, label) in enumerate(rows):
        k = int(results.experiment.models[arm].params["students"])
        colour, marker = style.PALETTE[place], style.MARKERS[place]
        # Side by side around one evaluation, so that seeds of two arms do not hide each other.
        x = 1.06 ** (place - (len(rows) - 1) / 2)
        for stage in ("dm", "adm"):
            at = {"nfe": 1, "stage": stage, "students": k}
            if not results.has("frechet", arm, **at):
                continue
            values = results.values("frechet", arm, **at)
            face = "none" if stage == "dm" else colour
            ax.plot(np.full(len(values), x), values, marker, color=colour, markerfacecolor=face,
                    linestyle="none")  # fmt: skip
        ax.plot([], [], marker, color=colour, linestyle="none", label=label)
    shown = [1]
    if "teacher" in results.arms():
        nfe, values = results.sweep("frechet", "teacher", "nfe")
        ax.plot(nfe, values[:, 0], color=style.INK, marker="x", label="teacher, DDIM")
        shown += [int(n) for n in nfe]
    ax.set(xscale="log", xlabel="evaluations per image", ylabel="Frechet distance")
    style.plain_log(ax)
    style.ticks(ax, shown)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center")
    return figure


def images(results: Results) -> Figure:
    """Two images of every class, one set a row."""
    rows = []
    if "teacher" in results.arms():
        steps = max(results.sweep("frechet", "teacher", "nfe")[0])
        rows.append(
            (f"teacher, {int(steps)}", results.array("teacher", 0, f"teacher-{int(steps)}"))
        )
    for arm, label in SETS:
        if arm not in results.arms():
            continue
        k = int(results.experiment.models[arm].params["students"])
        adm = results.has("frechet", arm, nfe=1, stage="adm", students=k)
        stage = "adm" if adm else "dm"
        rows.append((label, results.array(arm, results.seeds(arm)[0], f"students-{stage}")))
    pictures = [p for _, p in rows]
    return style.image_grid(
        np.concatenate(pictures), len(rows), len(pictures[0]), row_labels=[r[0] for r in rows]
    )
