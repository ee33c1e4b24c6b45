"""The exact checks: every relation against couples whose coefficients are known in closed form.

Each function returns {item: error}. Numbers that a reader may want to recompute by other means
(true coefficients, planes, thicknesses) stand here to the digits that were derived for them; the
error of such an item is the largest relative difference to them. Lengths in units of
sqrt(Dm t) V, volumes in cm^3/mol, t = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid
from scipy.optimize import brentq
from scipy.special import erf

from methods.diffusion_couple.forward import (
    kirkendall_plane,
    line_compounds,
    manufactured,
    simulate,
)
from methods.diffusion_couple.method import (
    MolarVolume,
    Profile,
    at_plane,
    boltzmann_matano,
    constant_volume,
    darken,
    den_broeder,
    excess_volume,
    hall,
    ideal_volume,
    integrated,
    integrated_concentration,
    integrated_conversion,
    integrated_in_profile,
    intrinsic_concentration,
    intrinsic_ratio,
    left_integral,
    marker_velocity,
    matano_plane,
    mole_integrals,
    van_loo,
    wagner,
)

if TYPE_CHECKING:
    from repro.job import Job

Array = NDArray[np.float64]
Errors = dict[str, float]
Z = np.linspace(-8, 8, 4001)
AT = np.rint((np.array([-1, -0.5, 0, 0.5, 1]) + 8) / 16 * 4000).astype(int)
NI_PD = (6.59, 8.86)


def off(found: ArrayLike, expected: ArrayLike) -> float:
    """Largest relative difference."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    return float(np.max(np.abs(found / expected - 1)))


def apart(found: ArrayLike, expected: ArrayLike) -> float:
    """Largest absolute difference."""
    return float(np.max(np.abs(np.asarray(found, dtype=float) - np.asarray(expected))))


def _couple(
    V_A: float, V_B: float, w: float, N_minus: float = 0.0, N_plus: float = 1.0
) -> tuple[MolarVolume, Profile, Array]:
    """Volume, profile and true D of the manufactured couple."""
    V = excess_volume(V_A, V_B, w)
    _, profile = manufactured(V, N_minus, N_plus, z=Z)
    return V, profile, V(profile.N) ** 2


def constant_molar_volume() -> Errors:
    """V_m = 7: D = 49 from all four relations, up to the trapezoid's 2.7e-6."""
    V, profile, true = _couple(7, 7, 0)
    found = [
        wagner(profile, V, 1.0),
        den_broeder(profile, V, 1.0),
        boltzmann_matano(profile, V, 1.0),
        constant_volume(profile, 1.0),
    ]
    return {
        "constant-truth": off(true[AT], 49),
        "constant-volume": max(off(D[AT], true[AT]) for D in found),
    }


def ideal_molar_volume() -> Errors:
    """V_m ideal: both families return D, and the same D to rounding."""
    errors = {}
    middle = np.abs(Z) < 2
    for name, ends, expected in (
        ("ideal", (0.0, 1.0), (45.81306, 50.89728, 59.67563, 69.15199, 75.36784)),
        ("incremental", (0.2, 0.7), None),
    ):
        V, profile, true = _couple(*NI_PD, 0, *ends)
        W = wagner(profile, V, 1.0)
        B, A = (den_broeder(profile, V, 1.0, i) for i in ("B", "A"))
        if expected:
            errors[f"{name}-truth"] = off(true[AT], expected)
        errors[f"{name}-wagner"] = off(W[AT], true[AT])
        errors[f"{name}-den-broeder"] = max(off(B[AT], true[AT]), off(A[AT], true[AT]))
        errors[f"{name}-identity"] = max(off(B[middle], W[middle]), off(A[middle], W[middle]))
        errors[f"{name}-matano"] = off(boltzmann_matano(profile, V, 1.0)[middle], B[middle])
    return errors


# D (true), then den Broeder / true - 1 from C_B and from C_A, at z = -1, -1/2, 0, 1/2, 1
NON_IDEAL = {
    "excess": (
        (*NI_PD, 0.4),
        (46.20628, 51.94288, 61.23063, 70.36987, 75.87196),
        (0.01793, 0.02216, 0.02114, 0.01285, 0.00465),
        (0.00351, 0.00964, 0.01579, 0.01650, 0.01334),
    ),
    "contraction": (
        (*NI_PD, -0.4),
        None,
        (-0.01794, -0.02231, -0.02179, -0.01378, -0.00515),
        (-0.00378, -0.01015, -0.01614, -0.01658, -0.01334),
    ),
    "equal-volumes": (
        (7, 7, 0.4),
        None,
        (0.01688, 0.02086, 0.01992, 0.01212, 0.00439),
        (0.00439, 0.01212, 0.01992, 0.02086, 0.01688),
    ),
}


def non_ideal_molar_volume() -> Errors:
    """V_m not ideal: Wagner stays exact; den Broeder deviates, by amounts that are known."""
    errors = {}
    for name, (volumes, expected, from_B, from_A) in NON_IDEAL.items():
        V, profile, true = _couple(*volumes)
        if expected:
            errors[f"{name}-truth"] = off(true[AT], expected)
        errors[f"{name}-wagner"] = off(wagner(profile, V, 1.0)[AT], true[AT])
        B, A = (den_broeder(profile, V, 1.0, i) for i in ("B", "A"))
        errors[f"{name}-den-broeder-cb"] = apart(B[AT] / true[AT] - 1, from_B)
        errors[f"{name}-den-broeder-ca"] = apart(A[AT] / true[AT] - 1, from_A)
        middle = np.abs(Z) < 2
        errors[f"{name}-matano"] = off(boltzmann_matano(profile, V, 1.0)[middle], B[middle])
    V, profile, true = _couple(7.12, 16.29, -4)
    B, A = (den_broeder(profile, V, 1.0, i)[AT] / true[AT] - 1 for i in ("B", "A"))
    errors["strong-den-broeder"] = max(
        apart(B, (-0.167, -0.213, -0.231, -0.182, -0.087)),
        apart(A, (-0.025, -0.063, -0.092, -0.091, -0.073)),
    )
    return errors


def wrong_volume() -> Errors:
    """The wrong V_m in the analysis: both families err alike, by known amounts."""
    V, profile, true = _couple(*NI_PD, 0.4)
    ideal = ideal_volume(*NI_PD)
    found = [wagner(profile, ideal, 1.0), den_broeder(profile, ideal, 1.0)]
    expected = (0.00342, -0.00095, -0.00314, 0.00005, 0.00379)
    errors = {
        "assumed-ideal": max(apart(D[AT] / true[AT] - 1, expected) for D in found),
    }
    V, profile, true = _couple(*NI_PD, 0)
    constant = constant_volume(profile, 1.0)[AT] / true[AT] - 1
    errors["assumed-constant"] = apart(constant, (0.0721, 0.0469, 0.0, -0.0402, -0.0562))
    return errors


def second_moment() -> Errors:
    """The second moment of a profile is set by its mean diffusivity.

    int (x - x_M)^2 dC = 2t int D dC for ideal V_m; int xi^2 dN = 2t int Dm dN = 2 for any V_m.
    """
    V, profile, true = _couple(*NI_PD, 0)
    x_M = float(matano_plane(profile, V))
    C = V.concentration("B", profile.N)
    spread = trapezoid((profile.x - x_M) ** 2, C)
    mobility = 2 * trapezoid(true, C)
    moles = []
    for w in (0.0, 0.4, -0.4):
        mole, _ = manufactured(excess_volume(*NI_PD, w), z=Z)
        moles.append(trapezoid(mole.xi**2, mole.N))
    return {
        "moment-spread": off(spread, 13.1800),
        "moment-mobility": off(mobility, 13.1800),
        "moment-balance": off(spread, mobility),
        "moment-matano-plane": off(x_M, -1.280708),
        "moment-moles": off(moles, 2.0),
    }


def pointwise_identity(profiles: int = 200) -> Errors:
    """Any rising profile, solution or not: Wagner = den Broeder for ideal V_m, else not.

    Nodes keep 0.5 % away from the ends, where C - C^- itself loses more than four digits.
    """
    rng = np.random.default_rng(0)
    ideal: list[float] = []
    other: list[float] = []
    for _ in range(profiles):
        n = int(rng.integers(5, 60))
        N_minus, N_plus = rng.uniform(0, 0.4), rng.uniform(0.6, 1)
        Y = np.concatenate([[0.0], np.sort(rng.uniform(0.005, 0.995, n)), [1.0]])
        profile = Profile(
            np.sort(rng.uniform(0, 1, n + 2)),
            N_minus + (N_plus - N_minus) * Y,
            rng.uniform(0.1, 2, n + 2),
            N_minus,
            N_plus,
        )
        for w, differences in ((0.0, ideal), (0.4, other)):
            V_A, V_B = rng.uniform(5, 20, 2)
            V = excess_volume(V_A, V_B, w)
            W = wagner(profile, V, 1.0)
            D = [den_broeder(profile, V, 1.0, i) for i in ("B", "A")]
            differences.append(max(off(d[1:-1], W[1:-1]) for d in D))
    return {"pointwise-identity": max(ideal), "pointwise-non-ideal": float(np.median(other))}


def convergence() -> Errors:
    """Numerical central derivatives converge with order 2 in the spacing of the points."""
    V = ideal_volume(*NI_PD)
    worst = []
    for nodes in (101, 201, 401, 801):
        z = np.linspace(-8, 8, nodes)
        _, p = manufactured(V, z=z)
        p = Profile(p.x, p.N, np.gradient(p.N, p.x), p.N_minus, p.N_plus)
        middle = np.abs(z) < 1.5
        worst.append(np.max(np.abs(wagner(p, V, 1.0)[middle] / V(p.N[middle]) ** 2 - 1)))
    slope = -np.polyfit(np.log([100, 200, 400, 800]), np.log(worst), 1)[0]
    return {
        "gradient-errors": off(worst, (2.3e-2, 5.9e-3, 1.6e-3, 4.0e-4)),
        "gradient-order": apart(slope, 2.0),
    }


# volumes, ends, r = D_B/D_A -> N_K, x_K, D_B, D_A, and the concentration version where it differs
KIRKENDALL = {
    "constant": ((7, 7, 0), (0.0, 1.0), 2.0, (0.608737, 2.732555, 70.43961, 35.21981)),
    "ideal": ((*NI_PD, 0), (0.0, 1.0), 2.0, (0.562909, 1.745940, 90.62608, 45.31304)),
    "excess": ((*NI_PD, 0.4), (0.0, 1.0), 2.0, (0.564577, None, 92.93302, 46.46651)),
    "excess-incremental": ((*NI_PD, 0.4), (0.2, 0.7), 0.5, (None, None, 39.08822, 78.17644)),
    "constant-incremental": ((7, 7, 0), (0.2, 0.7), 3.0, (0.488362, 1.915737, 72.65443, 24.21814)),
}
# D_B, D_A from Y_{C_B}, then from Y_{C_A}; None: not derived
KIRKENDALL_CONCENTRATION = {
    "excess": ((92.93302, 48.57741), (None, 46.46651)),
    "excess-incremental": ((38.28092, 79.68287), (None, 77.41663)),
}


def _off_known(found: Iterable[float | Array], expected: Iterable[float | None]) -> float:
    return max(off(f, e) for f, e in zip(found, expected, strict=True) if e is not None)


def kirkendall() -> Errors:
    """Intrinsic coefficients at the markers: van Loo, and the paper's concentration version."""
    errors = {}
    for name, (volumes, ends, ratio, expected) in KIRKENDALL.items():
        V = excess_volume(*volumes)
        mole, profile = manufactured(V, *ends, z=np.linspace(-8, 8, 16001))

        def D(N: Array, V: MolarVolume = V) -> Array:
            return V(N) ** 2

        x_K = float(at_plane(mole.xi, profile.x, kirkendall_plane(mole, D, V, ratio, 1.0)))
        K = van_loo(profile, V, 1.0, x_K)
        from_B, from_A = (intrinsic_concentration(profile, V, 1.0, x_K, i) for i in ("B", "A"))
        errors[f"kirkendall-{name}"] = _off_known((K.N, x_K, K.D_B, K.D_A), expected)
        errors[f"kirkendall-{name}-ratio"] = off(intrinsic_ratio(profile, V, x_K), ratio)
        errors[f"kirkendall-{name}-darken"] = off(darken(K.D_A, K.D_B, K.N, V), D(K.N))
        shift = x_K - float(matano_plane(profile, V))
        drift = 2 * float(marker_velocity(K, V))
        if volumes[2] == 0:
            pairs = [(c.D_A, K.D_A) for c in (from_B, from_A)]
            pairs += [(c.D_B, K.D_B) for c in (from_B, from_A)]
            errors[f"kirkendall-{name}-identity"] = max(off(*pair) for pair in pairs)
            errors[f"kirkendall-{name}-velocity"] = off(shift, drift)
        else:
            known_B, known_A = KIRKENDALL_CONCENTRATION[name]
            errors[f"kirkendall-{name}-concentration-cb"] = _off_known(
                (from_B.D_B, from_B.D_A), known_B
            )
            errors[f"kirkendall-{name}-concentration-ca"] = _off_known(
                (from_A.D_B, from_A.D_A), known_A
            )
        if name == "excess":
            errors["kirkendall-excess-velocity"] = max(off(shift, 2.937091), off(drift, 3.067649))
        if name == "ideal":
            P, Q = (at_plane(profile.x, f, x_K) for f in mole_integrals(profile, V))
            errors["kirkendall-ideal-integrals"] = max(off(P, 0.683217), off(Q, 0.459279))
            errors["kirkendall-ideal-shift"] = off(shift, 3.02665)
        if name == "constant":
            P, Q = (at_plane(profile.x, f, x_K) for f in mole_integrals(profile, V))
            errors["kirkendall-constant-integrals"] = max(off(P, 0.780730), off(Q, 0.390365))
            errors["kirkendall-constant-shift"] = off(shift, 2.732555)
    return errors


def compounds() -> Errors:
    """Two line compounds: N = 0, 1/4, 5/11, 1, D_int = 1 and 2, t = 1."""
    N, true = np.array([0, 0.25, 5 / 11, 1]), np.array([1.0, 2.0])
    pure, slope = 7.12, 16.24 - 7.12
    ideal, actual = pure + slope * N, np.array([7.12, 8.59, 10.59, 16.24])
    errors = {}
    _, dx = line_compounds(N, ideal, true, 1.0)
    from_B, from_A = (integrated_concentration(N, ideal, dx, 1.0, i) for i in ("B", "A"))
    to_B, to_A = (integrated_conversion(ideal[1:-1], pure, 16.24, i) for i in ("B", "A"))
    errors["compounds-ideal-volumes"] = off(ideal[1:-1], (9.40, 11.265455))
    errors["compounds-ideal-thickness"] = off(dx, (2.414992, 3.298811))
    errors["compounds-ideal-wagner"] = off(integrated(N, ideal, dx, 1.0), true)
    errors["compounds-ideal-concentration"] = max(
        off(from_B, (0.080579, 0.112205)), off(from_A, (-0.183794, -0.255928))
    )
    errors["compounds-ideal-identity"] = max(off(from_B / to_B, true), off(from_A / to_A, true))

    _, dx = line_compounds(N, actual, true, 1.0)
    from_B, from_A = (integrated_concentration(N, actual, dx, 1.0, i) for i in ("B", "A"))
    to_B, to_A = (integrated_conversion(actual[1:-1], pure, 16.24, i) for i in ("B", "A"))
    errors["compounds-actual-thickness"] = off(dx, (2.440135, 3.273667))
    errors["compounds-actual-wagner"] = off(integrated(N, actual, dx, 1.0), true)
    errors["compounds-actual-concentration"] = max(
        off(from_B, (0.080908, 0.104891)), off(true * to_B, (0.096493, 0.126975))
    )
    errors["compounds-actual-ratio-cb"] = apart(from_B / to_B / true, (0.8385, 0.8261))
    errors["compounds-actual-ratio-ca"] = apart(from_A / to_A / true, (0.8005, 0.8722))

    to_B, to_A = (integrated_conversion(ideal[1:-1], pure, 16.24, i) for i in ("B", "A"))
    expected = (1.012672, 1.981277)
    assumed = [
        integrated(N, ideal, dx, 1.0),
        integrated_concentration(N, ideal, dx, 1.0, "B") / to_B,
        integrated_concentration(N, ideal, dx, 1.0, "A") / to_A,
    ]
    errors["compounds-assumed-ideal"] = max(off(D, expected) for D in assumed)
    errors["compounds-assumed-ideal-identity"] = max(off(D, assumed[0]) for D in assumed[1:])
    return errors


def single_compound() -> Errors:
    """One compound: D_int = dx^2 / 8t at N = 1/2; an incremental couple; the sum rule for V = 7."""
    _, half = line_compounds([0, 0.5, 1], [7, 7, 7], [1], 1.0)
    _, incremental = line_compounds([0, 0.25, 5 / 11], [7.12, 8.59, 10.59], [1], 1.0)
    N = np.array([0, 0.25, 5 / 11, 1])
    xi, _ = line_compounds(N, [7, 7, 7, 7], [1, 2], 1.0)
    x = 7 * xi
    return {
        "compound-half": off(half, np.sqrt(8)),
        "compound-incremental": off(incremental, 4.216370),
        "compound-interfaces": off(x, (-3.563578, -1.318644, 2.127798)),
        "compound-sum-rule": off(np.sum(np.diff(N) * x**2), 6.0),
    }


def compound_between_solutions() -> Errors:
    """A line compound between end members that keep a profile: sums replaced by integrals.

    The end members have constant Dm = 1, so their profiles are error functions; the right interface
    follows from the balance of moles at both interfaces for a given D_int.
    """
    V = excess_volume(7.12, 16.24, 1.5)
    N_minus, N_left, N_beta, N_right, N_plus = 0.0, 0.08, 0.4, 0.85, 1.0
    V_beta, t = 9.7, 1.0
    lam_left = -0.3

    def tail(lam: float, N_face: float, N_end: float, side: int) -> float:
        """dN/dlambda at the interface, N - N_end falling off like erfc(side lambda/2)."""
        drop = -side * np.exp(-(lam**2) / 4) / np.sqrt(np.pi) / (1 - side * erf(lam / 2))
        return (N_face - N_end) * drop

    # the flow k / d lambda inside the compound follows from the balance at the left interface
    flow = (N_left - N_beta) * lam_left / 2 + tail(lam_left, N_left, N_minus, -1)
    lam_right = brentq(
        lambda lam: (N_beta - N_right) * lam / 2 + flow - tail(lam, N_right, N_plus, 1),
        lam_left,
        6.0,
        xtol=1e-14,
    )
    true = flow * (lam_right - lam_left) * V_beta**2

    xi_l, xi_r = np.linspace(-12, lam_left, 40_001), np.linspace(lam_right, 12, 40_001)
    N_l = N_minus + (N_left - N_minus) * (1 + erf(xi_l / 2)) / (1 + erf(lam_left / 2))
    N_r = N_plus + (N_right - N_plus) * (1 - erf(xi_r / 2)) / (1 - erf(lam_right / 2))
    x_l = left_integral(V(N_l), xi_l)
    x_r = x_l[-1] + V_beta * (lam_right - lam_left) + left_integral(V(N_r), xi_r)
    x = np.concatenate([x_l, [x_l[-1], x_r[0]], x_r])
    N = np.concatenate([N_l, [N_beta, N_beta], N_r])
    found = integrated_in_profile(x, N, V(N), x_l[-1], x_r[0], N_beta, V_beta, N_minus, N_plus, t)
    return {"compound-with-solubility": off(found, true)}


def hall_method() -> Errors:
    """Hall's method on the error function of D = 1: D and k to rounding at both ends."""
    x = np.linspace(-4, 4, 81)
    N = (1 + erf(x / 2)) / 2
    ends = [hall(x, N, 0.0, 1.0, 1.0, 0.0, end) for end in ("left", "right")]
    return {
        "hall": max(off(end.D, 1.0) for end in ends),
        "hall-origin": max(abs(end.k) for end in ends),
    }


def forward_model(cells: int = 801, steps: int = 800) -> Errors:
    """Finite-volume truth with D = exp(2(N - 1/2)): its D comes back, by Wagner for every V_m."""
    errors = {}
    for name, volumes in (
        ("constant", (7, 7, 0)),
        ("ideal", (*NI_PD, 0)),
        ("excess", (*NI_PD, 0.4)),
    ):
        V = excess_volume(*volumes)
        mole = simulate(lambda N: np.exp(2 * (N - 0.5)), V, 1.0, 1.2, cells=cells, steps=steps)
        profile = mole.in_space(V)
        inner = (profile.N > 0.05) & (profile.N < 0.95)
        true = np.exp(2 * (profile.N - 0.5))[inner]
        errors[f"forward-{name}-wagner"] = off(wagner(profile, V, 1.0)[inner], true)
        errors[f"forward-{name}-den-broeder"] = off(den_broeder(profile, V, 1.0)[inner], true)
    return errors


CHECKS: tuple[Callable[[], Errors], ...] = (
    constant_molar_volume,
    ideal_molar_volume,
    non_ideal_molar_volume,
    wrong_volume,
    second_moment,
    pointwise_identity,
    convergence,
    kirkendall,
    compounds,
    single_compound,
    compound_between_solutions,
    hall_method,
    forward_model,
)


def errors() -> Errors:
    """All items of all checks."""
    found: Errors = {}
    for check in CHECKS:
        found.update(check())
    return found


def volume_balance(bend: float) -> Array:
    """V_A C_A + V_B C_B of Cu3Sn and Cu6Sn5, (2,), for the V_A and V_B that the answers ask for.

    int D dC over int D dN is V_A / V_m^2 from C_B and -V_B / V_m^2 from C_A, whatever the partial
    volumes are; those that make both answers right have to add up to 1, as in any substance.
    Volumes lie `bend` of the way from the straight line (0) to the actual ones (1).
    """
    N, true = np.array([0, 0.25, 5 / 11, 1]), np.array([1.0, 2.0])
    ideal, actual = 7.12 * (1 - N) + 16.24 * N, np.array([7.12, 8.59, 10.59, 16.24])
    V = ideal + bend * (actual - ideal)
    _, dx = line_compounds(N, V, true, 1.0)
    V_A = V[1:-1] ** 2 * integrated_concentration(N, V, dx, 1.0, "B") / true
    V_B = -(V[1:-1] ** 2) * integrated_concentration(N, V, dx, 1.0, "A") / true
    return np.asarray(((1 - N[1:-1]) * V_A + N[1:-1] * V_B) / V[1:-1])


def bent_volumes(job: Job) -> None:
    """Whether any partial volumes reconcile the integrated coefficients from C_A and C_B."""
    for bend in job.params.bend:
        for compound, balance in zip(("cu3sn", "cu6sn5"), volume_balance(bend), strict=True):
            job.measure("imbalance", abs(balance - 1), bend=bend, compound=compound)


def measure(job: Job) -> None:
    """Relations against couples whose coefficients are known in closed form."""
    for item, error in errors().items():
        job.measure("exact_error", error, item=item)
