"""Figures of Q-Diffusion, drawn from the measurements and arrays of its arms."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from repro.suite.report import style
from repro.suite.report.results import Results

Setting = tuple[str, str, str, dict]
"""Label, arm, name of its arrays, coordinates of its measurements."""

RANGES = {"max": "extremes", "mse": "searched"}
TIMES = {
    "uniform": "uniform",
    "first-quarter": "first quarter",
    "last-quarter": "last quarter",
    "first-step": "first step (t = T)",
}
SETS = {
    "uniform": "uniform",
    "uniform-double": "uniform, twice as many",
    "last-quarter": "last quarter",
}
STARTS = {
    "random-max": "random states, extremes",
    "first-max": "first step, extremes",
    "first-mse": "first step, searched",
}
CHANGES = {
    "none": "default",
    "plain-inputs": "inputs in full precision",
    "executed-order": "units as they run",
    "half-regularised": "half regularised",
    "half-regularised-dropout": "half regularised, dropout",
}


def _settings(results: Results) -> list[Setting]:
    """Every setting that is compared with full precision, from linear to learned."""
    listed: list[Setting] = [
        (f"nearest ({RANGES[scale]}) {bits}", arm, f"{scale}-{bits}",
         {"scale": scale, "bits": bits})
        for arm, scale in (("linear", "max"), ("linear-searched", "mse"))
        for bits in ("W8A8", "W4A32", "W4A8", "W4A4")
    ]  # fmt: skip
    listed += [(f"SQuant {b}", "squant", b, {"bits": b}) for b in ("W4A32", "W4A8")]
    listed += [
        (f"{how}, split{more} W4A32", arm, how, {"rounding": how})
        for arm, more in (("adaround", ""), ("adaround-searched", " (searched)"))
        for how in ("nearest", "learned")
    ]
    split = {"bits": "W4A8", "split": "yes"}
    listed += [
        ("Q-Diffusion W4A8", "q-diffusion", "W4A8-yes", split),
        ("Q-Diffusion (searched) W4A8", "q-diffusion-searched", "W4A8-yes", split),
        ("Q-Diffusion, not split W4A8", "unsplit", "W4A8-no", {"bits": "W4A8", "split": "no"}),
        ("Q-Diffusion W4A4", "four-bit-activations", "W4A4-yes", {"bits": "W4A4", "split": "yes"}),
    ]
    return [s for s in listed if results.has("trajectory_mse", s[1], **s[3])]


def _stack(results: Results, arm: str, name: str) -> np.ndarray:
    """An array of a run for all seeds, stacked along the last axis."""
    return np.stack([results.array(arm, seed, name) for seed in results.seeds(arm)], -1)


def growth(results: Results) -> Figure:
    """Distance of the quantised trajectory from the full-precision one, step by step."""
    wanted = {
        "linear": ("max-W8A8", "max-W4A32", "max-W4A8", "max-W4A4"),
        "adaround": ("learned",),
        "q-diffusion": ("W4A8-yes",),
        "q-diffusion-searched": ("W4A8-yes",),
        "four-bit-activations": ("W4A4-yes",),
    }
    figure, ax = style.subplots(width="full", height=3.0)
    index = 0
    for label, arm, name, _ in _settings(results):
        if name not in wanted.get(arm, ()):
            continue
        curve = _stack(results, arm, f"curve-{name}")[1:]
        steps = np.arange(1, len(curve) + 1)
        line = "--" if arm == "linear" else "-"
        style.curve(
            ax, steps, curve, arm, label=label.replace(" (extremes)", ""),
            color=style.PALETTE[index], linestyle=line,
        )  # fmt: skip
        index += 1
    ax.set(yscale="log", xlabel="denoising steps done", ylabel="mean squared distance")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center")
    return figure


def errors(results: Results) -> Figure:
    """Error of eps and of final samples for every setting, a point a seed."""
    settings = _settings(results)
    figure, axes = style.subplots(1, 2, width="full", height=0.2 * len(settings) + 0.8, sharey=True)
    titles = {"eps_mse": "error of eps", "trajectory_mse": "error of samples"}
    for ax, (measurement, title) in zip(axes, titles.items(), strict=True):
        for place, (_, arm, _, at) in enumerate(settings):
            values = results.values(measurement, arm, **at)
            colour = style.colour(arm)
            ax.plot(values, np.full(len(values), place), style.marker(arm), color=colour,
                    markersize=3.5, alpha=0.6)  # fmt: skip
            ax.plot(np.median(values), place, "|", color=colour, markersize=10)
        ax.set_xlabel(title)
        style.plain_log(ax, axis="x")
    variance = float(np.median(results.values("sample_variance", "full-precision")))
    style.reference(axes[1], variance, "variance of samples", axis="x")
    axes[0].set_yticks(range(len(settings)), [label for label, *_ in settings])
    axes[0].invert_yaxis()
    return figure


def choices(results: Results) -> Figure:
    """Error of eps over that of the default of its group: calibration, starts, details."""
    groups = [
        ("calibration steps, W8A6", "calibration", "times", TIMES),
        ("whole protocol on some states, W4A8", "states", "times", SETS),
        ("initial activation steps, W4A8", "starts", "start", STARTS),
        ("details of learning, W4A32", "departures", "change", CHANGES),
    ]
    rows = [len(labels) for *_, labels in groups]
    figure, axes = style.subplots(
        len(groups), 1, width="full", height=0.2 * sum(rows) + 1.6, sharex=True, height_ratios=rows
    )
    for ax, (title, arm, key, labels) in zip(axes, groups, strict=True):
        stages = ("initial", "learned") if arm != "departures" else (None,)
        last = {"stage": stages[-1]} if stages[-1] else {}
        default = results.values("eps_mse", arm, **{key: next(iter(labels))}, **last)
        for place, name in enumerate(labels):
            for stage in stages:
                at = {key: name} | ({"stage": stage} if stage else {})
                if not results.has("eps_mse", arm, **at):
                    continue
                ratio = results.values("eps_mse", arm, **at) / default
                face = "none" if stage == "initial" else style.colour(arm)
                ax.plot(ratio, np.full(len(ratio), place), style.marker(arm), markersize=4.5,
                        color=style.colour(arm), markerfacecolor=face, alpha=0.8)  # fmt: skip
        ax.axvline(1, color=style.MUTED, linestyle="--", linewidth=1)
        ax.set_yticks(range(len(labels)), list(labels.values()))
        ax.set(ylim=(len(labels) - 0.5, -0.5), title=title)
    axes[-1].set_xlabel("error of eps over that of the default, learned")
    return figure


def shortcuts(results: Results) -> Figure:
    """Largest magnitudes of decoder and encoder features at every split layer."""
    ranges = _stack(results, "full-precision", "ranges").mean(-1)  # (layers, 2)
    names = [str(name) for name in results.array("full-precision", 0, "layers")]
    figure, ax = style.subplots(width="full", height=2.6)
    place = np.arange(len(names))
    for i, label in enumerate(("decoder features X1", "encoder features X2")):
        ax.bar(place + 0.4 * (i - 0.5), ranges[:, i], 0.38, label=label, color=style.PALETTE[i])
    for x, (a, b) in zip(place, ranges, strict=True):
        ax.text(x, max(a, b), f"{max(a / b, b / a):.1f}x", ha="center", va="bottom", fontsize=7.5)
    short = [name.replace(".nin_shortcut", "").replace(".block", "") for name in names]
    ax.set_xticks(place, short)
    ax.set(xlabel="block of the decoder (level, block)", ylabel="largest magnitude")
    ax.margins(y=0.12)
    style.legend(ax)
    return figure


def samples(results: Results) -> Figure:
    """Samples from identical noises: full precision, and what quantisation makes of them."""
    rows = [("full precision", "full-precision", "pictures")]
    wanted = {
        "linear": ("max-W8A8", "max-W4A32", "max-W4A8"),
        "adaround": ("learned",),
        "q-diffusion": ("W4A8-yes",),
        "q-diffusion-searched": ("W4A8-yes",),
        "four-bit-activations": ("W4A4-yes",),
    }
    for label, arm, name, _ in _settings(results):
        if name in wanted.get(arm, ()):
            rows.append((label.replace(" (extremes)", ""), arm, f"pictures-{name}"))
    pictures = [results.array(arm, 0, name) for _, arm, name in rows]
    return style.image_grid(
        np.concatenate(pictures), len(rows), len(pictures[0]), row_labels=[r[0] for r in rows]
    )
