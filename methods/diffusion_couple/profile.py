"""A person's own diffusion couple: a measured profile in, diffusivities with intervals out.

The profile is a CSV with the columns `x_um` (micrometres) and `N_B` (mole fraction of B), as an
instrument or a spreadsheet writes it (`methods.diffusion_couple.points`). What the CSV cannot say
stands in a YAML beside it::

    t_s: 360000            # annealing time, s
    T_C: 1000              # temperature, C
    N_left: 0.0            # end compositions, mole fraction of B
    N_right: 1.0
    V_A: 6.59              # molar volumes, cm3 per mole of atoms
    V_B: 8.86
    V_m: {w: 0.4}          # optional: excess w N(1-N), cm3/mol, or
    # V_m: {table: [[0, 6.59], [0.5, 7.83], [1, 8.86]], interpolation: linear}
    x_K_um: 1800           # optional: Kirkendall plane; it gives D_A and D_B
    layers:                # optional, from left to right: line compounds
      - {name: Cu3Sn, N: 0.25, V_m: 8.59, thickness_um: 7.2, sd_um: 0.1, x_left_um: 120}

What cannot be (metres under `x_um`, hours under `t_s`, end compositions that the profile does not
have) is refused or printed first (`methods.diffusion_couple.plausible`).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tabulate import tabulate

from methods.diffusion_couple import plausible, posterior
from methods.diffusion_couple.config import CM3, Config, LayerCard, read_config
from methods.diffusion_couple.method import (
    Component,
    Intrinsic,
    MolarVolume,
    Profile,
    constant_volume,
    den_broeder,
    ideal_volume,
    integrated,
    integrated_concentration,
    integrated_in_profile,
    intrinsic_concentration,
    matano_plane,
    van_loo,
    wagner,
)
from methods.diffusion_couple.points import UM, read_points
from repro.errors import ReproError
from repro.outputs import Folder

Array = NDArray[np.float64]
Y_GRID = np.linspace(0.05, 0.95, 91)
DRAWS, SEED = 400, 0
ENOUGH = 50  # points for intervals that hold the truth as often as they say
COVERS = (
    "On simulated couples of 55 to 1001 points with noise of 0.1 to 2 % of the range, the 95 % "
    "intervals of Wagner's coefficient held the truth at 95 to 100 % of the compositions from "
    "Y = 0.1 to 0.9; with 30 points over a sharp minimum of D, at 88 to 96 %."
)


@dataclass
class Estimate:
    """A number with its 95 % interval; `low` and `high` are None where no interval was made.

    why_not: why there is no number.
    """

    value: float
    low: float | None = None
    high: float | None = None
    why_not: str = ""

    def __str__(self) -> str:
        if self.why_not:
            return f"none: {self.why_not}"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass
class Analysis:
    """All that was read from one profile. Positions are those of the user's file (m)."""

    config: Config
    x: Array
    N: Array
    fit: tuple[Array, Array] | None = None
    table: pd.DataFrame | None = None
    differences: dict[str, tuple[float, float]] = field(default_factory=dict)
    planes: dict[str, Estimate] = field(default_factory=dict)
    intrinsic: dict[str, tuple[Estimate, Estimate]] = field(default_factory=dict)
    layers: pd.DataFrame | None = None
    noise: float | None = None
    notes: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


RELATIONS: dict[str, Callable[[Profile, MolarVolume, float], Array]] = {
    "D_wagner": wagner,
    "D_denbroeder_CB": lambda profile, V, t: den_broeder(profile, V, t, "B"),
    "D_denbroeder_CA": lambda profile, V, t: den_broeder(profile, V, t, "A"),
    "D_const": lambda profile, V, t: constant_volume(profile, t),
}
NAMES = {
    "D_wagner": "Wagner",
    "D_denbroeder_CB": "den Broeder, C_B",
    "D_denbroeder_CA": "den Broeder, C_A",
    "D_const": "constant volume",
}


def _interval(main: float | Array, draws: Array) -> Estimate:
    """The estimate with the interval of the draws (r,), which is widened to hold it."""
    low, high = _bounds(np.asarray(main), draws)
    return Estimate(float(main), float(low), float(high))


def _bounds(main: Array, draws: Array) -> tuple[Array, Array]:
    """The 95 % interval of draws (r, ...), widened to hold the estimate (...)."""
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return np.minimum(low, main), np.maximum(high, main)


def analyse(
    x: Array, N: Array, config: Config, progress: Callable[[str], object] = str
) -> Analysis:
    """Estimate everything that a profile and its configuration allow.

    Args:
        x, N: (n,) points, x (m) not falling.
        progress: takes a line on what is being done.

    Raises:
        ReproError: the points contradict the configuration, cannot be a profile, or cannot be
            fitted.
    """
    found = Analysis(config, x, N)
    found.odd += plausible.check_time(config) + plausible.check_points(x, N, config)
    mirrored = config.N_left > config.N_right
    sign = -1.0 if mirrored else 1.0
    if mirrored:
        # every relation is written for a composition that rises with x
        found.notes.append("N_B falls with x: the profile was mirrored for the analysis.")
        x, N = -x[::-1], N[::-1]
    low, high = sorted((config.N_left, config.N_right))
    found.odd += plausible.check_shape(x, N, config)
    if config.layers:
        _layers(found, x, N, (low, high), mirrored)
        found.notes.append(
            "The profile crosses line compounds, where N_B jumps and D(N) has no meaning: the "
            "integrated coefficients are given instead."
        )
        return found
    try:
        fit = posterior.fit(
            x, N, low, high, np.random.default_rng(SEED), draws=DRAWS, progress=progress
        )
    except ValueError as error:
        raise ReproError(
            f"the profile cannot be fitted: {error}; check N_left, N_right and the points"
        ) from error
    found.odd += plausible.check_fit(sign * x, N, fit, high - low)
    found.noise = fit.noise
    if len(x) < ENOUGH:
        found.notes.append(
            f"Fewer than {ENOUGH} points: the intervals may hold the truth less often than 95 % "
            "(88 % in the worst of the simulated couples with 30 points)."
        )
    grid = fit.curve.grid()
    profile, many = fit.curve.profile(grid), fit.draws.profile(grid)
    found.fit = (sign * grid[:: int(sign)], profile.N[:: int(sign)])
    V, t = config.volume(), config.t_s
    _diffusivities(found, profile, many, V, t)
    planes: tuple[tuple[str, MolarVolume, Component], ...] = (
        ("Matano plane, constant volume", ideal_volume(1.0, 1.0), "B"),
        ("Matano plane of C_B", V, "B"),
        ("Matano plane of C_A", V, "A"),
    )
    for name, volume, component in planes:
        found.planes[name] = _interval(
            sign * float(matano_plane(profile, volume, component)),
            sign * matano_plane(many, volume, component),
        )
    if config.x_K_um is not None:
        _kirkendall(found, profile, many, V, sign * config.x_K_um * UM)
    return found


def _diffusivities(
    found: Analysis, profile: Profile, many: Profile, V: MolarVolume, t: float
) -> None:
    """Fill in `table` and `differences`.

    Raises:
        ReproError: a coefficient is no number, or none that a solid has.
    """
    N_grid = profile.N_minus + Y_GRID * (profile.N_plus - profile.N_minus)
    table = {"N": N_grid}
    curves = {}
    for name, relation in RELATIONS.items():
        main = np.interp(Y_GRID, profile.Y, relation(profile, V, t))
        D = relation(many, V, t)
        draws = np.stack([np.interp(Y_GRID, Y, d) for Y, d in zip(many.Y, D, strict=True)])
        if not (np.isfinite(main).all() and np.isfinite(draws).all()):
            raise ReproError(
                f"{NAMES[name]}'s relation gives no number at some compositions, where the fit is "
                "flat or the concentration stands still; check V_m and the points"
            )
        low, high = _bounds(main, draws)
        curves[name] = (main, draws)
        table |= {name: main, f"{name}_low": low, f"{name}_high": high}
    found.odd += plausible.check_diffusivities(table["D_wagner"])
    found.table = pd.DataFrame(table)
    main, draws = curves["D_wagner"]
    for name, (other, others) in curves.items():
        if name != "D_wagner":
            paired = np.max(np.abs(others / draws - 1), axis=1)
            found.differences[name] = (
                float(np.max(np.abs(other / main - 1))),
                float(np.percentile(paired, 97.5)),
            )


def _kirkendall(
    found: Analysis, profile: Profile, many: Profile, V: MolarVolume, x_K: float
) -> None:
    t = found.config.t_s
    where = np.full(many.N.shape[:-1], x_K)
    relations: dict[str, Callable[..., Intrinsic]] = {
        "van Loo": van_loo,
        "concentration, C_B": partial(intrinsic_concentration, component="B"),
        "concentration, C_A": partial(intrinsic_concentration, component="A"),
    }
    try:
        for name, relation in relations.items():
            one, all_ = relation(profile, V, t, x_K), relation(many, V, t, where)
            found.intrinsic[name] = (_intrinsic(one.D_A, all_.D_A), _intrinsic(one.D_B, all_.D_B))
        found.planes["N_B at the Kirkendall plane"] = _interval(one.N, all_.N)
    except ValueError as error:
        raise ReproError(
            f"x_K_um = {found.config.x_K_um:g}: {error}; check its position"
        ) from error
    if any(D.why_not for pair in found.intrinsic.values() for D in pair):
        found.odd.append(
            f"x_K_um = {found.config.x_K_um:g} would need a negative intrinsic coefficient: is it "
            "the plane of the markers, and V_m right?"
        )


def _intrinsic(D: Array, draws: Array) -> Estimate:
    if not np.isfinite(D) or D <= 0:
        return Estimate(np.nan, why_not="not positive")
    if not np.isfinite(draws).all():
        return Estimate(float(D))
    return _interval(D, draws)


def _layers(found: Analysis, x: Array, N: Array, ends: tuple[float, float], mirrored: bool) -> None:
    config, V = found.config, found.config.volume()
    layers = config.layers[::-1] if mirrored else config.layers
    N_all = np.array([ends[0], *(layer.N for layer in layers), ends[1]])
    V_all = np.array([V(ends[0]), *(layer.V_m * CM3 for layer in layers), V(ends[1])], dtype=float)
    dx = np.array([layer.thickness_um for layer in layers]) * UM
    if dx.sum() > np.ptp(x):
        raise ReproError(
            f"the layers are {dx.sum() / UM:g} um thick together, the profile only "
            f"{np.ptp(x) / UM:g} um wide; check the units of thickness_um and x_um"
        )
    D_N = integrated(N_all, V_all, dx, config.t_s)
    found.odd += plausible.check_diffusivities(D_N)
    D_C = {c: integrated_concentration(N_all, V_all, dx, config.t_s, c) for c in ("B", "A")}
    rows = {
        "layer": [layer.name for layer in layers],
        "thickness_um": dx / UM,
        "D_int_N": D_N,
        "D_int_CB": D_C["B"],
        "D_int_CA": D_C["A"],
    }
    if all(layer.sd_um for layer in layers):
        sd = np.array([layer.sd_um for layer in layers]) * UM
        draws = dx + sd * np.random.default_rng(SEED).standard_normal((2000, len(dx)))
        spread = integrated(N_all, V_all, np.clip(draws, 0.0, None), config.t_s)
        rows["D_int_N_low"], rows["D_int_N_high"] = np.percentile(spread, [2.5, 97.5], axis=0)
    if all(layer.x_left_um is not None for layer in layers):
        rows["D_int_N_profile"] = _whole_profile(found, layers, x, N, ends, mirrored, V)
    else:
        found.notes.append(
            "Solubility in the end members is neglected; give x_left_um of every layer to take the "
            "measured profile beside the layers into account."
        )
    found.layers = pd.DataFrame(rows)


def _whole_profile(
    found: Analysis, layers: list[LayerCard], x: Array, N: Array, ends: tuple[float, float],
    mirrored: bool, V: MolarVolume,
) -> list[float]:  # fmt: skip
    """D_int with integrals over the measured points outside the block of layers."""
    starts = [
        UM * (-edge - layer.thickness_um if mirrored else edge)
        for layer in layers
        if (edge := layer.x_left_um) is not None
    ]
    stops = [a + UM * layer.thickness_um for a, layer in zip(starts, layers, strict=True)]
    for before, after, layer in zip(stops, starts[1:], layers[1:], strict=False):
        if abs(after - before) > 0.1 * UM + 1e-3 * (stops[-1] - starts[0]):
            raise ReproError(
                f"layer {layer.name} does not begin where its neighbour ends; check x_left_um and "
                "thickness_um of the layers"
            )
    left, right = x < starts[0], x > stops[-1]
    if not left.any() or not right.any():
        raise ReproError("no points lie beside the layers; check x_left_um against the profile")
    # a compound's composition cannot be exceeded beside it
    N_left, N_right = np.minimum(N[left], layers[0].N), np.maximum(N[right], layers[-1].N)
    nodes: list[tuple[ArrayLike, ArrayLike, ArrayLike]] = [
        (x[left], N_left, V(N_left)),
        ([starts[0]], N_left[-1:], V(N_left[-1:])),
    ]
    for start, stop, layer in zip(starts, stops, layers, strict=True):
        nodes.append(([start, stop], [layer.N] * 2, [layer.V_m * CM3] * 2))
    nodes += [([stops[-1]], N_right[:1], V(N_right[:1])), (x[right], N_right, V(N_right))]
    X, M, W = (np.concatenate([np.asarray(n[i], dtype=float) for n in nodes]) for i in range(3))
    return [
        integrated_in_profile(
            X, M, W, start, stop, layer.N, layer.V_m * CM3, *ends, found.config.t_s
        )
        for start, stop, layer in zip(starts, stops, layers, strict=True)
    ]


def report(found: Analysis, source: str) -> str:
    """The analysis as Markdown."""
    c = found.config
    lines = [
        f"# Diffusion couple: {source}",
        "",
        f"{len(found.x)} points, {c.t_s / 3600:g} h at {c.T_C:g} °C, N_B from {c.N_left:g} to "
        f"{c.N_right:g}. Intervals: 95 %.",
        "",
    ]
    if found.noise is not None:
        lines[2] += f" Scatter of the points: {found.noise:.2g} (one standard deviation)."
    if found.odd:
        lines += ["## To be checked first", "", *(f"- {odd}" for odd in found.odd), ""]
    if found.table is not None:
        lines += _report_diffusivities(found, found.table)
    if found.planes:
        rows = [
            [name, str(e) if name.startswith("N_B") else _in_um(e)]
            for name, e in found.planes.items()
        ]
        lines += ["## Planes", "", tabulate(rows, ["plane", "value"], tablefmt="github"), ""]
    if found.intrinsic:
        rows = [[name, str(A), str(B), _ratio(B, A)] for name, (A, B) in found.intrinsic.items()]
        header = ["relation", "D_A", "D_B", "D_B / D_A"]
        lines += ["## Intrinsic coefficients at the Kirkendall plane, m²/s", ""]
        lines += [tabulate(rows, header, tablefmt="github"), ""]
    if found.layers is not None:
        lines += [
            "## Integrated coefficients",
            "",
            "D_int_N in m²/s (Wagner; `_profile` with the measured profile beside the layers), "
            "D_int_CB and D_int_CA in mol/(m s).",
            "",
            tabulate(
                found.layers, headers="keys", tablefmt="github", showindex=False, floatfmt=".4g"
            ),
            "",
        ]
    if found.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in found.notes), ""]
    return "\n".join(lines)


def _report_diffusivities(found: Analysis, table: pd.DataFrame) -> list[str]:
    picked = table.iloc[5:86:10]
    rows = [
        [f"{row.N:.3f}"]
        + [str(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])) for name in RELATIONS]
        for _, row in picked.iterrows()
    ]
    lines = ["## Interdiffusion coefficient, m²/s", ""]
    header = ["N_B", *NAMES.values()]
    lines += [tabulate(rows, header, tablefmt="github", disable_numparse=True), ""]
    lines += ["## How far the relations are apart", ""]
    width = (table.D_wagner_high - table.D_wagner_low) / table.D_wagner / 2
    rows = [
        [NAMES[n], f"{100 * d:.3g} %", f"{100 * high:.3g} %", "not available"]
        for n, (d, high) in found.differences.items()
    ]
    header = ["relation", "largest difference to Wagner", "95 % bound", "paper"]
    lines += [tabulate(rows, header, tablefmt="github"), ""]
    lines += [
        f"For comparison, the 95 % interval of Wagner's coefficient is ± "
        f"{100 * width.mean():.2g} % on average. Wagner's relation is exact for every molar "
        "volume; the others assume conserved volume, and their intervals hold no error of "
        f"that. {COVERS}",
        "",
    ]
    return lines


def _ratio(B: Estimate, A: Estimate) -> str:
    return "none" if A.why_not or B.why_not else f"{B.value / A.value:.4g}"


def _in_um(e: Estimate) -> str:
    if e.low is None or e.high is None:
        return f"{e.value / UM:.2f} µm"
    return f"{e.value / UM:.2f} µm ({e.low / UM:.2f} to {e.high / UM:.2f})"


def _plot(found: Analysis) -> bytes:
    """The figure as PNG."""
    from methods.diffusion_couple.figures import draw_diffusivities, draw_profile
    from repro.suite.report import style

    c = found.config
    with style.context():
        if found.table is None or found.fit is None:
            figure, ax = style.subplots(width="full", height=3.2)
            ax.plot(found.x / UM, found.N, "o-", color=style.INK, markersize=3, linewidth=0.8)
            edge = None
            for number, layer in enumerate(c.layers):
                if layer.x_left_um is not None:
                    edge = layer.x_left_um + layer.thickness_um
                    ax.axvspan(layer.x_left_um, edge, color=style.PALETTE[number], alpha=0.2,
                               label=layer.name)  # fmt: skip
            if edge is not None:
                ax.legend()
            ax.set(xlabel="position $x$ (µm)", ylabel="mole fraction $N_B$")
        else:
            figure, (left, right) = style.subplots(1, 2, width="full", height=3.1)
            x_K = None if c.x_K_um is None else c.x_K_um * UM
            draw_profile(
                left, np.stack([found.x, found.N]), np.stack(found.fit), (c.N_left, c.N_right),
                found.planes["Matano plane, constant volume"].value, x_K,
            )  # fmt: skip
            table = found.table
            arms = ("wagner", "concentration-cb", "concentration-ca", "constant-volume")
            draw_diffusivities(
                right,
                table["N"].to_numpy(),
                {a: table[n].to_numpy() for a, n in zip(arms, RELATIONS, strict=True)},
                interval=table[["D_wagner_low", "D_wagner_high"]].to_numpy().T,
            )
            right.legend(fontsize=7)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
    return picture.getvalue()


def profile_cli(profile: Path, config: Path | None, out: Path) -> None:
    """Analyse a measured profile and write tables and a plot.

    Writes into the folder `out`: `<name>.csv` (N and D in m^2/s by Wagner, den Broeder from C_B and
    from C_A, constant volume, each with `_low` and `_high` of its 95 % interval), or for couples
    with line compounds `<name>_layers.csv`; `<name>.md`; `<name>.png`; and `<name>.files.json`,
    the list of these, without which no file there is replaced. Prints the Markdown.

    Args:
        profile: CSV with the columns x_um and N_B.
        config: its YAML; default `<profile>.yaml` beside the CSV.
        out: folder, made if need be.

    Raises:
        ReproError: a mistake in either file, or `out` cannot be written, in one line.
    """
    points = read_points(profile)
    config = config or profile.with_suffix(".yaml")
    settings = read_config(config)
    name = profile.stem
    table = f"{name}_layers.csv" if settings.layers else f"{name}.csv"
    folder = Folder(out, name, "name another folder with --out")
    folder.claim([table, f"{name}.md", f"{name}.png"], [profile, config])
    found = analyse(points.x, points.N, settings, _progress)
    found.notes += points.notes
    for odd in found.odd:
        print(f"warning: {odd}", file=sys.stderr)
    data = found.layers if found.table is None else found.table
    assert data is not None
    text = report(found, profile.name)
    _progress("drawing the figure")
    folder.write(
        {
            table: data.to_csv(index=False, float_format="%.6g").encode(),
            f"{name}.md": text.encode(),
            f"{name}.png": _plot(found),
        }
    )
    print(text)
    print(f"written to {out}")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
