"""Figures of the diffusion couple, drawn from the arrays and measurements of the runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from methods.diffusion_couple.arms import Y_GRID
from methods.diffusion_couple.systems import cu_sn_like, ni_al_like
from repro.suite.report import style
from repro.suite.report.results import Results

Array = NDArray[np.float64]
UM = 1e6
FAMILIES = ("wagner", "wagner-ideal", "constant-volume", "concentration-cb", "concentration-ca")
SHORT = {
    "wagner": "Wagner, actual $V_m$",
    "wagner-ideal": "Wagner, ideal $V_m$",
    "constant-volume": "constant $V_m$",
    "concentration-cb": "den Broeder, $C_B$",
    "concentration-ca": "den Broeder, $C_A$",
    "concentration-ideal": "den Broeder, ideal $V_m$",
    "boltzmann-matano": "Boltzmann–Matano, $C_B$",
    "hall": "Hall, ends only",
    "inverse": "forward simulation",
}


def draw_profile(
    ax: Axes, points: Array, fit: Array, ends: tuple[float, float], x_M: float, x_K: float | None
) -> None:
    """The measured profile as a metallurgist draws it: points, fit, Matano's areas, the planes.

    points, fit: (2, n) positions (m) and mole fractions; x_M, x_K: planes, m.
    """
    x, N = fit
    left = x <= x_M
    ax.axhline(ends[0], color=style.MUTED, linewidth=0.8, linestyle=":")
    ax.axhline(ends[1], color=style.MUTED, linewidth=0.8, linestyle=":")
    for side, end in ((left, ends[0]), (~left, ends[1])):
        ax.fill_between(x[side] * UM, N[side], end, color=style.PALETTE[5], alpha=0.25, linewidth=0)
    crowded = points.shape[1] > 200  # so many would hide the fit
    ax.plot(x * UM, N, color=style.PALETTE[0], label="smooth fit", zorder=3 if crowded else 2)
    ax.plot(
        points[0] * UM, points[1], "o", color=style.INK, markersize=1.5 if crowded else 3,
        markerfacecolor="white", markeredgewidth=0.3 if crowded else 0.8, label="points",
    )  # fmt: skip
    ax.axvline(x_M * UM, color=style.PALETTE[2], linestyle="--", label="Matano plane")
    if x_K is not None and np.isfinite(x_K):
        ax.axvline(x_K * UM, color=style.PALETTE[1], linestyle="-.", label="Kirkendall plane")
    span = np.ptp(points[0]) * UM
    ax.set_xlim(points[0].min() * UM - 0.02 * span, points[0].max() * UM + 0.02 * span)
    ax.set(xlabel="position $x$ (µm)", ylabel="mole fraction $N_B$")
    ax.legend(loc="best")


def draw_diffusivities(
    ax: Axes,
    N: Array,
    curves: Mapping[str, Array],
    truth: Array | None = None,
    interval: Array | None = None,
) -> None:
    """D(N) on a logarithmic axis; curves: arm -> (n,), interval: (2, n) around Wagner's."""
    if interval is not None:
        ax.fill_between(N, *interval, color=style.MUTED, alpha=0.25, linewidth=0,
                        label="95 % interval, Wagner")  # fmt: skip
    if truth is not None:
        ax.plot(N, truth, color=style.INK, linewidth=3.2, alpha=0.35, label="truth")
    for number, (arm, D) in enumerate(curves.items()):
        ax.plot(N, D, color=style.colour(arm), linewidth=1.2, label=SHORT[arm],
                marker=style.marker(arm), markevery=(4 * number, 22), markersize=3.5)  # fmt: skip
    ax.set(xlabel="mole fraction $N_B$", ylabel=r"$\tilde D$ (m²/s)", yscale="log")
    # a narrow range has no decade inside: label it in plain multiples
    low, high = ax.get_ylim()
    if high / low < 10:
        power = int(np.floor(np.log10(low)))
        ax.set_ylabel(rf"$\tilde D$ ($10^{{{power}}}$ m²/s)")
        ticks = _round_steps(low / 10.0**power, high / 10.0**power)
        ax.set_yticks(ticks * 10.0**power, [f"{tick:g}" for tick in ticks])
        ax.set_yticks([], minor=True)


def _round_steps(low: float, high: float) -> Array:
    step = 10 ** np.floor(np.log10((high - low) / 3))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 7), 10)
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def _noise(results: Results) -> float:
    return 0.002 if results.has("error", "wagner", couple="ni-pd", noise=0.002) else 0


def profile(results: Results) -> Figure:
    """Profile with its planes, and D by every relation."""
    noise = _noise(results)
    key = f"ni-pd_0.4_{noise}"
    figure, (left, right) = style.subplots(1, 2, width="full", height=3.1)
    x_M, x_K = results.array("wagner", 0, f"planes/{key}")
    draw_profile(
        left,
        results.array("wagner", 0, f"points/{key}"),
        results.array("wagner", 0, f"fit/{key}"),
        (0.0, 1.0),
        x_M,
        x_K,
    )
    N, truth = results.array("wagner", 0, f"truth/{key}")
    arms = [a for a in (*FAMILIES, "inverse") if a in results.arms()]
    curves = {arm: results.array(arm, 0, f"D/{key}") for arm in arms}
    interval = results.array("bootstrap", 0, f"interval/{key}")
    draw_diffusivities(right, N, curves, truth, interval)
    right.legend(loc="upper left", fontsize=7)
    return figure


def excess(results: Results) -> Figure:
    """Difference of the families over composition and over the excess volume."""
    figure, (left, right) = style.subplots(1, 2, width="full", height=3.1)
    w, _ = results.sweep("difference", "concentration-cb", "w", couple="ni-pd", noise=0)
    shades = {value: colour for value, colour in zip(w, _ramp(w), strict=True)}
    for value in w:
        key = f"ni-pd_{value:g}_0" if value else "ni-pd_0_0"
        known = results.array("wagner", 0, f"D/{key}")
        for arm, line in (("concentration-cb", "-"), ("concentration-ca", "--")):
            D = results.array(arm, 0, f"D/{key}")
            label = f"$w$ = {_signed(value)}" if line == "-" else None
            left.plot(
                Y_GRID, 100 * (D / known - 1), line, color=shades[value], linewidth=1.3, label=label
            )
    left.set(xlabel="mole fraction $N_B$", ylabel="den Broeder / Wagner − 1 (%)")
    left.legend(title="cm³/mol; solid $C_B$, dashed $C_A$", title_fontsize=7.5, fontsize=7.5,
                loc="upper right", ncols=2)  # fmt: skip
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.42 * (high - low))
    noise = _noise(results)
    for arm in ("concentration-cb", "concentration-ca", "concentration-ideal"):
        x, values = results.sweep("difference", arm, "w", couple="ni-pd", noise=noise)
        values = 100 * values
        mean = values.mean(axis=1)
        slope, offset = np.polyfit(x, mean, 1)
        span = np.array([x.min(), x.max()])
        right.plot(span, slope * span + offset, color=style.colour(arm), linewidth=1)
        right.errorbar(
            x, mean, yerr=[mean - values.min(axis=1), values.max(axis=1) - mean],
            fmt=style.marker(arm), color=style.colour(arm), capsize=2, label=SHORT[arm],
        )  # fmt: skip
    right.set(xlabel="excess parameter $w$ (cm³/mol)", ylabel="mean difference to Wagner (%)")
    right.legend(loc="upper left")
    return figure


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0 (ideal)"


def _ramp(w: Array) -> list[str]:
    """Blue for contraction, orange for expansion, darker the stronger; grey for ideal."""
    import matplotlib

    blues, oranges = matplotlib.colormaps["Blues"], matplotlib.colormaps["Oranges"]
    largest = np.max(np.abs(w))
    return [
        style.MUTED
        if value == 0
        else (oranges if value > 0 else blues)(0.4 + 0.6 * abs(value) / largest)
        for value in w
    ]


def noise(results: Results) -> Figure:
    """Error of each relation at each noise."""
    figure, ax = style.subplots(width="full", height=2.9)
    arms = [a for a in (*FAMILIES, "concentration-ideal", "hall") if a in results.arms()]
    for number, arm in enumerate(arms):
        x, values = results.sweep("error", arm, "noise", couple="ni-pd", w=0.4)
        values = 100 * values
        low, middle, high = (
            np.percentile(values, 5, axis=1),
            values.mean(axis=1),
            np.percentile(values, 95, axis=1),
        )
        place = np.arange(len(x)) + 0.1 * (number - (len(arms) - 1) / 2)
        ax.errorbar(
            place, middle, yerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
            fmt=style.marker(arm), color=style.colour(arm), capsize=2, label=SHORT[arm],
        )  # fmt: skip
    ax.set_xticks(np.arange(len(x)), [f"{value:g}" for value in x])
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="noise of the points (mole fraction)", ylabel="mean error of $\\tilde D$ (%)")
    ax.set_ylim(bottom=-0.1)
    style.legend(ax)
    return figure


def kink(results: Results) -> Figure:
    """Volume and diffusivity of the couple whose volume has a kink."""
    figure, (left, right) = style.subplots(1, 2, width="full", height=2.9)
    factors = sorted({float(at["kink"]) for at in results.frame["at"] if "kink" in at})
    N = np.linspace(0.42, 0.52, 201)
    for number, factor in enumerate(factors):
        left.plot(
            N, ni_al_like(factor).V(N) * UM, color=style.INK, alpha=0.35 + 0.3 * number,
            linestyle=style.LINES[number], label=f"kink × {factor:g}",
        )  # fmt: skip
    left.set(xlabel="mole fraction $N_B$", ylabel="molar volume (cm³/mol)")
    left.legend(loc="upper left")
    key = f"ni-al_{factors[-1]}_0"
    N, truth = results.array("wagner", 0, f"truth/{key}")
    draw_diffusivities(
        right, N, {arm: results.array(arm, 0, f"D/{key}") for arm in FAMILIES}, truth
    )
    right.legend(loc="upper center", fontsize=7)
    return figure


def layers(results: Results) -> Figure:
    """The layers of the Cu-Sn-like couple and what each family makes of them."""
    couple = cu_sn_like()
    figure, (left, right) = style.subplots(
        1, 2, width="full", height=3.0, gridspec_kw={"width_ratios": [1, 1.5]}
    )
    edges = np.concatenate([[0], np.cumsum(couple.dx)]) * UM
    margin = 0.45 * edges[-1]
    steps = [(-margin, 0, 0.0, "A"), *(
        (edges[i], edges[i + 1], couple.N[i + 1], name)
        for i, name in enumerate(("Cu$_3$Sn", "Cu$_6$Sn$_5$"))
    ), (edges[-1], edges[-1] + margin, 1.0, "B")]  # fmt: skip
    for number, (start, stop, N, name) in enumerate(steps):
        left.axvspan(start, stop, color=style.PALETTE[number], alpha=0.18, linewidth=0)
        left.plot([start, stop], [N, N], color=style.INK)
        if number:
            left.plot([start, start], [steps[number - 1][2], N], color=style.INK, linewidth=0.8)
        text = f"{name}\n{stop - start:.1f} µm" if 0 < number < 3 else name
        left.text((start + stop) / 2, N + 0.03 if N < 0.9 else N - 0.03, text, ha="center",
                  va="bottom" if N < 0.9 else "top")  # fmt: skip
    left.set(xlabel="position (µm)", ylabel="mole fraction $N_B$", ylim=(-0.03, 1.05),
             xlim=(-margin, edges[-1] + margin))  # fmt: skip
    left.grid(visible=False)
    arms = (
        "wagner",
        "constant-volume",
        "concentration-cb",
        "concentration-ca",
        "concentration-ideal",
    )
    for number, arm in enumerate(arms):
        means, spreads = [], []
        for compound in couple.compounds:
            values = results.values(
                "integrated_ratio", arm, couple="cu-sn", compound=compound, noise=0.02
            )
            means.append(values.mean())
            spreads.append(values.std())
        place = np.arange(2) + 0.12 * (number - 2)
        right.errorbar(
            place, means, yerr=spreads, fmt=style.marker(arm), color=style.colour(arm), capsize=2,
            label=SHORT[arm],
        )  # fmt: skip
    right.axhline(1, color=style.INK, linewidth=0.9, linestyle="--")
    right.set_xticks([0, 1], ["Cu$_3$Sn", "Cu$_6$Sn$_5$"])
    right.set(ylabel=r"$\tilde D_{\rm int}$ / truth", ylim=(0.75, 1.4), xlim=(-0.5, 1.5))
    right.grid(axis="x", visible=False)
    right.legend(loc="upper center", ncols=2, fontsize=7.5)
    return figure
