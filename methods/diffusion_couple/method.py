r"""Interdiffusion, intrinsic and integrated coefficients from a binary diffusion couple.

Baheti and Paul, "Development of different methods and their efficiencies for the estimation of
diffusion coefficients following the diffusion couple technique", Acta Materialia 2018
(arXiv 1809.09687). The body of the paper was not available, so its equation numbers cannot be
cited: every relation below follows from the balance of moles, in the notation of the paper's field.

Two blocks, rich in A on the left and in B on the right, are joined and annealed for a time t.
N = N_B is the mole fraction of B; it rises with x from N^- to N^+. V_m(N) is the molar volume, and

    V_A = V_m - N V_m',   V_B = V_m + (1 - N) V_m'        partial molar volumes
    C_B = N / V_m,   C_A = (1 - N) / V_m,   V_A C_A + V_B C_B = 1
    dC_B/dx = (V_A / V_m^2) dN/dx,   dC_A/dx = -(V_B / V_m^2) dN/dx

Two families of relations read diffusivities from the profile N(x):

    composition-normalised     Y_N = (N - N^-) / (N^+ - N^-)      Wagner, Sauer-Freise, van Loo
    concentration-normalised   Y_C = (C - C^-) / (C^+ - C^-)      den Broeder, the paper's new ones

The first is exact for every V_m(N), since it counts moles. The second is exact when total volume is
conserved, that is when V_m is *ideal*: V_m = V_A (1 - N) + V_B N with constant V_A and V_B.

Units are SI (m, s, m^3/mol), or any consistent set. Arrays of a profile have shape (..., n):
leading axes are independent profiles on the same positions (bootstrap resamples, for example).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import cumulative_trapezoid, trapezoid
from scipy.interpolate import PchipInterpolator
from scipy.special import erfinv

Array = NDArray[np.float64]
Component = Literal["A", "B"]


# --- molar volume -----------------------------------------------------------------------------


@dataclass(frozen=True)
class MolarVolume:
    """Molar volume V_m(N) and its slope dV_m/dN, both as functions of N (any shape)."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]

    def __call__(self, N: ArrayLike) -> Array:
        """V_m(N), shape of N."""
        return self.value(np.asarray(N, dtype=float))

    def partial(self, component: Component, N: ArrayLike) -> Array:
        """Partial molar volume V_A = V_m - N V_m' or V_B = V_m + (1 - N) V_m', shape of N."""
        N = np.asarray(N, dtype=float)
        return self.value(N) + ((1 - N) if component == "B" else -N) * self.slope(N)

    def concentration(self, component: Component, N: ArrayLike) -> Array:
        """C_B = N / V_m or C_A = (1 - N) / V_m, mol/m^3, shape of N."""
        N = np.asarray(N, dtype=float)
        return (N if component == "B" else 1 - N) / self.value(N)

    def concentration_slope(self, component: Component, N: ArrayLike) -> Array:
        """dC_i/dN: the chain rule takes the partial volume of the *other* component."""
        if component == "B":
            return self.partial("A", N) / self(N) ** 2
        return -self.partial("B", N) / self(N) ** 2

    def ideal_between(self, N_minus: float, N_plus: float) -> MolarVolume:
        """The ideal (Vegard) volume that has the same V_m at both ends of a couple."""
        V_minus, V_plus = float(self(N_minus)), float(self(N_plus))
        slope = (V_plus - V_minus) / (N_plus - N_minus)
        V_A = V_minus - slope * N_minus
        return ideal_volume(V_A, V_A + slope)


def ideal_volume(V_A: float, V_B: float) -> MolarVolume:
    """V_m = V_A (1 - N) + V_B N; V_A = V_B is the constant molar volume."""
    return excess_volume(V_A, V_B, 0.0)


def excess_volume(V_A: float, V_B: float, w: float) -> MolarVolume:
    """V_m = V_A (1 - N) + V_B N + w N (1 - N); at N = 1/2 the excess is w/4."""
    return MolarVolume(
        value=lambda N: V_A * (1 - N) + V_B * N + w * N * (1 - N),
        slope=lambda N: V_B - V_A + w * (1 - 2 * N),
    )


def table_volume(
    N: ArrayLike, V: ArrayLike, interpolation: Literal["linear", "pchip"] = "linear"
) -> MolarVolume:
    """A measured table V_m(N), shapes (k,) and (k,), k >= 2, N rising.

    `linear` keeps a kink where the table has one (V_A and V_B jump there); `pchip` is smooth. The
    outer pieces continue in a straight line beyond the table.

    Raises:
        ValueError: N does not rise, or a volume is not positive.
    """
    N, V = np.asarray(N, dtype=float), np.asarray(V, dtype=float)
    if N.ndim != 1 or N.shape != V.shape or len(N) < 2 or np.any(np.diff(N) <= 0):
        raise ValueError("a table of molar volumes needs two or more rows with N rising")
    if np.any(V <= 0):
        raise ValueError("molar volumes must be positive")
    if interpolation == "pchip":
        curve = PchipInterpolator(N, V)

        def value(n: Array) -> Array:
            inside = np.clip(n, N[0], N[-1])
            return curve(inside) + curve(inside, 1) * (n - inside)

        return MolarVolume(value, lambda n: curve(np.clip(n, N[0], N[-1]), 1))
    slopes = np.diff(V) / np.diff(N)

    def piece(n: Array) -> NDArray[np.intp]:
        return np.clip(np.searchsorted(N, n, side="right") - 1, 0, len(slopes) - 1)

    return MolarVolume(
        lambda n: V[piece(n)] + slopes[piece(n)] * (n - N[piece(n)]), lambda n: slopes[piece(n)]
    )


# --- profile ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """A rising composition profile that has reached its end compositions at both ends.

    Attributes:
        x: (n,) or (..., n) positions, rising, m.
        N: (..., n) mole fraction of B.
        dNdx: (..., n) its derivative, 1/m. Kept beside N so that no relation differentiates a
            concentration numerically.
        N_minus, N_plus: end compositions at x -> -infinity and x -> +infinity.
    """

    x: Array
    N: Array
    dNdx: Array
    N_minus: float
    N_plus: float

    @property
    def Y(self) -> Array:
        """Y_N = (N - N^-) / (N^+ - N^-), shape (..., n)."""
        return (self.N - self.N_minus) / (self.N_plus - self.N_minus)

    def Y_C(self, V: MolarVolume, component: Component) -> Array:
        """Y_C = (C - C^-) / (C^+ - C^-) of component A or B, shape (..., n)."""
        C_minus, C_plus = self.ends(V, component)
        return (V.concentration(component, self.N) - C_minus) / (C_plus - C_minus)

    def ends(self, V: MolarVolume, component: Component) -> tuple[float, float]:
        """C^- and C^+ of component A or B, mol/m^3."""
        return (
            float(V.concentration(component, self.N_minus)),
            float(V.concentration(component, self.N_plus)),
        )


def left_integral(f: Array, x: Array) -> Array:
    """Integral of f from -infinity (the first node) to each node, trapezoids, shape (..., n)."""
    return cumulative_trapezoid(f, x, axis=-1, initial=0.0)


def right_integral(f: Array, x: Array) -> Array:
    """Integral of f from each node to +infinity (the last node), trapezoids, shape (..., n)."""
    # summed from the right, so that the tail keeps its digits
    return -cumulative_trapezoid(f[..., ::-1], x[..., ::-1], axis=-1, initial=0.0)[..., ::-1]


def mole_integrals(profile: Profile, V: MolarVolume) -> tuple[Array, Array]:
    """P = int_{-inf}^{x} Y_N / V_m dx, Q = int_{x}^{inf} (1 - Y_N) / V_m dx, mol/m^2, (..., n)."""
    V_m, Y = V(profile.N), profile.Y
    return left_integral(Y / V_m, profile.x), right_integral((1 - Y) / V_m, profile.x)


def volume_integrals(profile: Profile, V: MolarVolume, component: Component) -> tuple[Array, Array]:
    """P_C = int_{-inf}^{x} Y_C dx and Q_C = int_{x}^{inf} (1 - Y_C) dx, m, shape (..., n)."""
    Y_C = profile.Y_C(V, component)
    return left_integral(Y_C, profile.x), right_integral(1 - Y_C, profile.x)


# --- interdiffusion coefficient ---------------------------------------------------------------


def _over(numerator: Array, slope: Array) -> Array:
    """numerator / slope, NaN where the profile is flat (the far tails)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slope != 0, numerator / slope, np.nan)


def wagner(profile: Profile, V: MolarVolume, t: float) -> Array:
    """Wagner's relation (the same as Sauer and Freise's): exact for any V_m(N).

    D = V_m / (2t dY_N/dx) [ (1 - Y_N) P + Y_N Q ]

    Returns D at every node, m^2/s, shape (..., n); NaN where dN/dx is zero.
    """
    P, Q = mole_integrals(profile, V)
    Y, dYdx = profile.Y, profile.dNdx / (profile.N_plus - profile.N_minus)
    return _over(V(profile.N) * ((1 - Y) * P + Y * Q) / (2 * t), dYdx)


def den_broeder(profile: Profile, V: MolarVolume, t: float, component: Component = "B") -> Array:
    """den Broeder's relation, which the paper derives along Wagner's line: exact for ideal V_m.

    D = 1 / (2t dY_C/dx) [ (1 - Y_C) P_C + Y_C Q_C ]

    With C of `component`; the two components give different answers when V_m is not ideal. For
    ideal V_m, Y_C = Y_N V_m^+ / V_m and 1 - Y_C = (1 - Y_N) V_m^- / V_m turn it into Wagner's.

    Returns D at every node, m^2/s, shape (..., n); NaN where dN/dx is zero.
    """
    P_C, Q_C = volume_integrals(profile, V, component)
    C_minus, C_plus = profile.ends(V, component)
    Y_C = profile.Y_C(V, component)
    dYdx = V.concentration_slope(component, profile.N) * profile.dNdx / (C_plus - C_minus)
    return _over(((1 - Y_C) * P_C + Y_C * Q_C) / (2 * t), dYdx)


def matano_plane(profile: Profile, V: MolarVolume, component: Component = "B") -> Array:
    """Matano plane x_M of C: int_{-inf}^{x_M} (C - C^-) dx = int_{x_M}^{inf} (C^+ - C) dx.

    Solved in closed form, x_M = x_end - int Y_C dx. Not unique when the total volume changes (C_A
    and C_B then give two planes). Returns shape (...), m.
    """
    return profile.x[..., -1] - trapezoid(profile.Y_C(V, component), profile.x, axis=-1)


def boltzmann_matano(
    profile: Profile, V: MolarVolume, t: float, component: Component = "B"
) -> Array:
    """Boltzmann and Matano: D = -(1/2t) (dx/dC) int_{C^-}^{C} (x - x_M) dC.

    With the Matano plane of the same C it is den Broeder's relation summed by parts, for any V_m.

    Returns D at every node, m^2/s, shape (..., n); NaN where dN/dx is zero.
    """
    x_M = np.asarray(matano_plane(profile, V, component))[..., None]
    C = V.concentration(component, profile.N)
    C_minus, _ = profile.ends(V, component)
    arms = profile.x - x_M
    steps = 0.5 * (arms[..., 1:] + arms[..., :-1]) * np.diff(C, axis=-1)
    # the first node carries what lies between C^- and its own C
    start = arms[..., :1] * (C[..., :1] - C_minus)
    integral = start + np.concatenate([np.zeros_like(start), np.cumsum(steps, axis=-1)], axis=-1)
    dCdx = V.concentration_slope(component, profile.N) * profile.dNdx
    return _over(-integral / (2 * t), dCdx)


def constant_volume(profile: Profile, t: float) -> Array:
    """Wagner's relation with V_m cancelled: D = 1 / (2t dY/dx) [ (1-Y) int Y + Y int (1-Y) ].

    Returns D at every node, m^2/s, shape (..., n); NaN where dN/dx is zero.
    """
    return wagner(profile, ideal_volume(1.0, 1.0), t)


@dataclass(frozen=True)
class HallEnd:
    """Hall's analysis of one end: u = h lambda + k, and D at each point of that end."""

    N: Array
    D: Array
    h: float
    k: float


def hall(
    x: Array,
    N: Array,
    N_minus: float,
    N_plus: float,
    t: float,
    x_M: float,
    end: Literal["left", "right"],
    reach: float = 0.15,
) -> HallEnd:
    """Hall's relations at one end of the profile, from its points with Y (or 1 - Y) <= reach.

    u = erfinv(2Y - 1) is fitted by u = h lambda + k, lambda = (x - x_M) / sqrt(t); then
    left   D = (1/4h^2) [ 1 + (2k/sqrt(pi)) e^{u^2} Y ]
    right  D = (1/4h^2) [ 1 - (2k/sqrt(pi)) e^{u^2} (1 - Y) ]
    To be trusted only where D hardly varies over that end.

    Args:
        x, N: (n,) points of the profile, m and mole fraction. Points at or beyond the end
            compositions carry no u and are left out.

    Raises:
        ValueError: fewer than three points lie at that end.
    """
    Y = (np.asarray(N, dtype=float) - N_minus) / (N_plus - N_minus)
    near = (Y > 0) & (Y < 1) & ((Y <= reach) if end == "left" else (1 - Y <= reach))
    if near.sum() < 3:
        raise ValueError(f"Hall's method needs three points at the {end} end, found {near.sum()}")
    Y, u = Y[near], erfinv(2 * Y[near] - 1)
    h, k = np.polyfit((np.asarray(x, dtype=float)[near] - x_M) / np.sqrt(t), u, 1)
    tail = Y if end == "left" else -(1 - Y)
    D = (1 + 2 * k / np.sqrt(np.pi) * np.exp(u**2) * tail) / (4 * h**2)
    return HallEnd(np.asarray(N, dtype=float)[near], D, float(h), float(k))


# --- intrinsic coefficients at the Kirkendall plane -------------------------------------------


@dataclass(frozen=True)
class Intrinsic:
    """Intrinsic coefficients at the marker plane K, each of shape (...): D_A, D_B in m^2/s."""

    D_A: Array
    D_B: Array
    N: Array
    dNdx: Array


def at_plane(x: Array, f: Array, x_K: float | Array) -> Array:
    """f at x = x_K by linear interpolation, along the last axis: (..., n) -> (...).

    Raises:
        ValueError: x_K lies outside the profile.
    """
    x, f = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(f, dtype=float))
    x_K = np.broadcast_to(np.asarray(x_K, dtype=float), x.shape[:-1])
    if np.any(x_K < x[..., 0]) or np.any(x_K > x[..., -1]):
        raise ValueError("the Kirkendall plane lies outside the profile")
    i = np.clip(np.sum(x <= x_K[..., None], axis=-1) - 1, 0, x.shape[-1] - 2)[..., None]
    x0, x1 = np.take_along_axis(x, i, -1), np.take_along_axis(x, i + 1, -1)
    f0, f1 = np.take_along_axis(f, i, -1), np.take_along_axis(f, i + 1, -1)
    return (f0 + (f1 - f0) * (x_K[..., None] - x0) / (x1 - x0))[..., 0]


def _intrinsic(
    profile: Profile,
    V: MolarVolume,
    t: float,
    x_K: float | Array,
    integrals: tuple[Array, Array],
    ends: dict[Component, tuple[float, float]],
) -> Intrinsic:
    """D_i = (1/2t) (dx/dC_i)_K [ q_i^+ P_K - q_i^- Q_K ] for i = A, B."""
    N, dNdx, P, Q = (at_plane(profile.x, f, x_K) for f in (profile.N, profile.dNdx, *integrals))
    D = {
        i: _over((ends[i][1] * P - ends[i][0] * Q) / (2 * t), V.concentration_slope(i, N) * dNdx)
        for i in ("A", "B")
    }
    return Intrinsic(D["A"], D["B"], N, dNdx)


def van_loo(profile: Profile, V: MolarVolume, t: float, x_K: float | Array) -> Intrinsic:
    """van Loo's composition-normalised relation: exact for any V_m(N).

    D_B = (1/2t) (dx/dC_B)_K [ N_B^+ P - N_B^- Q ],  D_A = (1/2t) (dx/dC_A)_K [ N_A^+ P - N_A^- Q ]
    """
    ends: dict[Component, tuple[float, float]] = {
        "B": (profile.N_minus, profile.N_plus),
        "A": (1 - profile.N_minus, 1 - profile.N_plus),
    }
    return _intrinsic(profile, V, t, x_K, mole_integrals(profile, V), ends)


def intrinsic_concentration(
    profile: Profile, V: MolarVolume, t: float, x_K: float | Array, component: Component = "B"
) -> Intrinsic:
    """The paper's new relation, with the concentration-normalised variable of `component`.

    D_i = (1/2t) (dx/dC_i)_K [ C_i^+ P_C - C_i^- Q_C ],  i = A, B

    For ideal V_m the normalised variables of A and B coincide and it equals van Loo's; else the
    answer depends on which of the two is used.
    """
    ends: dict[Component, tuple[float, float]] = {i: profile.ends(V, i) for i in ("A", "B")}
    return _intrinsic(profile, V, t, x_K, volume_integrals(profile, V, component), ends)


def intrinsic_ratio(profile: Profile, V: MolarVolume, x_K: float | Array) -> Array:
    """D_B / D_A = (V_B / V_A)_K [ N_B^+ P - N_B^- Q ] / [ -N_A^+ P + N_A^- Q ].

    Needs no gradient of the profile. Returns shape (...).
    """
    P, Q = (at_plane(profile.x, f, x_K) for f in mole_integrals(profile, V))
    N = at_plane(profile.x, profile.N, x_K)
    G_B = profile.N_plus * P - profile.N_minus * Q
    G_A = (1 - profile.N_plus) * P - (1 - profile.N_minus) * Q
    return V.partial("B", N) / V.partial("A", N) * G_B / -G_A


def darken(D_A: ArrayLike, D_B: ArrayLike, N: ArrayLike, V: MolarVolume) -> Array:
    """Interdiffusion from intrinsic coefficients: D = V_B C_B D_A + V_A C_A D_B."""
    return V.partial("B", N) * V.concentration("B", N) * np.asarray(D_A) + V.partial(
        "A", N
    ) * V.concentration("A", N) * np.asarray(D_B)


def marker_velocity(K: Intrinsic, V: MolarVolume) -> Array:
    """v_K = V_B (D_B - D_A) dC_B/dx, m/s; equals (x_K - x_M) / 2t for ideal V_m only."""
    dCdx = V.concentration_slope("B", K.N) * K.dNdx
    return V.partial("B", K.N) * (K.D_B - K.D_A) * dCdx


# --- integrated coefficients of line compounds ------------------------------------------------


def _integrated(
    q: ArrayLike, q_minus: float, q_plus: float, V: ArrayLike, dx: Array, t: float,
    left: Array | float, right: Array | float,
) -> Array:  # fmt: skip
    """The integrated coefficient of one layer.

    `left` = int (q - q^-)/V dx over all that lies left of the layer, `right` = int (q^+ - q)/V dx
    right of it.
    """
    q, V = np.asarray(q, dtype=float), np.asarray(V, dtype=float)
    own = (q - q_minus) * (q_plus - q) * dx**2
    others = V * dx * ((q_plus - q) * left + (q - q_minus) * right)
    return (own + others) / (2 * t * (q_plus - q_minus))


def _integrated_layers(q: Array, V: Array, dx: ArrayLike, t: float) -> Array:
    q, V, dx = (np.asarray(a, dtype=float) for a in (q, V, dx))
    if q.shape != V.shape or q.ndim != 1 or dx.shape[-1] != len(q) - 2:
        raise ValueError("phases 1..n need n compositions, n volumes and n - 2 thicknesses")
    inner, V_in = q[1:-1], V[1:-1]
    below = (inner - q[0]) / V_in * dx
    above = (q[-1] - inner) / V_in * dx
    left = np.cumsum(below, axis=-1) - below
    right = np.cumsum(above[..., ::-1], axis=-1)[..., ::-1] - above
    return _integrated(inner, q[0], q[-1], V_in, dx, t, left, right)


def integrated(N: ArrayLike, V: ArrayLike, dx: ArrayLike, t: float) -> Array:
    """Wagner's integrated interdiffusion coefficients, int_beta D dN, of line compounds.

    D_int = { (N_b - N^-)(N^+ - N_b) dx_b^2 + V_b dx_b [ (N^+ - N_b) sum_left (N - N^-)/V dx
              + (N_b - N^-) sum_right (N^+ - N)/V dx ] } / [ 2t (N^+ - N^-) ]

    Args:
        N, V: (n,) compositions and molar volumes of phases 1..n; the first and last are the end
            members, whose volumes are not used.
        dx: (..., n - 2) thicknesses of the compounds, m.

    Returns:
        (..., n - 2), m^2/s.

    Raises:
        ValueError: the lengths do not match.
    """
    return _integrated_layers(np.asarray(N, dtype=float), np.asarray(V, dtype=float), dx, t)


def integrated_concentration(
    N: ArrayLike, V: ArrayLike, dx: ArrayLike, t: float, component: Component = "B"
) -> Array:
    """The paper's new relation, int_beta D dC, with the concentrations of `component`.

    Wagner's relation with N -> C and every V removed; arguments as in `integrated`. The unit is
    mol/(m s); from C_A it is negative, since C_A falls with x.

    Returns:
        (..., n - 2), mol/(m s).

    Raises:
        ValueError: the lengths do not match.
    """
    N, V = np.asarray(N, dtype=float), np.asarray(V, dtype=float)
    C = (N if component == "B" else 1 - N) / V
    return _integrated_layers(C, np.ones_like(C), dx, t)


def integrated_conversion(
    V: ArrayLike, V_A: float, V_B: float, component: Component = "B"
) -> Array:
    """int_beta D dC over int_beta D dN: V_A / V_b^2 from C_B, -V_B / V_b^2 from C_A, mol/m^3.

    V_A and V_B are partial molar volumes inside the compound. They are constants, and known, only
    for ideal V_m; with the volumes of the pure elements in their place the conversion is a guess.
    """
    return (V_A if component == "B" else -V_B) / np.asarray(V, dtype=float) ** 2


def integrated_in_profile(
    x: Array, N: Array, V: Array, x_left: float, x_right: float,
    N_beta: float, V_beta: float, N_minus: float, N_plus: float, t: float,
) -> float:  # fmt: skip
    """Wagner's integrated coefficient with the sums replaced by integrals over the whole profile.

    For couples whose end members (or neighbours) keep a composition profile. Nodes may repeat a
    position, which is how a profile jumps at an interface.

    Args:
        x, N, V: (n,) profile, x not falling: m, mole fraction, molar volume; with nodes at both
            interfaces.
        x_left, x_right: interfaces of the compound, m.
        N_beta, V_beta: its composition and molar volume.

    Returns:
        m^2/s.
    """
    x, N, V = (np.asarray(a, dtype=float) for a in (x, N, V))
    # where a position repeats, an interval of zero width adds nothing: both sides stay whole
    middle, width = 0.5 * (x[1:] + x[:-1]), np.diff(x)
    below, above = (N - N_minus) / V, (N_plus - N) / V
    left = np.sum((0.5 * (below[1:] + below[:-1]) * width)[middle < x_left])
    right = np.sum((0.5 * (above[1:] + above[:-1]) * width)[middle > x_right])
    dx = np.asarray(x_right - x_left)
    return float(_integrated(N_beta, N_minus, N_plus, V_beta, dx, t, left, right))
