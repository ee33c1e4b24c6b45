"""Arms: one relation (or family of relations) on the same synthetic measurements.

An arm sees, for each couple and each noise, the points that every other arm of the same seed sees,
and the same smooth fit of them; so differences between arms are differences between relations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from methods.diffusion_couple import smoothing, systems
from methods.diffusion_couple.forward import forward_simulation_analysis, intrinsic_from_ratio
from methods.diffusion_couple.method import (
    Component,
    Intrinsic,
    MolarVolume,
    Profile,
    boltzmann_matano,
    constant_volume,
    den_broeder,
    hall,
    ideal_volume,
    integrated,
    integrated_concentration,
    integrated_conversion,
    intrinsic_concentration,
    left_integral,
    matano_plane,
    van_loo,
    wagner,
)
from repro.job import Job

Array = NDArray[np.float64]
Y_GRID = np.linspace(0.05, 0.95, 91)  # diffusivities are reported on it
JUDGED = slice(5, 86)  # and judged for Y from 0.1 to 0.9


@dataclass(frozen=True)
class Case:
    """One measured couple: the truth, the points and their smooth fit."""

    couple: systems.Couple
    at: dict[str, Any]
    x: Array
    N: Array
    fit: smoothing.ProbitSpline
    profile: Profile

    @property
    def N_grid(self) -> Array:
        return self.profile.N_minus + Y_GRID * (self.profile.N_plus - self.profile.N_minus)

    @property
    def truth(self) -> Array:
        """True D on the grid, (91,)."""
        return self.couple.D(self.N_grid)

    def on_grid(self, D: Array) -> Array:
        """D of the nodes (n,) on the grid of compositions, (91,)."""
        return np.interp(Y_GRID, self.profile.Y, D)


def _couples(params: Any) -> Iterator[tuple[systems.Couple, dict[str, Any]]]:
    for w in params.w:
        yield systems.ni_pd_like(w), {"couple": "ni-pd", "w": w}
    for kink in params.kink:
        yield systems.ni_al_like(kink), {"couple": "ni-al", "kink": kink}
    if params.strong:
        yield systems.strong(), {"couple": "strong"}


def cases(job: Job) -> Iterator[Case]:
    """Every couple of the card at every noise; the same for all arms of a seed."""
    for couple, at in _couples(job.params):
        # one draw for all noises and volumes of a couple: only what is varied varies
        draw = job.numpy_rng("points", couple.name).standard_normal(job.params.points)
        for noise in job.params.noise:
            x, N = couple.points(job.params.points, noise * draw)
            profile = couple.profile
            fit = smoothing.fit(x, N, profile.N_minus, profile.N_plus)
            yield Case(couple, {**at, "noise": noise}, x, N, fit, fit.profile(fit.grid()))


def assumed_volume(V: MolarVolume, profile: Profile, volume: str) -> MolarVolume:
    """The volume that an arm puts into its relations: actual, or ideal between the ends."""
    return V if volume == "actual" else V.ideal_between(profile.N_minus, profile.N_plus)


def estimate(case: Case, relation: str, volume: str, component: Component) -> Array:
    """D of an arm at the nodes of the fitted profile, (n,)."""
    V, profile, t = assumed_volume(case.couple.V, case.profile, volume), case.profile, case.couple.t
    if relation == "wagner":
        return wagner(profile, V, t)
    if relation == "den-broeder":
        return den_broeder(profile, V, t, component)
    if relation == "boltzmann-matano":
        return boltzmann_matano(profile, V, t, component)
    if relation == "constant-volume":
        return constant_volume(profile, t)
    raise ValueError(f"no relation {relation!r}")


def relations(job: Job) -> None:
    """One family: interdiffusion, intrinsic and integrated coefficients against the truth."""
    p = job.params
    slopes: dict[float, list[tuple[float, float]]] = {}
    for case in cases(job):
        D = case.on_grid(estimate(case, p.relation, p.volume, p.component))
        reference = case.on_grid(wagner(case.profile, case.couple.V, case.couple.t))
        difference = _judge(job, case, D[JUDGED], case.truth[JUDGED], reference[JUDGED])
        if "w" in case.at:
            slopes.setdefault(case.at["noise"], []).append((case.at["w"], difference))
        if case.couple.x_K is not None and "w" in case.at:
            _intrinsic(job, case)
        if job.seed == 0:
            _keep(job, case, D)
    for noise, line in slopes.items():
        _linearity(job, line, noise)
    _layers(job)


def _judge(job: Job, case: Case, D: Array, truth: Array, reference: Array) -> float:
    """Measure D against the truth and against Wagner's answer from the same fit.

    Returns the mean relative difference to Wagner's.
    """
    difference = float(np.mean(D / reference - 1))
    job.measure("bias", np.mean(D / truth - 1), **case.at)
    job.measure("error", np.mean(np.abs(D / truth - 1)), **case.at)
    job.measure("difference", difference, **case.at)
    job.measure("max_difference", np.max(np.abs(D / reference - 1)), **case.at)
    return difference


def _linearity(job: Job, line: list[tuple[float, float]], noise: float) -> None:
    """Straight line through the differences of all w: slope per cm^3/mol and R^2."""
    w, difference = np.array(line).T
    if len(w) < 3 or np.ptp(difference) < 1e-9:
        return  # nothing that depends on w
    slope, offset = np.polyfit(w, difference, 1)
    residual = difference - slope * w - offset
    job.measure("slope", slope, couple="ni-pd", noise=noise)
    job.measure("linearity", 1 - residual.var() / difference.var(), couple="ni-pd", noise=noise)


def intrinsic(case: Case, relation: str, volume: str, component: Component) -> Intrinsic | None:
    """D_A and D_B of an arm at the known marker plane; None without marker or relation."""
    V, x_K = assumed_volume(case.couple.V, case.profile, volume), case.couple.x_K
    if x_K is None:
        return None
    if relation == "wagner":
        return van_loo(case.profile, V, case.couple.t, x_K)
    if relation == "den-broeder":
        return intrinsic_concentration(case.profile, V, case.couple.t, x_K, component)
    return None


def _intrinsic(job: Job, case: Case) -> None:
    p, couple = job.params, case.couple
    found = intrinsic(case, p.relation, p.volume, p.component)
    if found is None or couple.x_K is None or couple.ratio is None:
        return
    reference = van_loo(case.profile, couple.V, couple.t, couple.x_K)
    N_K = np.interp(couple.x_K, couple.profile.x, couple.profile.N)
    truth = intrinsic_from_ratio(couple.D(N_K), N_K, couple.V, couple.ratio)
    for name, D, known, true in (
        ("A", found.D_A, reference.D_A, truth[0]),
        ("B", found.D_B, reference.D_B, truth[1]),
    ):
        job.measure("intrinsic_bias", D / true - 1, component=name, **case.at)
        job.measure("intrinsic_difference", D / known - 1, component=name, **case.at)


def layer_coefficients(
    layers: systems.Layers, dx: Array, relation: str, volume: str, component: Component
) -> Array | None:
    """int D dN of the compounds from thicknesses dx (2,), m^2/s; None if the arm has no relation.

    The concentration version is brought to this unit with the volumes of the pure elements, which
    is all that can be known of the partial volumes.
    """
    V = layers.V if volume == "actual" else layers.V_ideal
    if relation == "wagner":
        return integrated(layers.N, V, dx, layers.t)
    if relation == "constant-volume":
        return integrated(layers.N, np.ones_like(V), dx, layers.t)
    if relation == "den-broeder":
        D_C = integrated_concentration(layers.N, V, dx, layers.t, component)
        return D_C / integrated_conversion(V[1:-1], V[0], V[-1], component)
    return None


def _layers(job: Job) -> None:
    p = job.params
    for layers in (systems.cu_sn_like(), systems.cu_sn_like(ideal=True)):
        draw = job.numpy_rng("layers", layers.name).standard_normal(len(layers.dx))
        for noise in p.thickness_noise:
            dx = layers.dx * (1 + noise * draw)
            D = layer_coefficients(layers, dx, p.relation, p.volume, p.component)
            if D is None:
                return
            for compound, value in zip(layers.compounds, D / layers.D_int, strict=True):
                job.measure(
                    "integrated_ratio", value, couple=layers.name, compound=compound, noise=noise
                )


def _key(at: dict[str, Any]) -> str:
    return "_".join(f"{v}" for v in at.values())


def _keep(job: Job, case: Case, D: Array) -> None:
    """What the figures draw: D on the grid, and (once, with Wagner's arm) points, fit, planes."""
    key = _key(case.at)
    job.save(f"D/{key}", D)
    if job.params.relation != "wagner" or job.params.volume != "actual":
        return
    x_M = float(matano_plane(case.profile, ideal_volume(1.0, 1.0)))
    x_K = np.nan if case.couple.x_K is None else case.couple.x_K
    job.save(f"truth/{key}", np.stack([case.N_grid, case.truth]))
    job.save(f"points/{key}", np.stack([case.x, case.N]))
    job.save(f"fit/{key}", np.stack([case.profile.x, case.profile.N]))
    job.save(f"planes/{key}", np.array([x_M, x_K]))


def hall_ends(job: Job) -> None:
    """Hall's method at both ends: the smooth profile at the points with Y from 0.02 to 0.15."""
    for case in cases(job):
        profile, t = case.profile, case.couple.t
        x_M = float(matano_plane(profile, ideal_volume(1.0, 1.0)))
        points = case.fit.profile(case.x)
        used = (points.Y > 0.02) & (points.Y < 0.98)
        x, N = case.x[used], points.N[used]
        known = wagner(profile, case.couple.V, t)
        ends = [hall(x, N, points.N_minus, points.N_plus, t, x_M, e) for e in ("left", "right")]
        D, N = (np.concatenate([getattr(end, name) for end in ends]) for name in ("D", "N"))
        _judge(job, case, D, case.couple.D(N), np.interp(N, profile.N, known))


def _line(N: Array, knots: Array, values: Array) -> Array:
    return np.interp(N, knots, values)


def inverse(job: Job) -> None:
    """Forward-simulation analysis with the actual volume, started from Wagner's estimate."""
    for case in cases(job):
        profile, couple = case.profile, case.couple
        # mole coordinate of the points, with its origin at the plane of equal moles
        xi_nodes = left_integral(1 / couple.V(profile.N), profile.x)
        xi_nodes = xi_nodes - (xi_nodes[-1] - trapezoid(profile.Y, xi_nodes))
        start = wagner(profile, couple.V, couple.t)
        found = forward_simulation_analysis(
            np.interp(case.x, profile.x, xi_nodes),
            case.N,
            profile.N_minus,
            profile.N_plus,
            partial(_line, knots=profile.N, values=start),
            couple.V,
            couple.t,
            knots=job.params.knots,
            smoothness=job.params.smoothness,
        )
        D = found.D(case.N_grid)
        reference = case.on_grid(start)
        _judge(job, case, D[JUDGED], case.truth[JUDGED], reference[JUDGED])
        job.measure("misfit", found.misfit, **case.at)
        if job.seed == 0:
            job.save(f"D/{_key(case.at)}", D)


def bootstrap(job: Job) -> None:
    """How honest the 95 % interval of the bootstrap is: its coverage of the truth and its width."""
    for case in cases(job):
        rng = job.numpy_rng("bootstrap", _key(case.at))
        resamples = smoothing.bootstrap(case.fit, case.N, rng, resamples=job.params.resamples)
        profiles = resamples.profile(case.profile.x)
        D = wagner(profiles, case.couple.V, case.couple.t)
        curves = np.stack([np.interp(Y_GRID, Y, d) for Y, d in zip(profiles.Y, D, strict=True)])
        low, high = np.percentile(curves, [2.5, 97.5], axis=0)
        inside = (low <= case.truth) & (case.truth <= high)
        job.measure("coverage", np.mean(inside[JUDGED]), **case.at)
        job.measure("interval", np.mean(((high - low) / case.truth)[JUDGED]) / 2, **case.at)
        if job.seed == 0:
            job.save(f"interval/{_key(case.at)}", np.stack([low, high]))
