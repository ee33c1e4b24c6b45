"""Whether a person's profile can be what it says: slips of unit, of column, of end composition.

What cannot be is refused with the quantity that is odd and the slip that is likely; what can be but
seldom is comes back as a line that is printed above the results.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.optimize import isotonic_regression

from methods.diffusion_couple.config import Config
from methods.diffusion_couple.posterior import Posterior, scatter
from repro.errors import ReproError

Array = NDArray[np.float64]
UM = 1e-6
# A microprobe resolves about 1 um, an instrument of depth profiles about 1 nm; couples are cut from
# pieces of millimetres.
SPAN_UM = (0.01, 1e5)
USUAL_SPAN_UM = (10.0, 1e4)
USUAL_TIME_S = (1800.0, 1e8)
# D in m^2/s: from what a depth profile can show after years to what liquids have.
DIFFUSIVITY = (1e-24, 1e-8)
USUAL_DIFFUSIVITY = (1e-19, 1e-10)
BEYOND = 0.02  # of the range of compositions, and of mole fractions beyond 0 and 1
LEVEL = 0.01  # a plateau is level within this share of the range
NOISE = (0.03, 0.1)  # of the range of compositions: told, refused
MISSING = 0.4  # of the range between the end of the profile and its end composition
FEW = 8  # points in the diffusion zone
FALL = 0.05  # root mean square of what falls, of the range
WILD = 0.1  # of the range, off the neighbours
OUTLIER = 6.0  # standard deviations


def check_time(config: Config) -> list[str]:
    """What is odd about the annealing."""
    low, high = USUAL_TIME_S
    odd = []
    if not low <= config.t_s <= high:
        odd.append(
            f"t_s is {config.t_s:g} s ({config.t_s / 3600:.2g} h): is it in seconds? D is "
            "inversely proportional to it"
        )
    if not -50 <= config.T_C <= 3000:
        odd.append(f"T_C is {config.T_C:g}: is it in degrees Celsius?")
    table = config.V_m.table
    if table is not None:
        N_low, N_high = sorted((config.N_left, config.N_right))
        if table[0][0] > N_low + BEYOND or table[-1][0] < N_high - BEYOND:
            odd.append(
                f"the table of V_m runs from N = {table[0][0]:g} to {table[-1][0]:g} and is "
                "continued in straight lines"
            )
        for N, V, key in ((0.0, config.V_A, "V_A"), (1.0, config.V_B, "V_B")):
            given = [v for n, v in table if n == N]
            if given and abs(given[0] / V - 1) > 0.05:
                odd.append(f"the table of V_m has {given[0]:g} at N = {N:g} but {key} is {V:g}")
    return odd


def check_points(x: Array, N: Array, config: Config) -> list[str]:
    """What is odd about the points x (n,), m, and N (n,).

    Raises:
        ReproError: they cannot be a profile of this couple.
    """
    spread = scatter(N)
    if len(N) >= 20 and spread > NOISE[1] * np.ptp(N):
        raise ReproError(
            f"neighbouring points scatter by {spread:.2g} where N_B runs from {N.min():.3g} to "
            f"{N.max():.3g}; measure longer, or average neighbours"
        )
    _check_fractions(x, N, max(BEYOND, 5 * spread))
    odd = _check_span(np.ptp(x) / UM)
    if config.x_K_um is not None and not x[0] <= config.x_K_um * UM <= x[-1]:
        raise ReproError(
            f"x_K_um = {config.x_K_um:g} lies outside the profile, which runs from "
            f"{x[0] / UM:g} to {x[-1] / UM:g} um; check its position"
        )
    low, high = config.N_left, config.N_right
    if np.ptp(N) < 0.2 * abs(high - low):
        raise ReproError(
            f"N_B changes only from {N.min():.4g} to {N.max():.4g} but the configuration says from "
            f"{low:g} to {high:g}; check the column N_B, N_left and N_right"
        )
    edge = max(2, len(N) // 20)
    first, last = N[:edge].mean(), N[-edge:].mean()
    if (last - first) * (high - low) <= 0:
        raise ReproError(
            f"N_B runs from {first:.3g} to {last:.3g} but the configuration says from {low:g} "
            f"to {high:g}; swap N_left and N_right"
        )
    return odd


def _check_fractions(x: Array, N: Array, beyond: float) -> None:
    if N.max() <= 1 + beyond and N.min() >= -beyond:
        return
    worst = N.max() if N.max() > 1 + beyond else N.min()
    if N.max() > 110 and np.ptp(x) <= 2 * UM:
        hint = "are the columns swapped?"
    elif N.max() > 1.5:
        hint = "divide at.% by 100"
    else:
        hint = "calibrate it, or subtract the background"
    raise ReproError(f"N_B reaches {worst:g}, which is no mole fraction; {hint}")


def _check_span(span: float) -> list[str]:
    if not SPAN_UM[0] <= span <= SPAN_UM[1]:
        slip = "is x_um in metres or millimetres?" if span < 1 else "is x_um in nanometres?"
        raise ReproError(
            f"the profile is {span:.3g} um wide, where couples are {SPAN_UM[0]:g} to "
            f"{SPAN_UM[1]:g} um; {slip}"
        )
    if not USUAL_SPAN_UM[0] <= span <= USUAL_SPAN_UM[1]:
        slip = "millimetres" if span < 100 else "nanometres"
        return [f"the profile is {span:.3g} um wide: is x_um in micrometres, not in {slip}?"]
    return []


def check_shape(x: Array, N: Array, config: Config) -> list[str]:
    """What is odd about the ends and the rise of a profile whose N_B rises with x.

    Args:
        x, N: (n,) points, mirrored where N_left is the larger.

    Raises:
        ReproError: it falls, a plateau is not at its end composition, or the end lies far from it.
    """
    keys, sign = ("N_left", "N_right"), 1
    if config.N_left > config.N_right:
        keys, sign = ("N_right", "N_left"), -1
    low, high = sorted((config.N_left, config.N_right))
    Y = (N - low) / (high - low)
    _check_outliers(sign * x, N, Y)
    rising = isotonic_regression(Y).x
    off = np.abs(Y - rising)
    if np.sqrt(np.mean(off**2)) > max(FALL, 3 * scatter(Y)):
        worst = int(np.argmax(off))
        raise ReproError(
            f"N_B rises and falls, by {off[worst] * (high - low):.2g} near x_um = "
            f"{sign * x[worst] / UM:.4g}, where a profile runs one way; check the points there"
        )
    inner = np.interp([0.1, 0.9], [0, 1], [rising[0], rising[-1]])
    zone = float(np.ptp(x[np.searchsorted(rising, inner).clip(max=len(x) - 1)]))
    odd = _check_end(keys[0], low, high - low, x, Y, zone)
    return odd + _check_end(keys[1], high, low - high, -x[::-1], 1 - Y[::-1], zone)


def _check_outliers(x: Array, N: Array, Y: Array) -> None:
    # where points only rise, each is the median of itself and two neighbours on either side
    off = np.abs(Y - median_filter(Y, 5, mode="nearest"))
    worst = int(np.argmax(off))
    if off[worst] > max(WILD, 20 * scatter(Y)):
        raise ReproError(
            f"the point at x_um = {x[worst] / UM:.4g} with N_B = {N[worst]:.4g} lies "
            f"{100 * off[worst]:.0f} % of the range off its neighbours; mend or remove it"
        )


def _check_end(key: str, end: float, span: float, x: Array, off: Array, zone: float) -> list[str]:
    """What is odd about one end.

    Args:
        key: the end composition `end` in the configuration; span: from it to the other.
        x, off: (n,) points from that end on, and how far they are on the way to the other end.
        zone: width of the diffusion zone, m.
    """
    side, noise = key.removeprefix("N_"), scatter(off)
    edge = max(3, len(off) // 20)
    first = float(np.median(off[:edge]))
    same = np.abs(off - first) <= max(LEVEL, 4 * noise)
    level = int(np.argmin(same)) if not same.all() else len(same)
    is_level = level >= edge and x[level - 1] - x[0] > 0.2 * zone
    found = end + first * span
    if abs(first) > max(BEYOND, 6 * noise):
        if is_level or first < 0:
            how = "is level at" if is_level else "begins beyond, at"
            raise ReproError(
                f"N_B {how} {found:.4g} on the {side} but {key} is {end:g}; give the composition "
                "that the end of the couple has (D depends on it)"
            )
        if first > MISSING:
            raise ReproError(
                f"the {side} end of the profile is {found:.3g}, {100 * first:.0f} % of the range "
                f"away from {key} = {end:g}; measure further out, or correct {key}"
            )
        return [
            f"the {side} end of the profile lies {100 * first:.0f} % of the range away from "
            f"{key} = {end:g}: the fit continues it, and coefficients near that end rest on that "
            "continuation"
        ]
    if is_level and abs(first) > max(0.003, 4 * noise / np.sqrt(edge)):
        return [f"N_B is level at {found:.4g} on the {side} where {key} is {end:g}: is that so?"]
    return []


def check_fit(x: Array, N: Array, fit: Posterior, span: float) -> list[str]:
    """What is odd about points x (n,), N (n,) beside their fit.

    Args:
        span: range of compositions of the couple.

    Raises:
        ReproError: the points are too noisy.
    """
    noise = fit.noise / span
    if noise > NOISE[1]:
        raise ReproError(
            f"the points scatter by {100 * noise:.0f} % of the range of compositions (at most "
            f"{100 * NOISE[1]:.0f} %); measure longer, or average neighbours"
        )
    odd = []
    if noise > NOISE[0]:
        odd.append(f"the points scatter by {100 * noise:.1f} % of the range of compositions")
    usual = np.median(np.abs(fit.misfit)) / 0.6745
    worst = int(np.argmax(np.abs(fit.misfit)))
    if abs(fit.misfit[worst]) > max(OUTLIER * usual, 1e-3 * span):
        odd.append(
            f"the point at x_um = {x[worst] / UM:.4g} with N_B = {N[worst]:.4g} lies "
            f"{abs(fit.misfit[worst]) / span * 100:.1f} % of the range off the fit: is it a slip?"
        )
    inside = int(np.sum((N > N.min() + 0.05 * span) & (N < N.max() - 0.05 * span)))
    if inside < FEW:
        odd.append(f"only {inside} points lie inside the diffusion zone: D rests on few of them")
    left, right = fit.misfit[:-1], fit.misfit[1:]
    if len(N) >= 20 and noise > 1e-4 and left @ right > 0.5 * (left @ left):
        odd.append(
            "neighbouring points lie off the fit to the same side: their errors are not "
            "independent, or the fit misses a bend; then the intervals are too narrow"
        )
    return odd


def check_diffusivities(D: Array) -> list[str]:
    """What is odd about interdiffusion coefficients (k,), m^2/s.

    Raises:
        ReproError: no solid diffuses so.
    """
    typical = float(np.median(D))
    slip = "check the units of x_um (micrometres) and t_s (seconds)"
    if not DIFFUSIVITY[0] <= typical <= DIFFUSIVITY[1]:
        raise ReproError(
            f"D would be {typical:.2g} m2/s, where solids have {DIFFUSIVITY[0]:g} to "
            f"{DIFFUSIVITY[1]:g}; {slip}"
        )
    if not USUAL_DIFFUSIVITY[0] <= typical <= USUAL_DIFFUSIVITY[1]:
        return [f"D is {typical:.2g} m2/s, which is unusual for a diffusion couple: {slip}"]
    return []
