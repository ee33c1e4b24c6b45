"""Figures of the DiffusionMBIR experiments."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from repro.suite.report import style

if TYPE_CHECKING:
    from repro.suite.report.results import Results

PLANES = ("axial", "coronal", "sagittal")
SHOWN = ("floor", "admm-tv", "fbpconvnet", "slice-wise", "mcg", "fast", "slice-wise-learned",
         "mcg-learned", "fast-learned")  # fmt: skip
COMPARED = ("floor", "admm-tv", "fbpconvnet", "slice-wise", "mcg", "dds", "unshared", "fast",
            "slice-wise-learned", "mcg-learned", "fast-learned")  # fmt: skip
TRACED = ("slice-wise", "unshared", "slow", "fast", "slice-wise-learned", "fast-learned")
# More arms than colours: the ones drawn together are told apart here, a learned prior is hollow.
_ORDER = ("fast", "admm-tv", "slice-wise", "mcg", "dds", "unshared", "floor", "slow", "fbpconvnet")


def _heading(title: str) -> str:
    """A title broken to the width of one narrow picture."""
    return textwrap.fill(title, 13, break_long_words=False)


def _problems(results: Results, arm: str = "floor") -> list[str]:
    rows = results.frame[(results.frame.measurement == "psnr") & (results.frame.arm == arm)]
    return list(dict.fromkeys(at["problem"] for at in rows["at"]))


def _arms(results: Results, wanted: tuple[str, ...], problem: str) -> list[str]:
    return [a for a in wanted if results.has("psnr", a, problem=problem, plane="volume")]


def _label(problem: str) -> str:
    dataset, _, task = problem.rpartition("-")
    kind, number = task.rstrip("0123456789"), task.lstrip("abcdefghijklmnopqrstuvwxyz")
    text = {"ct": f"{number} views", "la": f"{number}° of 180°", "mri": f"MRI ×{number}"}[kind]
    return f"{dataset}, {text}"


def _look(arm: str) -> dict:
    base = arm.removesuffix("-learned")
    index = _ORDER.index(base)
    return {
        "color": style.PALETTE[index],
        "marker": style.MARKERS[index],
        "markerfacecolor": "white" if base != arm else style.PALETTE[index],
    }


def _shared_legend(fig: Figure, axes: np.ndarray) -> None:
    entries: dict[str, Artist] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    fig.legend(entries.values(), entries, loc="outside lower center", ncols=4)


def _show(ax, image: np.ndarray) -> None:
    ax.imshow(image, vmin=0.0, vmax=1.0, cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def _tag(ax, text: str) -> None:
    ax.text(
        0.03, 0.04, text, transform=ax.transAxes, color="white", fontsize=6.5,
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.2, "edgecolor": "none"},
    )  # fmt: skip


def _planes(results: Results, problem: str) -> Figure:
    arms = _arms(results, SHOWN, problem)
    images = {
        plane: [results.array("floor", 0, f"truth_{problem}_{plane}")]
        + [results.array(arm, 0, f"{problem}_{plane}") for arm in arms]
        for plane in PLANES
    }
    heights = [images[plane][0].shape[0] / images[plane][0].shape[1] for plane in PLANES]
    columns = 1 + len(arms)
    width = style.WIDTHS["full"]
    cell = (width - 0.6) / columns
    fig, axes = style.subplots(
        3, columns, width="full", height=cell * sum(heights) + 0.55, squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for row, plane in enumerate(PLANES):
        for column, image in enumerate(images[plane]):
            ax = axes[row, column]
            _show(ax, image)
            if column:
                value = results.values("psnr", arms[column - 1], problem=problem, plane=plane)[0]
                _tag(ax, f"{value:.1f} dB")
            else:
                ax.set_ylabel(plane, rotation=0, ha="right", va="center", fontsize=7)
            if row == 0:
                title = results.title(arms[column - 1]) if column else "truth"
                ax.set_title(_heading(title), fontsize=6, loc="center", fontweight="normal")
    return fig


def planes_ellipsoids(results: Results) -> Figure:
    """Ellipsoids, 8 views, in three planes."""
    return _planes(results, "ellipsoids-ct8")


def planes_ct8(results: Results) -> Figure:
    """MNI152, 8 views, in three planes."""
    return _planes(results, "mni-ct8")


def planes_mri4(results: Results) -> Figure:
    """MNI152, fourfold undersampled MRI, in three planes."""
    return _planes(results, "mni-mri4")


def gallery(results: Results) -> Figure:
    """The middle coronal slice of every problem, by arm."""
    problems = _problems(results)
    arms = list(dict.fromkeys(a for p in problems for a in _arms(results, SHOWN, p)))
    shapes = [results.array("floor", 0, f"truth_{p}_coronal").shape for p in problems]
    heights = [h / w for h, w in shapes]
    columns = 1 + len(arms)
    cell = (style.WIDTHS["full"] - 0.9) / columns
    fig, axes = style.subplots(
        len(problems), columns, width="full", squeeze=False,
        height=sum(max(cell * h, 0.2) + 0.06 for h in heights) + 0.4,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for row, problem in enumerate(problems):
        _show(axes[row, 0], results.array("floor", 0, f"truth_{problem}_coronal"))
        axes[row, 0].set_ylabel(
            _label(problem).replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=6.5
        )
        for column, arm in enumerate(arms, 1):
            ax = axes[row, column]
            if arm not in _arms(results, SHOWN, problem):
                ax.set_axis_off()
                continue
            _show(ax, results.array(arm, 0, f"{problem}_coronal"))
            value = results.values("psnr", arm, problem=problem, plane="coronal")[0]
            _tag(ax, f"{value:.1f}")
        if row == 0:
            for column, text in enumerate(["truth", *map(results.title, arms)]):
                axes[0, column].set_title(
                    _heading(text), fontsize=6, loc="center", fontweight="normal"
                )
    return fig


def psnr_by_plane(results: Results) -> Figure:
    """PSNR per plane, problem and arm; lines span the seeds."""
    problems = _problems(results)
    fig, axes = style.subplots(
        1, 3, width="full", height=1.2 + 0.5 * len(problems), sharey=True, squeeze=False
    )
    drawn = list(dict.fromkeys(a for p in problems for a in _arms(results, COMPARED, p)))
    offsets = np.linspace(-0.3, 0.3, len(drawn)) if len(drawn) > 1 else [0.0]
    for ax, plane in zip(axes[0], PLANES, strict=True):
        for arm, offset in zip(drawn, offsets, strict=True):
            label: str | None = results.title(arm)
            for row, problem in enumerate(problems):
                if arm not in _arms(results, COMPARED, problem):
                    continue
                values = results.values("psnr", arm, problem=problem, plane=plane)
                y = row + offset
                look = _look(arm)
                ax.plot([values.min(), values.max()], [y, y], color=look["color"], linewidth=1.2)
                ax.plot(np.median(values), y, linestyle="none", markersize=3.8, label=label, **look)
                label = None
        ax.set(title=plane, xlabel="PSNR (dB)")
    axes[0, 0].set_yticks(range(len(problems)), [_label(p) for p in problems])
    axes[0, 0].set_ylim(len(problems) - 0.5, -0.5)
    _shared_legend(fig, axes)
    return fig


def convergence(results: Results) -> Figure:
    """Error and roughness along z over the noise levels, for the first problem of every kind."""
    chosen: dict[str, str] = {}
    for problem in _problems(results):
        if _arms(results, ("fast",), problem):
            kind = problem.rpartition("-")[2].rstrip("0123456789")
            better = _arms(results, ("slow",), problem)
            if kind not in chosen or (better and not _arms(results, ("slow",), chosen[kind])):
                chosen[kind] = problem
    problems = list(chosen.values())[:3]
    fig, axes = style.subplots(
        2, len(problems), width="full", height=4.0, sharex=True, squeeze=False
    )
    for column, problem in enumerate(problems):
        upper, lower = axes[0, column], axes[1, column]
        for arm in _arms(results, TRACED, problem):
            trace = results.array(arm, 0, f"{problem}_trace")
            look = _look(arm)
            learned = arm.endswith("-learned")
            options = {"color": look["color"], "linestyle": (0, (4, 2)) if learned else "-"}
            upper.plot(trace[:, 0], trace[:, 2], label=results.title(arm), **options)
            lower.plot(trace[:, 0], trace[:, 1], label=results.title(arm), **options)
        truth = results.values("roughness_truth", "fast", problem=problem)[0]
        style.reference(lower, truth, "truth")
        upper.set(title=_label(problem), yscale="log", xscale="log")
        lower.set(xlabel="noise level σ", yscale="log")
    axes[0, 0].invert_xaxis()  # shared by all
    axes[0, 0].set_ylabel("RMS error")
    axes[1, 0].set_ylabel("mean |D_z x|")
    _shared_legend(fig, axes)
    return fig
