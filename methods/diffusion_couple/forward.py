r"""Couples whose diffusivities are known: the ground truth against which relations are measured.

In the mole coordinate xi, d xi = dx / V_m, the balance of moles reads, for any V_m(N),

    dN/dt = d/dxi ( Dm dN/dxi ),   Dm = D / V_m^2

so that a profile solved in xi and mapped to x by x = int V_m dxi has a known D(N). Sources: the
balance of moles itself; Boltzmann's similarity variable for the closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_banded
from scipy.optimize import brentq, least_squares, root
from scipy.special import erf

from methods.diffusion_couple.method import (
    MolarVolume,
    Profile,
    at_plane,
    left_integral,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MoleProfile:
    """A profile in the mole coordinate: xi, N, dN/dxi, each (..., n); mol/m^2, 1, m^2/mol."""

    xi: Array
    N: Array
    dNdxi: Array
    N_minus: float
    N_plus: float

    def in_space(self, V: MolarVolume, x: Array | None = None) -> Profile:
        """The profile against x, with x = 0 at xi = 0, unless the positions are given."""
        V_m = V(self.N)
        if x is None:
            x = left_integral(V_m, self.xi)
            x = x - np.asarray(at_plane(self.xi, x, 0.0))[..., None]
        return Profile(x, self.N, self.dNdxi / V_m, self.N_minus, self.N_plus)


def manufactured(
    V: MolarVolume,
    N_minus: float = 0.0,
    N_plus: float = 1.0,
    *,
    z: ArrayLike | None = None,
    Dm: float = 1.0,
    t: float = 1.0,
    substeps: int = 20,
) -> tuple[MoleProfile, Profile]:
    """The closed form for constant Dm = D/V_m^2: N = N^- + dN (1 + erf z)/2, xi = 2 z sqrt(Dm t).

    Its true interdiffusion coefficient is D = Dm V_m(N)^2. x = int V_m dxi is summed on a grid
    `substeps` times finer than the nodes, and is 0 at z = 0.

    Args:
        z: (n,) nodes, rising, through 0; default 4001 nodes over [-8, 8].
        Dm: mol^2 m^-4 s^-1.
    """
    z = np.linspace(-8, 8, 4001) if z is None else np.asarray(z, dtype=float)
    scale, dN = 2 * np.sqrt(Dm * t), N_plus - N_minus

    def composition(z: Array) -> Array:
        return N_minus + dN * (1 + erf(z)) / 2

    parts = np.linspace(0, 1, substeps, endpoint=False)
    fine = np.append((z[:-1, None] + np.diff(z)[:, None] * parts).ravel(), z[-1])
    x_fine = cumulative_trapezoid(V(composition(fine)) * scale, fine, initial=0.0)
    x = (x_fine - np.interp(0.0, fine, x_fine))[::substeps]
    mole = MoleProfile(
        z * scale, composition(z), dN * np.exp(-(z**2)) / np.sqrt(np.pi) / scale, N_minus, N_plus
    )
    return mole, mole.in_space(V, x)


def simulate(
    D: Callable[[Array], Array],
    V: MolarVolume,
    t: float,
    L: float,
    N_minus: float = 0.0,
    N_plus: float = 1.0,
    *,
    cells: int = 801,
    steps: int = 400,
    picard: int = 4,
    batch: tuple[int, ...] = (),
) -> MoleProfile:
    """Finite volumes in xi: backward Euler, Picard iterations, time nodes t_k = t (k/K)^2.

    The face value of Dm is that of the mean composition; the ends carry no flux, so L must be wide
    enough (6 sqrt(max(Dm) t) keeps them out of reach).

    Args:
        D: interdiffusion coefficient of N, m^2/s; maps (*batch, m) to (*batch, m).
        L: half width in xi, mol/m^2.
        batch: leading shape, to solve couples with different D at once.

    Returns:
        cell centres and compositions, (*batch, cells); dN/dxi by central differences.
    """
    h = 2 * L / cells
    xi: Array = (np.arange(cells, dtype=float) + 0.5) * h - L
    start = np.where(xi < -h / 4, N_minus, np.where(xi > h / 4, N_plus, (N_minus + N_plus) / 2))
    N = np.broadcast_to(start, (*batch, cells)).copy()
    times = t * (np.arange(steps + 1) / steps) ** 2
    for dt in np.diff(times):
        N_old = N
        for _ in range(picard):
            face = 0.5 * (N[..., 1:] + N[..., :-1])
            # all members of the batch are one long tridiagonal system: their couplings are zero
            a = np.zeros_like(N)
            a[..., :-1] = dt / h**2 * D(face) / V(face) ** 2
            upper = a.ravel()
            lower = np.roll(upper, 1)
            bands = np.zeros((3, N.size))
            bands[0, 1:] = -upper[:-1]
            bands[1] = 1 + upper + lower
            bands[2, :-1] = -upper[:-1]
            N = solve_banded((1, 1), bands, N_old.ravel(), check_finite=False).reshape(N.shape)
    return MoleProfile(xi, N, np.gradient(N, h, axis=-1, edge_order=2), N_minus, N_plus)


def intrinsic_from_ratio(
    D: ArrayLike, N: ArrayLike, V: MolarVolume, ratio: float
) -> tuple[Array, Array]:
    """D_A = D V_m / (N V_B + (1 - N) V_A r) and D_B = r D_A, for r = D_B/D_A."""
    N = np.asarray(N, dtype=float)
    weight = N * V.partial("B", N) + (1 - N) * V.partial("A", N) * ratio
    D_A = np.asarray(D) * V(N) / weight
    return D_A, ratio * D_A


def kirkendall_plane(
    mole: MoleProfile, D: Callable[[Any], Array], V: MolarVolume, ratio: float, t: float
) -> float:
    """xi_K of the markers: xi_K / 2t = (D_B V_A - D_A V_B) / V_m^3 dN/dxi at K, for r = D_B/D_A.

    The profile (shapes (n,)) is interpolated linearly, as the relations do.

    Raises:
        ValueError: no plane, or more than one, moves with sqrt(t) (the markers would split).
    """

    def excess(xi: float | Array) -> Array:
        N, slope = np.interp(xi, mole.xi, mole.N), np.interp(xi, mole.xi, mole.dNdxi)
        D_A, D_B = intrinsic_from_ratio(D(N), N, V, ratio)
        flow = (D_B * V.partial("A", N) - D_A * V.partial("B", N)) / V(N) ** 3
        return np.asarray(xi) / (2 * t) - flow * slope

    values = excess(mole.xi)
    crossings = np.flatnonzero((values[:-1] < 0) & (values[1:] >= 0))
    if len(crossings) != 1:
        raise ValueError(f"expected one Kirkendall plane, found {len(crossings)}")
    i = crossings[0]
    return float(brentq(excess, mole.xi[i], mole.xi[i + 1], xtol=1e-14 * np.ptp(mole.xi)))


def line_compounds(N: ArrayLike, V: ArrayLike, D_int: ArrayLike, t: float) -> tuple[Array, Array]:
    """Interfaces and thicknesses of layers of line compounds with known D_int.

    With xi_i = lambda_i sqrt(t), k = D_int / V^2 and d lambda_v = lambda_{i+1} - lambda_i,
    (N_v - N_{v+1}) lambda_i / 2 = -k_v / d lambda_v + k_{v+1} / d lambda_{v+1}, k = 0 in the end
    members.

    Args:
        N, V: (n,) compositions (rising) and molar volumes of phases 1..n.
        D_int: (n - 2,) integrated coefficients int D dN of the compounds, m^2/s.

    Returns:
        interfaces xi_i (n - 1,), mol/m^2, and thicknesses dx (n - 2,), m.

    Raises:
        ValueError: the equations have no solution (compositions do not rise, D_int <= 0).
    """
    N, V, D_int = (np.asarray(a, dtype=float) for a in (N, V, D_int))
    if np.any(np.diff(N) <= 0) or np.any(D_int <= 0) or len(D_int) != len(N) - 2:
        raise ValueError("phases need rising compositions and one positive D_int per compound")
    k = D_int / V[1:-1] ** 2
    scale = np.sqrt(np.max(k))  # solve in units in which k is of order one
    k = k / scale**2

    def interfaces(unknown: Array) -> tuple[Array, Array]:
        width = np.exp(unknown[1:])
        return unknown[0] + np.concatenate([[0.0], np.cumsum(width)]), width

    def residual(unknown: Array) -> Array:
        lam, width = interfaces(unknown)
        flow = np.concatenate([[0.0], k / width, [0.0]])
        return (N[:-1] - N[1:]) * lam / 2 - (flow[1:] - flow[:-1])

    guess = np.concatenate([[-np.sqrt(k.sum())], 0.5 * np.log(4 * k)])
    solution = root(residual, guess, method="hybr", options={"xtol": 1e-14})
    if np.max(np.abs(residual(solution.x))) > 1e-10:
        raise ValueError(f"the interface equations did not converge: {solution.message}")
    lam, width = interfaces(solution.x)
    return lam * scale * np.sqrt(t), V[1:-1] * width * scale * np.sqrt(t)


@dataclass(frozen=True)
class ForwardFit:
    """Forward-simulation analysis: D at the knots, the fitted spline and the misfit (rms, in N)."""

    knots: Array
    D_knots: Array
    D: Callable[[ArrayLike], Array]
    misfit: float


def forward_simulation_analysis(
    xi: Array, N: Array, N_minus: float, N_plus: float, D_start: Callable[[Array], Array],
    V: MolarVolume, t: float, *, knots: int = 6, cells: int = 161, steps: int = 80,
    smoothness: float = 0.0,
) -> ForwardFit:  # fmt: skip
    """Inverse method: a cubic spline of log D(N) is adjusted until the simulation meets the points.

    Least squares over the spline's values at equidistant knots and a shift of the origin of xi. The
    starting curve is any estimate, Wagner's for example.

    Args:
        xi, N: (n,) measured points; xi (mol/m^2) near 0 at the plane of equal moles.
        D_start: interdiffusion coefficient to start from, m^2/s.
        smoothness: weight of second differences of log D at the knots.
    """
    nodes = np.linspace(N_minus, N_plus, knots)
    inset = np.clip(nodes, N_minus + 0.05 * (N_plus - N_minus), N_plus - 0.05 * (N_plus - N_minus))
    start = np.log(D_start(inset))
    span = max(np.max(np.abs(xi)), 6 * np.sqrt(np.max(np.exp(start) / V(inset) ** 2) * t))
    unit = np.ptp(xi) / len(xi)

    def model(parameters: Array) -> Array:
        """Residuals for a batch of parameters, (b, knots + 1) -> (b, n + knots - 2)."""
        b = len(parameters)
        spline = CubicSpline(nodes, parameters[:, :-1].T)
        pieces = spline.c  # (4, knots - 1, b): evaluated by hand, each row on its own compositions

        def D(n: Array) -> Array:
            n = np.clip(n, nodes[0], nodes[-1])
            i = np.clip(np.searchsorted(nodes, n, side="right") - 1, 0, knots - 2)
            row = np.arange(b)[:, None]
            u = n - nodes[i]
            c = pieces[:, i, row]
            return np.exp(((c[0] * u + c[1]) * u + c[2]) * u + c[3])

        sim = simulate(
            D, V, t, span, N_minus, N_plus, cells=cells, steps=steps, picard=2, batch=(b,)
        )
        points = xi - unit * parameters[:, -1:]
        fit = np.stack([np.interp(p, sim.xi, n) for p, n in zip(points, sim.N, strict=True)])
        rough = smoothness * np.diff(parameters[:, :-1], 2, axis=1)
        return np.concatenate([fit - N, rough], axis=1)

    def residuals(p: Array) -> Array:
        return model(p[None])[0]

    def jacobian(p: Array) -> Array:
        step = 1e-4
        r = model(p + step * np.concatenate([np.zeros((1, len(p))), np.eye(len(p))]))
        return ((r[1:] - r[0]) / step).T

    # `unit` makes the shift a parameter of order one, like the logarithms
    solution = least_squares(
        residuals, np.append(start, 0.0), jac=jacobian, method="trf", ftol=1e-6, xtol=1e-5
    )
    spline = CubicSpline(nodes, solution.x[:-1])
    misfit = float(np.sqrt(np.mean(solution.fun[: len(N)] ** 2)))
    return ForwardFit(
        nodes, np.exp(solution.x[:-1]), lambda n: np.exp(spline(np.asarray(n))), misfit
    )
