"""Figures of low-bit floating-point quantisation, drawn from its measurements and arrays."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from methods.lowbit_fp.exact import FORMATS, SQNR
from repro.suite.report import style
from repro.suite.report.results import Results

GRANULARITIES = {"tensor": "one range per tensor", "channel": "a range per channel"}
WIDTHS = {
    "8 bits": ("INT8", "FP8", "E2M5", "E3M4", "E4M3", "E5M2"),
    "4 bits": ("INT4", "INT4-asym", "FP4", "E1M2", "E2M1", "E3M0"),
}


def formats(results: Results) -> Figure:
    """Error of ε for every format, a panel for each width and granularity."""
    figure, axes = style.subplots(2, 2, width="full", height=4.4, sharey="row")
    for row, (bits, names) in zip(axes, WIDTHS.items(), strict=True):
        for ax, (granularity, label) in zip(row, GRANULARITIES.items(), strict=True):
            for index, (span, title) in enumerate((("max", "extremes"), ("search", "searched"))):
                at = {"granularity": granularity, "range": span}
                for place, name in enumerate(names):
                    if not results.has("eps_mse", "nearest", format=name, **at):
                        continue
                    values = results.values("eps_mse", "nearest", format=name, **at)
                    [[mean], [low], [high]] = style.band(values[None], "interval")
                    ax.errorbar(
                        place + 0.22 * (index - 0.5),
                        mean,
                        yerr=[[mean - low], [high - mean]],
                        color=style.PALETTE[index],
                        marker=style.MARKERS[index],
                        markersize=4,
                        capsize=2,
                        linestyle="none",
                        label=title if name == names[0] else None,
                    )
            ax.set(yscale="log", title=f"{bits}, {label}")
            ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
            ax.grid(axis="x", visible=False)
        row[0].set_ylabel("error of ε")
    axes[0][0].legend(title="range")
    return figure


def rounding(results: Results) -> Figure:
    """Error of ε of 4-bit weights, nearest and learned, alone and with activations."""
    figure, axes = style.subplots(1, 2, width="full", height=2.6, sharey=True)
    families = (("E2M1", "E2M1", "FP8"), ("INT4", "INT4-asym", "INT8-asym"))
    for ax, (granularity, label) in zip(axes, GRANULARITIES.items(), strict=True):
        found = []
        for index, (_, weights, inputs) in enumerate(families):
            alone = {"format": weights, "granularity": granularity}
            both = {"weights": weights, "activations": inputs, "granularity": granularity}
            rows = [
                ("nearest", "nearest", alone | {"range": "search"}),
                ("learned", "learned", alone | {"aware": "no"}),
                ("scale-aware", "learned", alone | {"aware": "yes"}),
                ("scale-aware", "learned-aware", alone | {"aware": "yes"}),
                ("nearest, A8", "w4a8-nearest", both),
                ("learned, A8", "w4a8", both),
            ]
            found += [(index, *row) for row in rows if results.has("eps_mse", row[1], **row[2])]
        order = list(dict.fromkeys(where for _, where, _, _ in found))
        for index, where, arm, at in found:
            values = results.values("eps_mse", arm, **at)
            x = np.full(len(values), order.index(where) + 0.2 * (index - 0.5))
            colour, mark = style.PALETTE[index], style.MARKERS[index]
            ax.plot(x, values, mark, color=colour, markersize=4, alpha=0.7,
                    label=families[index][0] if where == "nearest" else None)  # fmt: skip
            ax.plot(x[:1], np.mean(values), "_", color=colour, markersize=12)
        ax.set_xticks(range(len(order)), order, rotation=25, ha="right")
        ax.set_title(label)
        style.plain_log(ax)
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("error of ε")
    axes[1].legend()
    return figure


def ratios(results: Results) -> Figure:
    """Ratios of signal to noise by quadrature, with the reference table in brackets."""
    rows = list(SQNR)
    ours = np.array(
        [
            [results.values("sqnr", "exact", distribution=row, format=form)[0] for form in FORMATS]
            for row in rows
        ]
    )
    integer = np.array([FORMATS.index("INT8" if f in FORMATS[:5] else "INT4") for f in FORMATS])
    figure, ax = style.subplots(width="full", height=2.2)
    ax.imshow(ours - ours[:, integer], cmap="RdBu", vmin=-8, vmax=8, aspect="auto", alpha=0.6)
    for i, row in enumerate(rows):
        for j in range(len(FORMATS)):
            text = f"{ours[i, j]:.2f}\n({SQNR[row][j]:.2f})"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=style.INK)
    ax.set_xticks(range(len(FORMATS)), FORMATS)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    ax.grid(visible=False)
    return figure


def kurtosis(results: Results) -> Figure:
    """Gain of E2M1 over INT4 in each layer, against the kurtosis of its weights."""
    figure, axes = style.subplots(1, 2, width="full", height=2.6, sharey=True)
    kinds = {"weights": "error of the weights", "outputs": "error of the layer's output"}
    for ax, (granularity, label) in zip(axes, GRANULARITIES.items(), strict=True):
        tails = results.array("weights", 0, f"kurtosis-{granularity}")
        for index, (kind, title) in enumerate(kinds.items()):
            gain = results.array("weights", 0, f"gain-{granularity}-{kind}")
            at = {"granularity": granularity, "error": kind}
            [rank] = results.values("kurtosis_correlation", "weights", **at)
            ax.plot(
                tails,
                gain,
                style.MARKERS[index],
                color=style.PALETTE[index],
                markersize=3.5,
                alpha=0.7,
                label=f"{title} (rank correlation {rank:.2f})",
            )
        ax.axhline(0, color=style.MUTED, linewidth=0.8)
        for value in (3, 6):
            style.reference(ax, value, "_", axis="x")
        ax.set(title=label, xlabel="kurtosis")
        style.ticks(
            ax, [v for v in (1, 2, 3, 4, 6, 10, 20, 50, 100) if tails.min() <= v <= tails.max()]
        )
        ax.minorticks_off()
        ax.legend(fontsize=6.5, loc="lower right")
    axes[0].set_ylabel("gain of E2M1, dB")
    return figure


def samples(results: Results) -> Figure:
    """Samples from identical noises under quantised networks."""
    rows = [
        ("full precision", "full-precision", "pictures"),
        ("W8A8 FP8", "w8a8", "pictures-FP8.FP8.tensor"),
        ("W8A8 INT8", "w8a8", "pictures-INT8.INT8-asym.tensor"),
        ("E2M1 nearest", "nearest", "pictures-E2M1.tensor"),
        ("INT4 nearest", "nearest", "pictures-INT4-asym.tensor"),
        ("E2M1 learned, A8", "w4a8", "pictures-E2M1.FP8.tensor"),
        ("INT4 learned, A8", "w4a8", "pictures-INT4-asym.INT8-asym.tensor"),
        ("E2M1 learned, A8,\nper channel", "w4a8", "pictures-E2M1.FP8.channel"),
        ("INT4 learned, A8,\nper channel", "w4a8", "pictures-INT4-asym.INT8-asym.channel"),
    ]
    pictures = [results.array(arm, 0, name) for _, arm, name in rows]
    return style.image_grid(
        np.concatenate(pictures),
        len(rows),
        len(pictures[0]),
        row_labels=[label for label, _, _ in rows],
    )
