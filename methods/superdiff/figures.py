"""Figures of SuperDiff, drawn from the measurements and arrays of its arms."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from methods.superdiff.learning import MODES
from repro.suite.report import style
from repro.suite.report.results import Results

Row = tuple[str, str, str | None]
"""Label, arm without its prefix, row of the arm `halves`."""

ROWS: list[Row] = [
    ("model of 0-4", "halves", "a"),
    ("model of 5-9", "halves", "b"),
    ("model of all", "union", None),
    ("coin flip", "halves", "coin-flip"),
    ("OR, T = 1", "or-1", None),
    ("OR, T = 100", "or-100", None),
    ("OR, argmax", "or-argmax", None),
    ("OR, released sign", "or-released", None),
    ("averaging", "averaging", None),
    ("AND", "and", None),
]
RULES = {"or": "OR", "averaging": "averaging", "and": "AND"}


def _best(results: Results, arm: str, path: str, row: str | None) -> np.ndarray | None:
    """Frechet distances of an arm's largest number of evaluations, one a seed."""
    at = {"path": path} | ({"row": row} if row else {})
    if arm not in results.arms() or not results.has("frechet", arm, **at):
        return None
    return results.sweep("frechet", arm, "nfe", **at)[1][-1]


def distances(results: Results) -> Figure:
    """Frechet distance of every row, for both datasets, by SDE and by ODE."""
    figure, axes = style.subplots(1, 2, width="full", height=2.8)
    for ax, prefix, title in zip(axes, ("", "digits-"), ("Fashion-MNIST", "digits"), strict=True):
        rows = [row for row in ROWS if _best(results, prefix + row[1], "sde", row[2]) is not None]
        for place, (_, arm, row) in enumerate(rows):
            for path, shift, face in (("sde", -0.12, "full"), ("ode", 0.12, "none")):
                values = _best(results, prefix + arm, path, row)
                if values is None:
                    continue
                colour = style.PALETTE[0 if path == "sde" else 1]
                ax.plot(
                    values, np.full(len(values), place + shift), "o" if path == "sde" else "s",
                    color=colour, fillstyle=face, markersize=4, alpha=0.8,
                    label=path.upper() if place == 0 else None,
                )  # fmt: skip
                ax.plot(np.median(values), place + shift, "|", color=colour, markersize=9)
        ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
        ax.set(xlabel="Frechet distance of classifier features", title=title)
        ax.set_xlim(left=0)
        ax.invert_yaxis()
    handles = axes[1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


def quality(results: Results) -> Figure:
    """Frechet distance against network evaluations a sample, digits by SDE."""
    figure, ax = style.subplots(width="half")
    for index, (label, arm, row) in enumerate(
        row
        for row in ROWS
        if row[1] in ("union", "or-1", "or-100", "averaging") or row[2] == "coin-flip"
    ):
        at = {"path": "sde"} | ({"row": row} if row else {})
        if not results.has("frechet", f"digits-{arm}", **at):
            continue
        nfe, values = results.sweep("frechet", f"digits-{arm}", "nfe", **at)
        style.curve(
            ax, nfe, values, f"digits-{arm}", label=label, color=style.PALETTE[index],
            marker=style.MARKERS[index],
        )  # fmt: skip
    ax.set(xlabel="network evaluations a sample", ylabel="Frechet distance")
    style.plain_log(ax, axis="x")
    style.legend(ax)
    return figure


def histograms(results: Results) -> Figure:
    """What the classifier takes the samples for, by class, mean over seeds."""
    figure, axes = style.subplots(1, 2, width="full", height=2.6, sharey=True)
    wanted = {"halves-a", "halves-b", "or-1", "or-100", "averaging"}
    for ax, prefix, title in zip(axes, ("", "digits-"), ("Fashion-MNIST", "digits"), strict=True):
        index = 0
        for label, arm, row in ROWS:
            if (f"{arm}-{row}" if row else arm) not in wanted:
                continue
            shares = _shares(results, prefix + arm, row)
            if shares is None:
                continue
            ax.plot(
                range(10), shares, color=style.PALETTE[index], marker=style.MARKERS[index],
                linestyle="-" if arm.startswith("or") else ":", label=label,
            )  # fmt: skip
            index += 1
        style.reference(ax, 0.1, "", axis="y")
        ax.set(xlabel="class", title=title)
        ax.set_xticks(range(10))
    axes[0].set_ylabel("share of samples")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _shares(results: Results, arm: str, row: str | None) -> np.ndarray | None:
    if arm not in results.arms():
        return None
    steps = max(results.experiment.scales[results.scale].arms[arm]["steps"])
    name = f"classes-sde-{steps}" + (f"-{row}" if row else "")
    return np.mean([results.array(arm, seed, name) for seed in results.seeds(arm)], 0)


def log_densities(results: Results) -> Figure:
    """Differences of log-densities along sampling of digits, by OR, averaging and AND."""
    arms = [a for a in ("digits-or-1", "digits-averaging", "digits-and") if a in results.arms()]
    figure, axes = style.subplots(1, len(arms), width="full", height=2.4, squeeze=False)
    for ax, arm in zip(axes[0], arms, strict=True):
        steps = max(results.experiment.scales[results.scale].arms[arm]["steps"])
        gap = results.array(arm, results.seeds(arm)[0], f"gap-sde-{steps}")
        t = 1 - np.arange(1, len(gap) + 1) / len(gap)
        ax.plot(t, gap, color=style.PALETTE[0], linewidth=0.5, alpha=0.5)
        ax.axhline(0, color=style.MUTED, linestyle="--", linewidth=1)
        ax.set(xlabel="t", title=results.title(arm).removesuffix(", digits"), xlim=(1, 0))
        if np.abs(gap).max() < 1e-6:
            ax.set_ylim(-1, 1)
    axes[0][0].set_ylabel("L1 - L2 (nats)")
    return figure


def plane(results: Results) -> Figure:
    """Where points of the plane end, with learned models and with true scores."""
    figure, axes = style.subplots(2, len(RULES), width="full", height=4.6, sharex=True, sharey=True)
    seed = results.seeds("plane")[0]
    for line, (scores, title) in enumerate((("learned", "learned"), ("true", "true scores"))):
        for ax, (rule, name) in zip(axes[line], RULES.items(), strict=True):
            points = results.array("plane", seed, f"points-{scores}-{rule}")
            ax.plot(*points.T, ".", markersize=2, color=style.PALETTE[0], alpha=0.6)
            ax.plot(*np.array(MODES).T, "x", color=style.PALETTE[1], markersize=6)
            ax.set(aspect="equal", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), title=f"{name}, {title}")
    return figure


def samples(results: Results) -> Figure:
    """Samples of Fashion-MNIST from the same noises."""
    pictures, labels = [], []
    for label, arm, row in ROWS:
        if arm not in results.arms():
            continue
        steps = max(results.experiment.scales[results.scale].arms[arm]["steps"])
        name = f"pictures-sde-{steps}" + (f"-{row}" if row else "")
        pictures.append(results.array(arm, results.seeds(arm)[0], name))
        labels.append(label)
    return style.image_grid(
        np.concatenate(pictures), len(labels), len(pictures[0]), row_labels=labels
    )


def pairs(results: Results) -> Figure:
    """Samples of two class-conditional experts from the same noises."""
    rules = [r for r in results.experiment.arms["pairs"].params["rules"]]
    seed = results.seeds("pairs")[0]
    pictures = [results.array("pairs", seed, f"pictures-{rule}") for rule in rules]
    labels = [RULES.get(rule, rule.replace("-", " ")) for rule in rules]
    return style.image_grid(
        np.concatenate(pictures), len(rules), len(pictures[0]), row_labels=labels
    )
