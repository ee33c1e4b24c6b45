"""Figures of AutoDiffusion, drawn from the measurements and arrays of its arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from repro.suite.report import style
from repro.suite.report.results import Results

BASELINES = ("ddim", "plms", "dpm-solver")
SEARCHES = ("searched", "random-search", "joint")
SAMPLERS = {"ddim": "DDIM", "plms": "PLMS", "dpm++": "DPM-Solver++"}
METHODS = {
    "stride": "uniform stride",
    "inclusive": "uniform, both ends",
    "quadratic": "quadratic",
    "random": "random search",
    "evolution": "evolution",
}


def _present(results: Results, arms: tuple[str, ...]) -> list[str]:
    return [arm for arm in arms if arm in results.arms()]


def _plain(ax) -> None:
    """Plain numbers at 1, 2 and 5 on a logarithmic axis of values."""
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def quality(results: Results) -> Figure:
    """Fréchet distance against network evaluations: uniform samplers and searched chains."""
    figure, ax = style.subplots(width="full", height=3.2)
    places: set[float] = set()
    for arm in _present(results, BASELINES):
        parts = [results.sweep("frechet", arm, "nfe")]
        if arm == "ddim" and "ddim-long" in results.arms():
            parts.append(results.sweep("frechet", "ddim-long", "nfe"))
        nfe, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        style.curve(ax, nfe, values, arm, label=results.title(arm))
        places |= set(nfe.tolist())
    for place, name in enumerate(("inclusive", "quadratic")):
        if "grids" in results.arms() and results.has("frechet", "grids", grid=name):
            nfe, values = results.sweep("frechet", "grids", "nfe", grid=name)
            ax.plot(nfe, values.mean(1), ("<", ">")[place], color=style.PALETTE[6],
                    label=f"DDIM, {METHODS[name]}")  # fmt: skip
    _searched(ax, results)
    style.ticks(ax, sorted(places))
    ax.set(yscale="log", xlabel="network evaluations", ylabel="Fréchet distance")
    _plain(ax)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center")
    return figure


def _searched(ax, results: Results) -> None:
    """The chains that searches found: of steps, a sampler a mark, and of steps and blocks."""
    searched = [arm for arm in results.arms() if arm.startswith("searched")]
    for index, (sampler, title) in enumerate(SAMPLERS.items()):
        found = [results.sweep("frechet", arm, "nfe", sampler=sampler) for arm in searched
                 if results.has("frechet", arm, sampler=sampler)]  # fmt: skip
        if found:
            nfe, values = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
            _marks(ax, nfe, values, "*", style.PALETTE[3 + index], f"searched steps, {title}")
    if "joint" in results.arms():
        nfe = results.values("nfe", "joint", pairing="pair")
        values = results.values("frechet", "joint", pairing="pair")
        ax.plot(nfe, values, "D", color=style.PALETTE[8], markerfacecolor="none",
                label="searched steps and blocks")  # fmt: skip


def _marks(ax, x: np.ndarray, values: np.ndarray, marker: str, colour: str, label: str) -> None:
    centre, low, high = style.band(values)
    ax.errorbar(x, centre, [centre - low, high - centre], fmt=marker, color=colour, label=label,
                markersize=8, elinewidth=0.9)  # fmt: skip


def search(results: Results) -> Figure:
    """Fitness of every candidate, and the best so far, of every search."""
    arms = _present(results, SEARCHES)
    figure, axes = style.subplots(
        1, len(arms), width="full", height=2.5, sharey=True, squeeze=False
    )
    for ax, arm in zip(axes[0], arms, strict=True):
        seeds = results.seeds(arm)
        fitness, epoch = (results.array(arm, seeds[0], name) for name in ("fitness", "epoch"))
        ax.plot(np.arange(1, len(fitness) + 1), fitness, ".", color=style.MUTED, markersize=4)
        ends = np.searchsorted(epoch, np.unique(epoch), side="right")
        best = np.stack([results.array(arm, seed, "best") for seed in seeds], -1)
        style.curve(ax, ends, best, arm, label="best so far")
        ax.set(title=results.title(arm), xlabel="evaluations", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _plain(ax)
        bounds = results.array(arm, seeds[0], "bounds")
        if bounds[:, 1].any():
            right = ax.twinx()
            right.step(ends, bounds[:, 1], where="pre", color=style.INK, linestyle="--",
                       linewidth=1)  # fmt: skip
            right.set(ylabel="fraction left out, at most", ylim=(0, None))
            right.grid(visible=False)
    axes[0][0].set_ylabel("fitness (Fréchet distance)")
    return figure


def steps(results: Results) -> Figure:
    """Time steps of the uniform grids and of what every search found."""
    from methods.autodiffusion.problems import grid

    K = len(results.array("searched", results.seeds("searched")[0], "steps"))
    rows: list[tuple[str, Sequence[int] | np.ndarray, np.ndarray | None]] = [
        (METHODS[name], grid(name, K), None) for name in ("stride", "inclusive", "quadratic")
    ]
    colours = [style.MUTED] * len(rows)
    for arm in _present(results, SEARCHES):
        for seed in results.seeds(arm):
            sets = results.array(arm, seed, "skips").sum(1)
            rows.append(
                (f"{results.title(arm)}, seed {seed}", results.array(arm, seed, "steps"), sets)
            )
            colours.append(style.colour(arm))
    figure, ax = style.subplots(width="full", height=0.21 * len(rows) + 0.7)
    for place, ((_, chain, sets), colour) in enumerate(zip(rows, colours, strict=True)):
        ax.plot(chain, np.full(len(chain), place), "o", color=colour)
        for t, count in zip(chain, sets if sets is not None else (), strict=False):
            if count:
                ax.plot(t, place, "x", color=style.INK, markersize=8)
                ax.annotate(f"{count}", (t, place), xytext=(6, -3), textcoords="offset points",
                            fontsize=7.5)  # fmt: skip
    ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
    ax.set(xlim=(-20, 1020), xlabel="time step", ylim=(len(rows) - 0.5, -0.5))
    return figure


def mixture(results: Results) -> Figure:
    """Distance over that of the uniform stride, by schedule and number of steps."""
    schedules = [s for s in ("cosine", "linear") if results.has("distance", "analytic", schedule=s)]
    figure, axes = style.subplots(1, len(schedules), width="full", height=2.8, sharey=True,
                                  squeeze=False)  # fmt: skip
    for ax, schedule in zip(axes[0], schedules, strict=True):
        at = {"schedule": schedule, "method": "stride"}
        Ks, reference = results.sweep("distance", "analytic", "steps", **at)
        for index, (method, label) in enumerate(METHODS.items()):
            if method == "stride":
                continue
            _, values = results.sweep("distance", "analytic", "steps", **at | {"method": method})
            ratio = values / reference
            places = np.arange(len(Ks)) + 0.16 * (index - 2.5)
            colour = style.PALETTE[index]
            ax.plot(np.repeat(places, ratio.shape[1]), ratio.ravel(), style.MARKERS[index],
                    color=colour, alpha=0.6, markersize=4)  # fmt: skip
            ax.plot(places, np.median(ratio, 1), "_", color=colour, markersize=11, label=label)
        ax.axhline(1, color=style.MUTED, linestyle="--", linewidth=1)
        ax.set_xticks(np.arange(len(Ks)), [f"{K:g}" for K in Ks])
        ax.set(yscale="log", title=f"{schedule} schedule", xlabel="steps")
        ax.set_xlim(-0.6, len(Ks) - 0.4)
        _plain(ax)
    axes[0][0].set_ylabel("distance over that of the stride")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


# (label, arm, coordinates); a tuple of both halves of the panel, with and without
GUIDED: tuple[tuple[tuple[str, str, dict[str, str]], ...], ...] = (
    (
        ("uniform stride", "ddim-guided", {}),
        ("uniform, both ends", "grids-guided", {"grid": "inclusive"}),
        ("quadratic", "grids-guided", {"grid": "quadratic"}),
        ("random search with guidance", "random-search-guided", {}),
        ("searched with guidance", "searched-guided", {}),
        ("searched without", "transfer-guidance", {"found": "unguided", "used": "guided"}),
    ),
    (
        ("uniform stride", "ddim-conditional", {}),
        ("searched with guidance", "transfer-guidance", {"found": "guided", "used": "unguided"}),
        ("searched without", "transfer-guidance", {"found": "unguided", "used": "unguided"}),
    ),
)


def guidance(results: Results) -> Figure:
    """Distance at four steps with and without guidance, and what the noisy classifier knows."""
    figure, axes = style.subplots(1, 2, width="full", height=3.0, width_ratios=[1.7, 1])
    place, names = 0, []
    for half, rows in enumerate(GUIDED):
        for label, arm, at in rows:
            if not (arm in results.arms() and results.has("frechet", arm, nfe=4, **at)):
                continue
            values = results.values("frechet", arm, nfe=4, **at)
            axes[0].plot(values, np.full(len(values), place), style.MARKERS[half], alpha=0.6,
                         color=style.PALETTE[half], markersize=5)  # fmt: skip
            axes[0].plot(np.median(values), place, "|", color=style.PALETTE[half], markersize=13)
            names.append(label)
            place += 1
        if half == 0:
            axes[0].axhline(place - 0.5, color=style.MUTED, linewidth=0.8)
        axes[0].plot([], [], style.MARKERS[half], color=style.PALETTE[half],
                     label=("used with guidance", "used without")[half])  # fmt: skip
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set(ylim=(len(names) - 0.5, -0.5), xlabel="Fréchet distance")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    t, accuracy = results.sweep("accuracy", "classifier-accuracy", "t")
    axes[1].plot(t, accuracy.mean(1), "o-", color=style.INK)
    axes[1].axhline(0.1, color=style.MUTED, linestyle="--", linewidth=1)
    axes[1].annotate("chance", (0, 0.1), xytext=(0, -10), textcoords="offset points",
                     fontsize=7.5)  # fmt: skip
    axes[1].set(xlabel="time step", ylabel="accuracy of the noisy classifier", ylim=(0, 1))
    return figure


def blocks(results: Results) -> Figure:
    """What each block of the true ImageNet network costs."""
    kinds = [str(k) for k in results.array("structure", 0, "kinds-imagenet-64")]
    savings = results.array("structure", 0, "savings-imagenet-64")
    figure, ax = style.subplots(width="full", height=2.5)
    names = {"r": "residual", "a": "attention", "d": "residual, down", "u": "residual, up"}
    for index, (kind, label) in enumerate(names.items()):
        places = [i for i, k in enumerate(kinds) if k == kind]
        ax.bar(places, savings[places], 0.8, color=style.PALETTE[index], label=label)
    ax.set(xlabel="block, in the order in which they run", ylabel="G multiply-accumulates")
    ax.set_xlim(-0.8, len(kinds) - 0.2)
    style.legend(ax, ncols=2)
    return figure


def samples(results: Results) -> Figure:
    """Samples from the same noises by uniform and searched chains."""
    rows = [
        ("uniform", "ddim", "pictures-4"),
        ("both ends", "grids", "pictures-4-inclusive"),
        ("quadratic", "grids", "pictures-4-quadratic"),
        ("random search", "random-search", "pictures-ddim"),
        ("searched", "searched", "pictures-ddim"),
        ("with blocks", "joint", "pictures-pair"),
        ("random blocks", "random-blocks", "pictures-stride"),
        ("PLMS, searched", "searched", "pictures-plms"),
        ("DPM++, searched", "searched", "pictures-dpm++"),
        ("guided, uniform", "ddim-guided", "pictures-4"),
        ("guided, searched", "searched-guided", "pictures"),
        ("20 uniform", "ddim", "pictures-20"),
        ("100 uniform", "ddim-long", "pictures-100"),
    ]
    saved = {(a, name) for a in results.arms() for name in results.saved(a, results.seeds(a)[0])}
    rows = [row for row in rows if row[1:] in saved]
    pictures = [results.array(arm, results.seeds(arm)[0], name) for _, arm, name in rows]
    return style.image_grid(
        np.concatenate(pictures), len(rows), len(pictures[0]), row_labels=[r[0] for r in rows]
    )
