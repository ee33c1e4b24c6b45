"""Synthetic analogues of the paper's three systems, with known diffusivities.

Their volumes and diffusivities are a set-up in the range of handbooks, not the paper's numbers
(which were not available). Units: m, s, m^3/mol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

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
    excess_volume,
    table_volume,
)

Array = NDArray[np.float64]
CM3 = 1e-6
HOUR = 3600.0


@dataclass(frozen=True)
class Couple:
    """A single-phase couple: the truth and where it is measured."""

    name: str
    V: MolarVolume
    D: Callable[[Any], Array]
    profile: Profile
    t: float
    x_K: float | None = None
    ratio: float | None = None

    def points(self, n: int, noise: Array) -> tuple[Array, Array]:
        """n equidistant positions over Y from 2e-4 to 1 - 2e-4 and N there plus `noise` (n,)."""
        Y = self.profile.Y
        rising = np.flatnonzero(np.diff(Y, prepend=-1.0) > 0)
        lo, hi = np.interp([2e-4, 1 - 2e-4], Y[rising], self.profile.x[rising])
        x = np.linspace(lo, hi, n)
        return x, PchipInterpolator(self.profile.x, self.profile.N)(x) + noise


def _constant_mobility(name: str, V: MolarVolume, ratio: float = 2.0) -> Couple:
    """A pure couple A/B in which D/V_m^2 is constant; D(1/2) = 6.9e-15 m^2/s, 100 h.

    6.9e-15 m^2/s is the order of Ni-Pd at 900 C (Christien et al. 2010, thin films).
    """
    t, Dm = 100 * HOUR, 6.9e-15 / float(V(0.5)) ** 2

    def D(N: Array) -> Array:
        return Dm * V(N) ** 2

    mole, profile = manufactured(V, Dm=Dm, t=t)
    x_K = at_plane(mole.xi, profile.x, kirkendall_plane(mole, D, V, ratio, t))
    return Couple(name, V, D, profile, t, float(x_K), ratio)


@cache
def ni_pd_like(w: float) -> Couple:
    """Solid solution, 6.59/8.86 cm^3/mol, excess parameter w (cm^3/mol), D_B/D_A = 2."""
    return _constant_mobility("ni-pd", excess_volume(6.59 * CM3, 8.86 * CM3, w * CM3))


@cache
def strong() -> Couple:
    """A system far from ideal: 7.12/16.29 cm^3/mol, w = -4 (9 % less volume at N = 1/2)."""
    return _constant_mobility("strong", excess_volume(7.12 * CM3, 16.29 * CM3, -4 * CM3))


@cache
def ni_al_like(kink: float = 3.0) -> Couple:
    """An ordered phase, N = 0.42 to 0.52: V_m with a kink at 1/2 and D with a minimum at 0.48.

    V_m rises from 7.10 to 7.25 cm^3/mol on the A-rich side and `kink` times as steeply on the
    B-rich side, where vacancies swell the volume per mole of atoms; kink = 1 is ideal.
    """
    V = table_volume(
        [0.42, 0.50, 0.52], np.array([7.10, 7.25, 7.25 + kink * 0.02 * 0.15 / 0.08]) * CM3
    )
    t = 24 * HOUR

    def D(N: Array) -> Array:
        return 2e-15 * np.exp(0.5 * ((N - 0.48) / 0.03) ** 2)

    L = 7 * np.sqrt(D(np.array(0.42)) * t) / float(V(0.42))
    mole = simulate(D, V, t, float(L), 0.42, 0.52, cells=1201, steps=400)
    return Couple("ni-al", V, D, mole.in_space(V), t)


@dataclass(frozen=True)
class Layers:
    """A couple of pure elements with two line compounds, N = 1/4 and 5/11."""

    name: str
    compounds: tuple[str, ...]
    N: Array
    V: Array
    dx: Array
    D_int: Array
    t: float

    @property
    def V_ideal(self) -> Array:
        """Molar volumes of the phases if V_m were the straight line between the pure elements."""
        return self.V[0] * (1 - self.N) + self.V[-1] * self.N


@cache
def cu_sn_like(ideal: bool = False) -> Layers:
    """Cu3Sn and Cu6Sn5 between pure elements, D_int = 1e-17 and 2e-17 m^2/s, 10 days.

    Volumes per mole of atoms 7.12, 8.59, 10.59, 16.24 cm^3/mol, or with `ideal` the straight line
    from 7.12 to 16.24.
    """
    N = np.array([0.0, 0.25, 5 / 11, 1.0])
    V = (7.12 * (1 - N) + 16.24 * N if ideal else np.array([7.12, 8.59, 10.59, 16.24])) * CM3
    D_int, t = np.array([1e-17, 2e-17]), 240 * HOUR
    _, dx = line_compounds(N, V, D_int, t)
    name = "cu-sn-ideal" if ideal else "cu-sn"
    return Layers(name, ("cu3sn", "cu6sn5"), N, V, dx, D_int, t)
