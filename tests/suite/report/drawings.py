"""Figure functions that the invented cards name."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from repro.suite.report import style


def evaluations(results) -> Figure:
    figure, ax = style.subplots(width="half")
    for arm in ("cached", "baseline"):
        style.curve(ax, *results.sweep("nfe", arm, "steps"), arm, label=results.title(arm))
    style.reference(ax, 64, "sequence length")
    style.ticks(ax, results.sweep("nfe", "cached", "steps")[0])
    ax.set(xlabel="sampling steps", ylabel="network evaluations")
    style.legend(ax)
    return figure


def quality(results) -> Figure:
    figure, ax = style.subplots(width="half")
    for arm in ("cached", "baseline"):
        steps, nfe = results.sweep("nfe", arm, "steps")
        _, latency = results.sweep("latency", arm, "steps")
        style.trade_off(ax, nfe, latency, arm, label=results.title(arm), annotate=steps)
    ax.set(xlabel="network evaluations", ylabel="latency (ms)")
    style.legend(ax)
    return figure


def samples(results) -> Figure:
    arms = results.arms()
    images = np.concatenate([results.array(arm, 0, "samples") for arm in arms])
    return style.image_grid(
        images, len(arms), 8, row_labels=[results.title(arm).replace(", ", ",\n") for arm in arms]
    )


def distances(results) -> Figure:
    figure, ax = style.subplots(width="half")
    arms = results.arms()
    style.bars(
        ax,
        arms,
        [results.values("fid", arm) for arm in arms],
        titles=[results.title(arm).replace(" (", "\n(") for arm in arms],
    )
    ax.set(xlabel="Fréchet distance (lower is better)")
    return figure


def broken(results) -> Figure:
    raise ValueError("cannot be drawn")
