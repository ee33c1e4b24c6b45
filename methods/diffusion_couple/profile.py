"""A user's own diffusion couple: a measured profile in, diffusivities with intervals out.

The profile is a CSV with the columns `x_um` (micrometres) and `N_B` (mole fraction of B); lines
that begin with # are comments. What the CSV cannot say stands in a YAML beside it::

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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator
from tabulate import tabulate

from methods.diffusion_couple import smoothing
from methods.diffusion_couple.method import (
    Component,
    Intrinsic,
    MolarVolume,
    Profile,
    constant_volume,
    den_broeder,
    excess_volume,
    ideal_volume,
    integrated,
    integrated_concentration,
    integrated_in_profile,
    intrinsic_concentration,
    matano_plane,
    table_volume,
    van_loo,
    wagner,
)
from repro.errors import ReproError
from repro.suite.cards.base import Strict
from repro.suite.cards.loading import read

Array = NDArray[np.float64]
CM3, UM = 1e-6, 1e-6
Y_GRID = np.linspace(0.05, 0.95, 91)
RESAMPLES, SEED = 200, 0
FEWEST, MOST = 8, 2000

Fraction = Annotated[float, Field(ge=0, le=1)]
Volume = Annotated[float, Field(ge=1, le=200, description="cm3 per mole of atoms")]


class VolumeCard(Strict):
    """V_m(N): an excess parameter w (cm3/mol) over the ideal line, or a table of [N, cm3/mol]."""

    w: float | None = None
    table: list[tuple[Fraction, Volume]] | None = None
    interpolation: Literal["linear", "pchip"] = "linear"

    @model_validator(mode="after")
    def _one(self):
        if (self.w is None) == (self.table is None):
            raise ValueError("expected either `w` (excess, cm3/mol) or `table` ([N, cm3/mol] rows)")
        if self.table is not None:
            N = [row[0] for row in self.table]
            if len(N) < 2 or any(b <= a for a, b in zip(N, N[1:], strict=False)):
                raise ValueError("`table` needs two or more rows with N rising")
        return self


class LayerCard(Strict):
    """A line compound: composition, molar volume (cm3 per mole of atoms), thickness."""

    name: str
    N: Fraction
    V_m: Volume
    thickness_um: float = Field(gt=0)
    sd_um: float | None = Field(None, gt=0)
    x_left_um: float | None = None


class Config(Strict):
    """What the CSV of a profile cannot say; units are in the names, volumes in cm3/mol."""

    t_s: float = Field(gt=0)
    T_C: float = Field(gt=-273.15)
    N_left: Fraction
    N_right: Fraction
    V_A: Volume
    V_B: Volume
    V_m: VolumeCard = VolumeCard(w=0.0)
    x_K_um: float | None = None
    layers: list[LayerCard] = []

    @model_validator(mode="after")
    def _sensible(self):
        if self.N_left == self.N_right:
            raise ValueError("N_left equals N_right; a couple needs two compositions")
        compositions = [self.N_left, *(layer.N for layer in self.layers), self.N_right]
        steps = np.diff(compositions) * np.sign(self.N_right - self.N_left)
        if np.any(steps <= 0):
            raise ValueError(
                "the compositions of `layers` must run from N_left to N_right, left to right"
            )
        placed = [layer.x_left_um is not None for layer in self.layers]
        if any(placed) and not all(placed):
            raise ValueError("give `x_left_um` for all layers or for none")
        return self

    def volume(self) -> MolarVolume:
        """V_m(N) in m^3/mol."""
        if self.V_m.table is not None:
            N, V = np.array(self.V_m.table).T
            return table_volume(N, V * CM3, self.V_m.interpolation)
        return excess_volume(self.V_A * CM3, self.V_B * CM3, (self.V_m.w or 0.0) * CM3)


def read_config(path: Path) -> Config:
    """Read the YAML of a profile.

    Raises:
        ReproError: one line with the file, the key and what was expected.
    """
    if not path.is_file():
        raise ReproError(
            f"{path} is missing; write it beside the profile with t_s, T_C, N_left, N_right, V_A, "
            "V_B (and V_m, x_K_um, layers if known), or name it with --config"
        )
    return read(path, Config)


def read_points(path: Path) -> tuple[Array, Array]:
    """Read x (m) and N from the CSV of a profile, shapes (n,).

    Raises:
        ReproError: no such file or column, a value that is no number, positions that do not rise,
            too few or too many points, or values that are no mole fractions.
    """
    if not path.is_file():
        raise ReproError(f"{path} is missing; give a CSV with the columns x_um and N_B")
    try:
        table = pd.read_csv(path, comment="#", skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as error:
        raise ReproError(
            f"{path} is not a CSV: {str(error).strip()}; expected a header `x_um,N_B` and numbers"
        ) from error
    for column in ("x_um", "N_B"):
        if column not in table.columns:
            raise ReproError(
                f"{path} has no column `{column}` (it has {', '.join(map(str, table.columns))}); "
                "the header must name x_um and N_B"
            )
    values = table[["x_um", "N_B"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ReproError(
            f"{path}: point {bad[0] + 1} has no number in x_um or N_B; remove or mend that row"
        )
    x, N = values.T
    if not FEWEST <= len(x) <= MOST:
        remedy = "measure more" if len(x) < FEWEST else "average neighbours first"
        raise ReproError(f"{path} has {len(x)} points, expected {FEWEST} to {MOST}; {remedy}")
    if np.all(np.diff(x) < 0):
        x, N = x[::-1], N[::-1]
    stuck = np.flatnonzero(np.diff(x) <= 0)
    if len(stuck):
        raise ReproError(
            f"{path}: x_um does not rise from point {stuck[0] + 1} to {stuck[0] + 2} "
            f"({x[stuck[0]]:g}, {x[stuck[0] + 1]:g}); sort the rows, average repeated positions"
        )
    if N.max() > 1.05 or N.min() < -0.05:
        worst = N.max() if N.max() > 1.05 else N.min()
        hint = "divide at.% by 100" if worst > 1.5 else "subtract the background"
        raise ReproError(f"{path}: N_B reaches {worst:g}, which is no mole fraction; {hint}")
    return x * UM, N


@dataclass
class Estimate:
    """A number with its 95 % interval; `low` and `high` are None where no interval was made."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
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
    notes: list[str] = field(default_factory=list)


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


def _interval(main: float | Array, resamples: Array) -> Estimate:
    low, high = np.nanpercentile(resamples, [2.5, 97.5])
    return Estimate(float(main), float(low), float(high))


def analyse(x: Array, N: Array, config: Config) -> Analysis:
    """Estimate everything that a profile and its configuration allow.

    Args:
        x, N: (n,) points, x (m) rising.

    Raises:
        ReproError: the points contradict the configuration or cannot be fitted.
    """
    found = Analysis(config, x, N)
    mirrored = config.N_left > config.N_right
    ends = (config.N_left, config.N_right)
    _check_ends(found, ends)
    if mirrored:
        # every relation is written for a composition that rises with x
        found.notes.append("N_B falls with x: the profile was mirrored for the analysis.")
        x, N, ends = -x[::-1], N[::-1], ends[::-1]
    sign = -1.0 if mirrored else 1.0
    if config.layers:
        _layers(found, x, N, ends, mirrored)
        found.notes.append(
            "The profile crosses line compounds, where N_B jumps and D(N) has no meaning: the "
            "integrated coefficients are given instead."
        )
        return found
    try:
        spline = smoothing.fit(x, N, *ends)
        resampled = smoothing.bootstrap(spline, N, np.random.default_rng(SEED), resamples=RESAMPLES)
    except ValueError as error:
        raise ReproError(
            f"the profile cannot be fitted: {error}; check N_left, N_right and the points"
        ) from error
    grid = spline.grid()
    profile, many = spline.profile(grid), resampled.profile(grid)
    found.fit = (sign * grid[:: int(sign)], profile.N[:: int(sign)])
    V, t = config.volume(), config.t_s
    _diffusivities(found, profile, many, V, t)
    planes: tuple[tuple[str, MolarVolume, Component], ...] = (
        ("Matano plane, constant volume", ideal_volume(1.0, 1.0), "B"),
        ("Matano plane of C_B", V, "B"),
        ("Matano plane of C_A", V, "A"),
    )
    for name, volume, component in planes:
        plane = _interval(
            sign * float(matano_plane(profile, volume, component)),
            sign * matano_plane(many, volume, component),
        )
        found.planes[name] = plane
    if config.x_K_um is not None:
        _kirkendall(found, profile, many, V, sign * config.x_K_um * UM)
    return found


def _check_ends(found: Analysis, ends: tuple[float, float]) -> None:
    edge = max(2, len(found.N) // 20)
    first, last = found.N[:edge].mean(), found.N[-edge:].mean()
    if (last - first) * (ends[1] - ends[0]) <= 0:
        raise ReproError(
            f"N_B runs from {first:.3g} to {last:.3g} but the configuration says from {ends[0]:g} "
            f"to {ends[1]:g}; swap N_left and N_right"
        )
    for side, value, end in (("left", first, ends[0]), ("right", last, ends[1])):
        missing = abs(value - end) / abs(ends[1] - ends[0])
        if missing > 0.02:
            found.notes.append(
                f"The {side} end of the profile lies {100 * missing:.0f} % of the range away from "
                f"N_{side} = {end:g}: the fit continues it, and coefficients near that end rest on "
                "that continuation."
            )


def _diffusivities(
    found: Analysis, profile: Profile, many: Profile, V: MolarVolume, t: float
) -> None:
    N_grid = profile.N_minus + Y_GRID * (profile.N_plus - profile.N_minus)
    table = {"N": N_grid}
    curves = {}
    for name, relation in RELATIONS.items():
        main = np.interp(Y_GRID, profile.Y, relation(profile, V, t))
        D = relation(many, V, t)
        resamples = np.stack([np.interp(Y_GRID, Y, d) for Y, d in zip(many.Y, D, strict=True)])
        low, high = np.percentile(resamples, [2.5, 97.5], axis=0)
        curves[name] = (main, resamples)
        table |= {name: main, f"{name}_low": low, f"{name}_high": high}
    found.table = pd.DataFrame(table)
    main, resamples = curves["D_wagner"]
    for name, (other, others) in curves.items():
        if name != "D_wagner":
            paired = np.max(np.abs(others / resamples - 1), axis=1)
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
            found.intrinsic[name] = (
                _interval(one.D_A, all_.D_A),
                _interval(one.D_B, all_.D_B),
            )
        found.planes["N_B at the Kirkendall plane"] = _interval(one.N, all_.N)
    except ValueError as error:
        raise ReproError(
            f"x_K_um = {found.config.x_K_um:g}: {error}; check its position"
        ) from error


def _layers(found: Analysis, x: Array, N: Array, ends: tuple[float, float], mirrored: bool) -> None:
    config, V = found.config, found.config.volume()
    layers = config.layers[::-1] if mirrored else config.layers
    N_all = np.array([ends[0], *(layer.N for layer in layers), ends[1]])
    V_all = np.array([V(ends[0]), *(layer.V_m * CM3 for layer in layers), V(ends[1])], dtype=float)
    dx = np.array([layer.thickness_um for layer in layers]) * UM
    D_N = integrated(N_all, V_all, dx, config.t_s)
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
    if found.table is not None:
        picked = found.table.iloc[5:86:10]
        rows = [
            [f"{row.N:.3f}"]
            + [
                str(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]))
                for name in RELATIONS
            ]
            for _, row in picked.iterrows()
        ]
        lines += ["## Interdiffusion coefficient, m²/s", ""]
        header = ["N_B", *NAMES.values()]
        lines += [tabulate(rows, header, tablefmt="github", disable_numparse=True), ""]
        lines += ["## How far the relations are apart", ""]
        width = (found.table.D_wagner_high - found.table.D_wagner_low) / found.table.D_wagner / 2
        rows = [
            [NAMES[n], f"{100 * d:.3g} %", f"{100 * high:.3g} %", "not available"]
            for n, (d, high) in found.differences.items()
        ]
        header = ["relation", "largest difference to Wagner", "95 % bound", "paper"]
        lines += [tabulate(rows, header, tablefmt="github"), ""]
        lines += [
            f"For comparison, the 95 % interval of Wagner's coefficient is ± "
            f"{100 * width.mean():.2g} % on average. Wagner's relation is exact for every molar "
            "volume; the others assume conserved volume. The intervals hold the scatter of the "
            "points, not the bias of smoothing: where D bends sharply or points are few they are "
            "too narrow (measured by the arm `bootstrap`).",
            "",
        ]
    if found.planes:
        rows = [
            [name, str(e) if name.startswith("N_B") else _in_um(e)]
            for name, e in found.planes.items()
        ]
        lines += ["## Planes", "", tabulate(rows, ["plane", "value"], tablefmt="github"), ""]
    if found.intrinsic:
        rows = [
            [name, str(A), str(B), f"{B.value / A.value:.4g}"]
            for name, (A, B) in found.intrinsic.items()
        ]
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


def _in_um(e: Estimate) -> str:
    if e.low is None or e.high is None:
        return f"{e.value / UM:.2f} µm"
    return f"{e.value / UM:.2f} µm ({e.low / UM:.2f} to {e.high / UM:.2f})"


def _plot(found: Analysis, path: Path) -> None:
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
        figure.savefig(path, format="png")


def profile_cli(profile: Path, config: Path | None, out: Path) -> None:
    """Analyse a measured profile and write tables and a plot.

    Writes into the folder `out`: `<name>.csv` (N and D in m^2/s by Wagner, den Broeder from C_B and
    from C_A, constant volume, each with `_low` and `_high` of its 95 % interval), or for couples
    with line compounds `<name>_layers.csv`; `<name>.md`; `<name>.png`. Prints the Markdown.

    Args:
        profile: CSV with the columns x_um and N_B.
        config: its YAML; default `<profile>.yaml` beside the CSV.
        out: folder, made if need be.

    Raises:
        ReproError: a mistake in either file, in one line.
    """
    settings = read_config(config or profile.with_suffix(".yaml"))
    found = analyse(*read_points(profile), settings)
    out.mkdir(parents=True, exist_ok=True)
    if found.table is not None:
        found.table.to_csv(out / f"{profile.stem}.csv", index=False, float_format="%.6g")
    if found.layers is not None:
        found.layers.to_csv(out / f"{profile.stem}_layers.csv", index=False, float_format="%.6g")
    text = report(found, profile.name)
    (out / f"{profile.stem}.md").write_text(text, encoding="utf-8")
    _plot(found, out / f"{profile.stem}.png")
    print(text)
    print(f"written to {out}")
