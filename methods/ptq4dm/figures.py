"""Figures of PTQ4DM, drawn from the measurements and arrays of its arms."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from repro.suite.report import style
from repro.suite.report.results import Results

TIMES = {
    "uniform": "uniform",
    "ndtc-paper": "NDTC, published",
    "ndtc-wide": "NDTC, released width",
    "ndtc-released": "NDTC, released pairing",
}
SOURCES = {
    "grid": "every step alike",
    "noise": "pure noise",
    "noised-images": "noised images",
    "images": "images",
}
CHANGES = {
    "l1": "score L1",
    "cosine": "score cosine",
    "kl": "score KL",
    "attention": "attention too",
}


def _settings(results: Results, bits: str) -> list[tuple[str, str, dict]]:
    """(label, arm, coordinates) of every calibration that was measured at a pair of widths."""
    listed = [(label, "denoising", {"times": name}) for name, label in TIMES.items()]
    listed += [
        ("NDTC, only pairs wrong", "released-slips", {"times": "ndtc-mispaired"}),
        ("NDTC, only labels raw", "released-slips", {"times": "ndtc-raw-labels"}),
    ]
    listed += [
        (f"{label}, quadratic grid", "quadratic", {"times": name}) for name, label in TIMES.items()
    ]
    listed += [(label, "other-inputs", {"source": name}) for name, label in SOURCES.items()]
    steps = sorted({at["t"] for at in results.frame["at"] if "t" in at})
    listed += [(f"one step, t = {t:g} T", "single-step", {"t": t}) for t in steps]
    listed += [(label, "ablation", {"change": name}) for name, label in CHANGES.items()]
    return [
        (label, arm, at)
        for label, arm, at in listed
        if results.has("trajectory_mse", arm, bits=bits, **at)
    ]


def _stack(results: Results, arm: str, name: str) -> np.ndarray:
    """An array of a run for all seeds, stacked along the last axis."""
    return np.stack([results.array(arm, seed, name) for seed in results.seeds(arm)], -1)


def errors(results: Results) -> Figure:
    """Error of final samples for every calibration, a point a seed, at 8 and 6 activation bits."""
    wide = _settings(results, "W8A8")
    figure, axes = style.subplots(
        1, 2, width="full", height=0.19 * len(wide) + 0.8, sharey=True, sharex=True
    )
    places = {label: place for place, (label, _, _) in enumerate(wide)}
    for ax, bits in zip(axes, ("W8A8", "W8A6"), strict=True):
        for label, arm, at in _settings(results, bits):
            values = results.values("trajectory_mse", arm, bits=bits, **at)
            place = np.full(len(values), places[label])
            colour = style.colour(arm)
            ax.plot(values, place, style.marker(arm), color=colour, markersize=3.5, alpha=0.6)
            ax.plot(np.median(values), places[label], "|", color=colour, markersize=10)
        if results.has("trajectory_mse", "denoising", bits=bits, times="uniform"):
            values = results.values("trajectory_mse", "denoising", bits=bits, times="uniform")
            style.reference(ax, float(np.median(values)), "uniform", axis="x")
        ax.set(xscale="log", title=bits, xlabel="error of samples against full precision")
    axes[0].set_yticks(list(places.values()), list(places))
    axes[0].invert_yaxis()
    return figure


def growth(results: Results) -> Figure:
    """Distance of the quantised trajectory from the full-precision one, step by step."""
    figure, axes = style.subplots(1, 2, width="full", height=2.7, sharey=True)
    chosen = [
        ("denoising", "uniform", "uniform"),
        ("denoising", "ndtc-paper", "NDTC, published"),
        ("other-inputs", "images", "images"),
        ("single-step", "0", "one step, t = 0"),
        ("single-step", "1", "one step, t = T"),
    ]
    for ax, bits in zip(axes, ("W8A8", "W8A6"), strict=True):
        for index, (arm, name, label) in enumerate(chosen):
            if bits == "W8A6" and arm == "single-step":
                continue
            curve = _stack(results, arm, f"curve-{name}-{bits}")[1:]
            steps = np.arange(1, len(curve) + 1)
            colour = style.PALETTE[index]
            style.curve(ax, steps, curve, arm, label=label, color=colour, linestyle="-")
        ax.set(yscale="log", title=bits, xlabel="denoising steps done")
    axes[0].set_ylabel("mean squared distance")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def activations(results: Results) -> Figure:
    """Quantiles of layer outputs over the time steps, for four layers spread over the network."""
    table = _stack(results, "full-precision", "activation_quantiles").mean(-1)
    names = [str(name) for name in results.array("full-precision", 0, "layers")]
    t = results.array("full-precision", 0, "timesteps")
    spread = table[..., 5] - table[..., 1]
    order = np.argsort(spread.max(1) / spread.min(1))
    chosen = order[np.linspace(0, len(order) - 1, 4).round().astype(int)]
    figure, axes = style.subplots(1, 4, width="full", height=2.1, sharex=True)
    for ax, layer in zip(axes, chosen, strict=True):
        values = table[layer]
        for low, high, alpha in ((0, 6, 0.15), (1, 5, 0.3), (2, 4, 0.5)):
            ax.fill_between(
                t, values[:, low], values[:, high], color=style.PALETTE[0], alpha=alpha, linewidth=0
            )
        ax.plot(t, values[:, 3], color=style.PALETTE[0])
        ratio = spread[layer].max() / spread[layer].min()
        ax.set_title(f"{names[layer]}\nrange changes {ratio:.2f}x", fontsize=7, fontweight="normal")
        ax.set_xlabel("time step")
    axes[0].set_ylabel("layer output")
    return figure


def times(results: Results) -> Figure:
    """Histograms of the steps whose states calibrate, for each distribution."""
    figure, axes = style.subplots(1, len(TIMES), width="full", height=1.9, sharey=True, sharex=True)
    steps = len(results.array("full-precision", 0, "timesteps"))
    for index, (ax, (name, label)) in enumerate(zip(axes, TIMES.items(), strict=True)):
        drawn = _stack(results, "denoising", f"labels-{name}").ravel()
        state = steps - 2 - drawn if name == "ndtc-released" else drawn
        bins = np.arange(-1.5, steps)
        ax.hist(state, bins, density=True, color=style.PALETTE[index], alpha=0.85)
        if name == "ndtc-released":
            ax.hist(drawn, bins, density=True, histtype="step", color=style.INK, label="label")
            ax.legend()
        ax.set_title(label, fontsize=8, fontweight="normal")
        ax.set_xlabel("step of the state")
    axes[0].set_ylabel("share")
    return figure


def samples(results: Results) -> Figure:
    """Samples from identical noises: full precision, and what calibrations make of them."""
    lowest, arm = ("W6A6", "six-bit") if "six-bit" in results.arms() else ("W8A6", "denoising")
    rows = [
        ("full precision", "full-precision", "pictures"),
        ("uniform, W8A8", "denoising", "pictures-uniform-W8A8"),
        ("NDTC, W8A8", "denoising", "pictures-ndtc-paper-W8A8"),
        (f"uniform, {lowest}", arm, f"pictures-uniform-{lowest}"),
        ("images, W8A8", "other-inputs", "pictures-images-W8A8"),
        ("t = 0 only, W8A8", "single-step", "pictures-0-W8A8"),
        ("t = T only, W8A8", "single-step", "pictures-1-W8A8"),
    ]
    pictures = [results.array(arm, 0, name) for _, arm, name in rows]
    columns = len(pictures[0])
    return style.image_grid(
        np.concatenate(pictures), len(rows), columns, row_labels=[label for label, _, _ in rows]
    )
