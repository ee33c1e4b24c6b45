"""Figures of QuEST, drawn from the measurements and arrays of its arms."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from repro.suite.report import style
from repro.suite.report.results import Results

WIDTHS = {"w8a8": "W8A8", "w4a8": "W4A8", "w4a4": "W4A4"}
CONFIGS = {
    "nearest": "round to nearest",
    "adaround": "learned rounding",
    "fp-time": "float time embedding",
    "q-diffusion": "learned steps (Q-Diffusion)",
    "tla": "TLA",
    "tla-cma": "TLA + CMA (QuEST)",
    "global-only": "global loss only",
    "local-only": "layer losses only",
    "full": "all weights",
    "ptq-d": "corrected output (PTQ-D)",
    "efficient-dm": "low-rank updates (EfficientDM)",
}
RIVALS = {"ptq-d": "static", "efficient-dm": "efficient-dm"}
"""Configurations that are measured beside the ladder, and the name of their arms without widths."""
GRIDS = {
    "tensor-single": "per tensor,\none table",
    "tensor-time": "per tensor,\ntable a step",
    "channel-single": "per channel,\none table",
    "channel-time": "per channel,\ntable a step",
    "channel-time-half": "per channel,\nhalf the tables",
}


def _stack(results: Results, arm: str, name: str) -> np.ndarray:
    """An array of a run for all seeds, stacked along the last axis."""
    return np.stack([results.array(arm, seed, name) for seed in results.seeds(arm)], -1)


def _place(results: Results, arm: str, config: str) -> str | None:
    """The arm that measures a configuration at the widths of `arm`, or None."""
    place = f"{RIVALS[config]}-{arm}" if config in RIVALS else arm
    known = place in results.arms() and results.has("eps_mse", place, config=config)
    return place if known else None


def _measured(results: Results, arm: str) -> dict[str, str]:
    """Configurations at the widths of an arm, and where they are measured."""
    places = {config: _place(results, arm, config) for config in CONFIGS}
    return {config: place for config, place in places.items() if place}


def ladder(results: Results) -> Figure:
    """Error of every configuration over that of learned rounding, a mark a seed."""
    arms = [arm for arm in WIDTHS if arm in results.arms()]
    listed = [c for c in CONFIGS if any(c in _measured(results, arm) for arm in arms)]
    figure, axes = style.subplots(
        1, len(arms), width="full", height=0.24 * len(listed) + 0.8, sharey=True
    )
    places = {config: place for place, config in enumerate(listed)}
    for ax, arm in zip(np.atleast_1d(axes), arms, strict=True):
        start = results.values("eps_mse", arm, config="adaround")
        for config, source in _measured(results, arm).items():
            values = results.values("eps_mse", source, config=config)[: len(start)]
            values = values / start[: len(values)]
            place = np.full(len(values), places[config])
            colour = style.PALETTE[0 if config in ("tla", "tla-cma") else 1]
            ax.plot(values, place, "o", color=colour, markersize=3.5, alpha=0.6)
            ax.plot(np.median(values), places[config], "|", color=colour, markersize=10)
        style.reference(ax, 1.0, "learned rounding", axis="x")
        ax.set(title=WIDTHS[arm], xlabel="error of eps, relative")
        ax.set_xlim(0, 1.06 * ax.get_xlim()[1])
    first = np.atleast_1d(axes)[0]
    first.set_yticks(list(places.values()), [CONFIGS[c] for c in listed])
    first.invert_yaxis()
    return figure


def causes(results: Results) -> Figure:
    """Error at W4A4 of four granularities, before and after tuning."""
    figure, ax = style.subplots(1, 1, width=4.2, height=2.6)
    cells = [g for g in GRIDS if results.has("eps_mse", "granularity", grids=g, tuned="no")]
    x = np.arange(len(cells))
    for tuned, label, fill in (("no", "before", "none"), ("yes", "after", "full")):
        values = [results.values("eps_mse", "granularity", grids=g, tuned=tuned) for g in cells]
        colour = style.PALETTE[0]
        for place, seeds in zip(x, values, strict=True):
            ax.plot(
                np.full(len(seeds), place), seeds, "o", color=colour, fillstyle=fill, markersize=4
            )
        line = "-" if tuned == "yes" else "--"
        medians = [np.median(seeds) for seeds in values]
        ax.plot(x, medians, line, color=colour, linewidth=1, marker=None, label=label)
    ax.set_xticks(x, [GRIDS[g] for g in cells], fontsize=6)
    ax.set(ylim=(0, None), ylabel="error of eps")
    style.legend(ax, title="fine-tuning")
    return figure


def growth(results: Results) -> Figure:
    """Distance of the quantised trajectory from the full-precision one, step by step."""
    arms = ("w4a8", "w4a4")
    figure, axes = style.subplots(1, 2, width="full", height=2.7, sharey=True)
    chosen = ("nearest", "adaround", "q-diffusion", "tla-cma", "full")
    for ax, arm in zip(axes, arms, strict=True):
        for index, config in enumerate(chosen):
            curve = _stack(results, arm, f"curve-{config}")[1:]
            steps = np.arange(1, len(curve) + 1)
            style.curve(
                ax, steps, curve, arm, label=CONFIGS[config], color=style.PALETTE[index],
                linestyle="-", marker=None,
            )  # fmt: skip
        ax.set(yscale="log", title=WIDTHS[arm], xlabel="denoising steps done")
    axes[0].set_ylabel("mean squared distance")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def ranges(results: Results) -> Figure:
    """Range and standard deviation of the inputs of layers after fine-tuning over before."""
    before, after = (_stack(results, "w4a4", f"ranges-{when}") for when in ("before", "after"))
    names = [str(name) for name in results.array("w4a4", 0, "layers")]
    width = ((after[:, 1] - after[:, 0]) / (before[:, 1] - before[:, 0])).mean(-1)
    deviation = (after[:, 2] / before[:, 2]).mean(-1)
    attention = np.array([".attn" in name for name in names])
    time = np.array(["temb" in name for name in names])
    figure, axes = style.subplots(1, 2, width="full", height=2.3, sharex=True)
    place = np.arange(len(names))
    groups = (
        (~attention & ~time, "convolutions", 0), (attention, "attention", 1), (time, "time", 2),
    )  # fmt: skip
    for ax, values, label in zip(
        axes, (width, deviation), ("range", "standard deviation"), strict=True
    ):
        for chosen, name, index in groups:
            ax.plot(
                place[chosen], values[chosen], "o", color=style.PALETTE[index], markersize=3.5,
                label=name,
            )  # fmt: skip
        style.reference(ax, 1.0, "unchanged")
        ax.set(xlabel="layer", title=label)
    axes[0].set_ylabel("after over before")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def samples(results: Results) -> Figure:
    """Samples from identical noises: full precision, and what quantised networks make of them."""
    rows = [("full precision", "w4a4", "pictures")]
    for arm in ("w4a8", "w4a4"):
        rows += [
            (f"{label}, {WIDTHS[arm]}", arm, f"pictures-{config}")
            for config, label in (
                ("nearest", "nearest"),
                ("adaround", "learned rounding"),
                ("q-diffusion", "Q-Diffusion"),
                ("tla-cma", "QuEST"),
            )
        ]
    if "paper-configuration" in results.arms():
        rows.append(("as the text says, W4A4", "paper-configuration", "pictures-tla-cma-W4A4"))
    pictures = [results.array(arm, 0, name) for _, arm, name in rows]
    columns = len(pictures[0])
    return style.image_grid(
        np.concatenate(pictures), len(rows), columns, row_labels=[label for label, _, _ in rows]
    )
