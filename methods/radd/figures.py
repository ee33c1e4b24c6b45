"""Figures of the page: evaluations, time, likelihood, sample quality, precision of draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from repro.suite.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from repro.suite.report.results import Results

SCORED = ("radd-dse", "radd-t-dce", "radd-lambda-dce", "radd-ao", "sedd-scale", "sedd-unscale")
SAMPLED = ("samples-radd", "samples-radd-fine", "samples-radd-float32", "samples-sedd")


def evaluations(results: Results) -> Figure:
    """E-NFE at the paper's length: measured, closed form, no cache, cache of whole batches."""
    figure, ax = style.subplots(width="half")
    tokens = results.experiment.arms["enfe"].params["tokens"]
    steps, nfe = results.sweep("nfe", "enfe", "steps")
    n = np.geomspace(steps.min(), steps.max(), 100)
    ax.plot(n, n, color=style.MUTED, linestyle="--", linewidth=1, label="no cache")
    _, whole = results.sweep("nfe_batch_cache", "enfe", "steps")
    ax.plot(
        steps,
        whole[:, 0],
        color=style.PALETTE[1],
        marker="x",
        linestyle=":",
        label="cache of whole batches",
    )
    ax.plot(
        n, n * -np.expm1(tokens * np.log1p(-1 / n)), color=style.PALETTE[0], label="closed form"
    )
    ax.plot(
        steps, nfe.mean(1), color=style.PALETTE[2], marker="o", linestyle="none", label="measured"
    )
    style.ticks(ax, steps)
    style.ticks(ax, steps, axis="y")
    ax.set(xlabel="sampling steps", ylabel="network evaluations")
    style.legend(ax)
    return figure


def speedup(results: Results) -> Figure:
    """Measured speed-up by steps per token, the ideal one, and the paper's.

    Bars span the intervals of all runs.
    """
    figure, ax = style.subplots(width="half")
    frame = results.frame
    rows = frame[(frame["arm"] == "latency") & (frame["measurement"] == "speedup")]
    batches = sorted({at["batch"] for at in rows["at"]})
    for index, batch in enumerate(batches):
        at = {"batch": batch, "over": "sedd"}
        x, middle = results.sweep("speedup", "latency", "steps_per_token", **at)
        low, high = (
            pick(results.sweep(f"speedup_{end}", "latency", "steps_per_token", **at)[1], axis=1)
            for end, pick in (("low", np.min), ("high", np.max))
        )
        middle = np.median(middle, axis=1)
        ax.errorbar(
            x,
            middle,
            yerr=np.maximum([middle - low, high - middle], 0),
            capsize=2,
            color=style.PALETTE[index],
            marker=style.MARKERS[index],
            label=f"ours, batch {batch}",
        )
    tables = {table.id: table for table in results.paper.tables}
    rows = {tuple(row[:2]): row[2:] for row in tables["table-5"].rows}
    paper = {
        int(n): s / r
        for n, s, r in zip(
            tables["table-5"].columns[2:], rows["SEDD", 1], rows["RADD", 1], strict=True
        )
    }
    per_token = np.array(sorted(paper)) / 1024
    ax.plot(
        per_token,
        [paper[n] for n in sorted(paper)],
        color=style.MUTED,
        marker="x",
        linestyle=":",
        label="paper, batch 1 (GPU, not comparable)",
    )
    s = np.geomspace(1 / 32, 4, 100)
    ax.plot(s, -1 / np.expm1(-1 / s), color=style.INK, linewidth=1, label="steps by evaluations")
    style.ticks(ax, per_token[1::2])
    ax.set(xlabel="sampling steps per token", ylabel="time of SEDD by time of RADD")
    style.legend(ax)
    return figure


def likelihood(results: Results) -> Figure:
    """One dot a seed, one row a training loss, in and out of distribution."""
    arms = [arm for arm in SCORED if arm in results.arms()]
    figure, axes = style.subplots(1, 2, width="full", sharey=True)
    for ax, split, title in zip(
        axes, ("test", "ood"), ("in distribution", "zero-shot"), strict=True
    ):
        for row, arm in enumerate(arms):
            values = results.values("nats", arm, split=split, scorer="lambda-dce")
            look = {"marker": style.MARKERS[row], "color": style.PALETTE[row], "alpha": 0.75}
            ax.plot(values, np.full(len(values), row), linestyle="none", **look)
            ax.plot(values.mean(), row, marker="|", markersize=14, color=style.INK)
        ax.set(title=title, xlabel="nats per character")
    axes[0].set_yticks(range(len(arms)), [results.title(arm) for arm in arms])
    axes[0].invert_yaxis()
    return figure


def quality(results: Results) -> Figure:
    """Judge's nats and unigram entropy over steps, for both draws and SEDD."""
    figure, axes = style.subplots(1, 2, width="full")
    for ax, name, label in (
        (axes[0], "judge_nll", "nats per character under the judge"),
        (axes[1], "entropy", "unigram entropy (nats)"),
    ):
        shown = set()
        for arm in SAMPLED:
            if results.has(name, arm):
                steps, values = results.sweep(name, arm, "steps")
                style.curve(ax, steps, values, arm, label=results.title(arm))
                shown |= set(steps.tolist())
        style.ticks(ax, sorted(shown))
        if results.has(name, "samples-radd-ao"):
            value = results.values(name, "samples-radd-ao", order="random").mean()
            style.reference(ax, value, "RADD, random order")
        if results.has(name, "held-out"):
            value = results.values(name, "held-out").mean()
            ax.set_title(f"held-out text: {value:.2f}")
        ax.set(xlabel="sampling steps", ylabel=label)
    axes[0].get_figure().legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
    )
    return figure


def draw_precision(results: Results) -> Figure:
    """Entropy of one drawn token by steps, and the paper's entropies of samples."""
    figure, axes = style.subplots(1, 2, width="full")
    for dtype, colour in (("float64", style.PALETTE[0]), ("float32", style.PALETTE[1])):
        steps, entropy = results.sweep("draw_entropy", "draws", "steps", draws_in=dtype)
        axes[0].plot(steps, entropy[:, 0], color=colour, marker="o", label=dtype)
    style.ticks(axes[0], steps)
    axes[0].set(title="one token, computed", xlabel="sampling steps", ylabel="entropy (nats)")
    style.legend(axes[0])
    tables = {table.id: table for table in results.paper.tables}
    for name, dtype, colour in (
        ("table-3", "float64", style.PALETTE[0]),
        ("table-4", "float32", style.PALETTE[1]),
    ):
        table = tables[name]
        n = [int(column) for column in table.columns[2:]]
        (row,) = (row[2:] for row in table.rows if row[:2] == ["RADD", "entropy"])
        axes[1].plot(n, row, color=colour, marker="x", linestyle=":", label=dtype)
    style.ticks(axes[1], n[::2])
    axes[1].set(
        title="whole samples, from the paper",
        xlabel="sampling steps",
        ylabel="unigram entropy (nats)",
    )
    style.legend(axes[1])
    return figure
