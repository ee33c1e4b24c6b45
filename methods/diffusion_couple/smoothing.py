r"""From measured points to a smooth rising profile, and its uncertainty.

In u = erfinv(2Y - 1) an ideal profile is a straight line, so the curve sought is a natural cubic
spline u(x) with little bending, and

    N = N^- + dN (1 + erf u)/2,   dN/dx = dN e^{-u^2} u' / sqrt(pi)

rises wherever u does; beyond the points the straight continuation of u gives it proper tails.

The same noise in Y everywhere means a variance of u that grows like exp(2 u^2): points weigh
exp(-2 u^2). Minimised is sum (Y - Y(u))^2 + lambda int u''^2 dx, by Gauss-Newton steps, each of
them a weighted smoothing spline; points that noise carried beyond an end composition still count.
lambda comes from generalised cross-validation, with the fitted degrees of freedom counted 1.4-fold
against its habit of now and then following the noise (Kim and Gu 2004).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh
from scipy.special import erf, erfinv

from methods.diffusion_couple.method import Profile

Array = NDArray[np.float64]
LAMBDAS = np.logspace(-12, 1, 105)  # for x in units of its span; the last is a straight line
FREEDOM = 1.4
FLAT = 3.0  # beyond |u| = 3 a point weighs less than 1e-7: the weight is held there
STEPS, CHOOSING = 60, 10


def roughness(x: Array) -> Array:
    """(n, n) matrix K with f'Kf = int f''^2 dx for the natural cubic spline through f at x (n,)."""
    n, h = len(x), np.diff(x)
    Q = np.zeros((n, n - 2))
    R = np.zeros((n - 2, n - 2))
    j = np.arange(n - 2)
    Q[j, j], Q[j + 1, j], Q[j + 2, j] = 1 / h[:-1], -1 / h[:-1] - 1 / h[1:], 1 / h[1:]
    R[j, j] = (h[:-1] + h[1:]) / 3
    R[j[:-1], j[:-1] + 1] = R[j[:-1] + 1, j[:-1]] = h[1:-1] / 6
    return np.asarray(Q @ np.linalg.solve(R, Q.T), dtype=float)


def smooth(K: Array, w: Array, z: Array, lam: float | Array) -> Array:
    """The smoothing spline of values z with weights w: (W + lambda K) f = W z.

    K: (n, n); w, z: (..., n); lam: scalar or (...). Returns (..., n).
    """
    A = np.asarray(lam, dtype=float)[..., None, None] * K + w[..., None] * np.eye(len(K))
    return np.asarray(np.linalg.solve(A, (w * z)[..., None])[..., 0], dtype=float)


def cross_validated(K: Array, w: Array, z: Array) -> float:
    """lambda of `LAMBDAS` with the least generalised cross-validation score; w, z: (n,), w > 0."""
    n, root = len(z), np.sqrt(w)
    s, U = eigh(K / np.outer(root, root))
    s = np.clip(s, 0.0, None)
    s[:2] = 0.0  # straight lines cost nothing
    shrink = LAMBDAS[:, None] * s / (1 + LAMBDAS[:, None] * s)
    left = n - FREEDOM * (n - shrink.sum(axis=1))
    misfit = np.sum((shrink * (U.T @ (root * z))) ** 2, axis=1)
    allowed = left > 0
    return float(LAMBDAS[allowed][np.argmin(misfit[allowed] / left[allowed] ** 2)])


def _working(u: Array, Y: Array) -> tuple[Array, Array]:
    """Weights and values of the Gauss-Newton step at u: exp(-2u^2) and u + (Y - Y(u)) / Y'(u)."""
    u = np.clip(u, -FLAT, FLAT)
    slope = np.exp(-(u**2)) / np.sqrt(np.pi)
    return np.exp(-2 * u**2), u + (Y - (1 + erf(u)) / 2) / slope


@dataclass(frozen=True)
class ProbitSpline:
    """A fitted u(x), natural cubic between its knots and straight beyond them.

    Attributes:
        knots: (n,) positions of the points, m.
        u: (..., n) values at the knots.
        smoothing: lambda, for x in units of the span of the knots.
        N_minus, N_plus: end compositions.
    """

    knots: Array
    u: Array
    smoothing: float
    N_minus: float
    N_plus: float

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """u and du/dx at x (m,): two arrays (..., m)."""
        spline = CubicSpline(self.knots, np.moveaxis(self.u, -1, 0), bc_type="natural")
        inside = np.clip(x, self.knots[0], self.knots[-1])
        slope = np.moveaxis(spline(inside, 1), 0, -1)
        return np.moveaxis(spline(inside), 0, -1) + slope * (x - inside), slope

    def rising(self) -> NDArray[np.bool_]:
        """(...) whether u rises everywhere."""
        grid = np.linspace(self.knots[0], self.knots[-1], 10 * len(self.knots))
        return np.all(self(grid)[1] > 0, axis=-1)

    def grid(self, nodes: int = 1001, reach: float = 4.5) -> Array:
        """(nodes,) equidistant positions that carry |u| to `reach` (Y within 1e-9 of its ends)."""
        (u0, u1), (s0, s1) = self(self.knots[[0, -1]])
        lo = self.knots[0] - max(reach + u0, 0.0) / s0
        hi = self.knots[-1] + max(reach - u1, 0.0) / s1
        return np.linspace(lo, hi, nodes)

    def profile(self, x: Array) -> Profile:
        """The smooth profile at x (m,): arrays (..., m)."""
        u, slope = self(x)
        dN = self.N_plus - self.N_minus
        return Profile(
            x,
            self.N_minus + dN * (1 + erf(u)) / 2,
            dN * np.exp(-(u**2)) / np.sqrt(np.pi) * slope,
            self.N_minus,
            self.N_plus,
        )


def fit(
    x: Array, N: Array, N_minus: float, N_plus: float, *, smoothing: float | None = None
) -> ProbitSpline:
    """Fit the probit smoothing spline to points x (n,) rising, N (n,).

    If the chosen curve falls somewhere, or the steps do not settle, smoothing is raised until it
    rises everywhere.

    Args:
        smoothing: lambda, for x in units of its span; None chooses it.

    Raises:
        ValueError: fewer than five points lie between the end compositions (Y in 0.02 to 0.98), or
            they do not rise from left to right.
    """
    x, N = np.asarray(x, dtype=float), np.asarray(N, dtype=float)
    scaled = (x - x[0]) / np.ptp(x)
    Y = (N - N_minus) / (N_plus - N_minus)
    middle = (Y > 0.02) & (Y < 0.98)
    if middle.sum() < 5:
        raise ValueError(
            f"{middle.sum()} points lie between the end compositions (Y from 0.02 to 0.98); "
            "a fit needs five"
        )
    line = np.polyfit(scaled[middle], erfinv(2 * Y[middle] - 1), 1)
    if line[0] <= 0:
        raise ValueError("the points do not rise from the left to the right end")
    K = roughness(scaled)
    lam = 0.0 if smoothing is None else smoothing  # chosen in the first steps
    while True:
        u = np.polyval(line, scaled)
        for step in range(STEPS):
            w, z = _working(u, Y)
            if smoothing is None and step < CHOOSING:
                lam = cross_validated(K, w, z)
            before, u = u, smooth(K, w, z, lam)
            # the far tails weigh nothing and may creep: judge by the profile
            if step >= CHOOSING and np.max(np.abs(erf(u) - erf(before))) < 1e-8:
                spline = ProbitSpline(x, u, lam, N_minus, N_plus)
                if spline.rising():
                    return spline
                break
        lam = smoothing = 4 * lam
        if lam > 1e3:
            raise ValueError("the points do not rise from the left to the right end")


def bootstrap(
    spline: ProbitSpline,
    N: Array,
    rng: np.random.Generator,
    *,
    resamples: int = 200,
    chunk: int = 20_000_000,
) -> ProbitSpline:
    """Refit `spline` to resamples of its points N (n,), drawn with replacement, all at once.

    The amount of smoothing stays that of `spline`; where a resample falls somewhere it is raised
    for that resample. Returns a spline with u of shape (resamples, n).
    """
    n = len(spline.knots)
    Y = (np.asarray(N, dtype=float) - spline.N_minus) / (spline.N_plus - spline.N_minus)
    counts = rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float)
    K = roughness((spline.knots - spline.knots[0]) / np.ptp(spline.knots))
    lam, u = np.full(resamples, spline.smoothing), np.tile(spline.u, (resamples, 1))
    size = max(1, chunk // n**2)
    todo = np.arange(resamples)
    while len(todo):
        for part in np.split(todo, range(size, len(todo), size)):
            guess = np.tile(spline.u, (len(part), 1))
            for _ in range(4):  # the start is the fit to all points, so few steps settle it
                w, z = _working(guess, Y)
                guess = smooth(K, w * counts[part], z, lam[part])
            u[part] = guess
        todo = todo[~replace(spline, u=u[todo]).rising()]
        lam[todo] *= 4
    return replace(spline, u=u)
