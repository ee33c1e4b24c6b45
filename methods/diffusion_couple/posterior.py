r"""From a person's points, few or thousands, to a smooth rising profile and what else it may be.

As in `methods.diffusion_couple.smoothing`, u = erfinv(2Y - 1) is a natural cubic spline,

    N = N^- + dN (1 + erf u)/2,   Y_i = Y(u(x_i)) + e_i,   e_i ~ N(0, s^2)

and pi sum (Y_i - Y(u))^2 + lambda int u''^2 dx is minimised by Gauss-Newton steps. Here the spline
has at most `KNOTS` knots, spread over the diffusion zone, in a basis of B-splines: a step is one
banded solve, positions may repeat, and the cost grows linearly with the number of points.

The penalty is the logarithm of a prior (Wahba 1978). Drawn from the posterior are lambda (by its
marginal likelihood on a grid, flat in log lambda), then s^2, then u; what does not rise is left
out. Such intervals hold the bias of smoothing beside the scatter of the points (Wahba 1983, Nychka
1988), and what is not known of lambda.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.linalg import cho_solve_banded, cholesky_banded, solve_banded
from scipy.optimize import isotonic_regression
from scipy.special import erf, erfinv

from methods.diffusion_couple.smoothing import ProbitSpline

Array = NDArray[np.float64]
KNOTS = 80
LAMBDAS = np.logspace(-12, 2, 71)  # times the number of points, for x in widths of the zone
WIDTH = 2 * erfinv(0.9)  # of the zone, Y from 0.05 to 0.95, in u
FLAT = 4.0  # beyond |u| = 4 a point weighs less than 1e-13
ROUNDING = 1e-7  # least noise of Y: points without noise still leave the spline some freedom
STEPS = 100
SETTLED = 1e-5  # of what one point adds to the loss, that a last step may still save
SWING = 0.2
"""Least bending that is thought possible: the slope of u, and D with its inverse square, changes
over the diffusion zone by this share (one standard deviation). Else noisy points that fit one
constant D would give intervals as narrow as if that were known. The fit itself may be straight."""
BATCHES = 40


@dataclass(frozen=True)
class Basis:
    """B-splines combined to natural cubic splines on m knots, straight beyond them.

    Attributes:
        knots: (m,) rising.
        spline: the m functions.
        bend: (m, m), u'' at the knots is bend c; it is straight between them.
        penalty: (4, m) upper bands of the matrix K with c'Kc = int u''^2 dx.
    """

    knots: Array
    spline: BSpline
    bend: sparse.csr_array
    penalty: Array

    @classmethod
    def on(cls, knots: Array) -> Basis:
        m = len(knots)
        t = np.r_[[knots[0]] * 3, knots, [knots[-1]] * 3]
        bend = BSpline(t, np.eye(m + 2), 3).derivative(2)(knots)
        # u'' vanishes at both ends, which gives the outermost coefficients
        natural = np.zeros((m + 2, m))
        natural[1:-1] = np.eye(m)
        natural[0, :2] = -bend[0, 1:3] / bend[0, 0]
        natural[-1, -2:] = -bend[-1, -3:-1] / bend[-1, -1]
        bend = sparse.csr_array(bend @ natural)
        h = np.diff(knots)
        mass = sparse.diags_array(
            [h / 6, (np.r_[h, 0] + np.r_[0, h]) / 3, h / 6], offsets=[-1, 0, 1]
        )
        return cls(knots, BSpline(t, natural, 3), bend, _bands(bend.T @ mass @ bend))

    def __call__(self, x: Array) -> sparse.csr_array:
        """(n, m) values of the functions at x (n,)."""
        inside = np.clip(x, self.knots[0], self.knots[-1])
        beyond = (x - inside)[:, None]
        return sparse.csr_array(self.spline(inside) + beyond * self.spline(inside, 1))

    def bending(self, c: Array) -> Array:
        """int u''^2 dx of each column of c (m, l); never negative, as c'Kc may be by rounding."""
        a, b = (self.bend @ c)[:-1], (self.bend @ c)[1:]
        return np.asarray(np.diff(self.knots) @ (a * a + a * b + b * b) / 3)


def _bands(A: sparse.csr_array) -> Array:
    """Upper bands (4, m) of a symmetric matrix with three diagonals beside the main one."""
    return np.stack([np.r_[np.zeros(d), A.diagonal(d)] for d in (3, 2, 1, 0)])


@dataclass(frozen=True)
class Posterior:
    """What the points say of the profile.

    Attributes:
        curve: the fit.
        draws: splines drawn from the posterior, u (r, m).
        noise: standard deviation of a point, mole fraction.
        misfit: (n,) N minus the curve at the points.
    """

    curve: ProbitSpline
    draws: ProbitSpline
    noise: float
    misfit: Array


@dataclass(frozen=True)
class _Linear:
    """The problem in the neighbourhood of a curve, solved for every lambda of `LAMBDAS`.

    factors: Cholesky factors of X'WX + n lambda K. c: (l, m). loss: (l,), the minimum of
    pi sum (Y - Y(u))^2 + n lambda c'Kc, to second order. evidence: (l,) log likelihood of lambda.
    """

    factors: list[Array]
    c: Array
    loss: Array
    evidence: Array


def _working(u: Array, Y: Array) -> tuple[Array, Array]:
    """Weights w = pi Y'(u)^2 and values z = u + (Y - Y(u)) / Y'(u) of the Gauss-Newton step at u.

    Where w would vanish it is held, and z keeps the gradient w (z - u) = pi (Y - Y(u)) Y'(u).
    """
    slope = np.exp(-(u**2)) / np.sqrt(np.pi)
    w = np.pi * np.maximum(slope, np.exp(-(FLAT**2)) / np.sqrt(np.pi)) ** 2
    return w, u + np.pi * (Y - _Y(u)) * slope / w


def _Y(u: Array) -> Array:
    return np.asarray((1 + erf(u)) / 2)


def scatter(Y: Array, *, level: bool = True) -> float:
    """Noise of neighbouring points (n,), from what each lies off the line through its neighbours.

    The median, so that neither a steep profile nor a few outliers count.

    Args:
        level: with points that are level to the last digit, as an end that was cut off at 0 or 1.
    """
    off = np.abs(Y[1:-1] - (Y[2:] + Y[:-2]) / 2)
    if not level:
        off = np.r_[0.0, off[off > 0]]
    return float(np.median(off) / (0.6745 * np.sqrt(1.5)))


def _knots(x: Array, Y: Array) -> Array:
    """Knots at points (n,) of the diffusion zone: beyond it the points say nothing of u."""
    rising = isotonic_regression(Y).x
    edge = np.clip(scatter(Y, level=False) / 3, 1e-4, 0.02)
    zone = np.flatnonzero((rising > edge) & (rising < 1 - edge))
    part = slice(max(zone[0] - 1, 0), zone[-1] + 2)
    x, rising = x[part], rising[part]
    places = np.unique(x)
    if len(places) > KNOTS:
        # half of them even among the points, half of them even in Y
        along = np.linspace(0, 1, len(x)) + (rising - rising[0]) / (rising[-1] - rising[0])
        places = np.unique(x[np.searchsorted(along, np.linspace(0, 2, KNOTS)).clip(max=len(x) - 1)])
    # two that all but coincide would only worsen the condition
    cells = np.floor((places - places[0]) / np.ptp(places) * 5 * KNOTS)
    return places[np.unique(cells, return_index=True)[1]]


def fit(
    x: Array, N: Array, N_minus: float, N_plus: float, rng: np.random.Generator, *,
    draws: int = 400, progress: Callable[[str], object] = str,
) -> Posterior:  # fmt: skip
    """Fit points x (n,), not falling, N (n,), and draw from the posterior of the curve.

    Args:
        progress: takes a line on what is being done.

    Raises:
        ValueError: fewer than five points lie between the end compositions (Y in 0.02 to 0.98), or
            they do not rise from left to right, or are too noisy to say how.
    """
    Y = (N - N_minus) / (N_plus - N_minus)
    middle = (Y > 0.02) & (Y < 0.98)
    if len(np.unique(x[middle])) < 5:
        raise ValueError(
            f"{middle.sum()} points lie between the end compositions (Y from 0.02 to 0.98); "
            "a fit needs five at different positions"
        )
    start, span = x[middle][0], np.ptp(x[middle])
    slope, offset = np.polyfit((x[middle] - start) / span, erfinv(2 * Y[middle] - 1), 1)
    if slope <= 0:
        raise ValueError("the points do not rise from the left to the right end")
    zone = span * WIDTH / slope
    scaled = (x - start) / zone
    basis = Basis.on(_knots(scaled, Y))
    X, at_knots = basis(scaled), basis(basis.knots)
    knots = start + zone * basis.knots

    def curve(c: Array) -> ProbitSpline:
        return ProbitSpline(knots, (at_knots @ c.T).T, np.nan, N_minus, N_plus)

    progress(f"fitting {len(x)} points")
    problem = _Problem(basis, X, Y)
    c, choice = problem.chosen(problem.step(WIDTH * scaled + offset, len(LAMBDAS) - 1))
    while not curve(c).rising():
        choice += 3  # four times the smoothing
        if choice >= len(LAMBDAS):
            raise ValueError("the points do not rise from the left to the right end")
        c = problem.settled(c, choice)
    progress(f"drawing {draws} curves that fit them as well")
    near = problem.near(c)
    prior = _prior(len(x), max(scatter(Y, level=False), ROUNDING))
    found = _draw(near, prior, len(x), lambda c: curve(c).rising(), rng, draws)
    noise = np.sqrt(near.loss[choice] / np.pi / (len(x) - 2))
    scale = abs(N_plus - N_minus)
    misfit = (N_plus - N_minus) * (Y - _Y(X @ c))
    return Posterior(curve(c), curve(found), float(noise * scale), misfit)


def _prior(n: int, noise: float) -> Array:
    """Logarithm of the prior of `LAMBDAS`: flat, up to that of the least bending.

    u'' is white noise of the density pi noise^2 / (n lambda), so that u' changes by its root over
    the zone, whose width is 1 and where u' is about `WIDTH`.
    """
    most = np.pi * noise**2 / (SWING * WIDTH) ** 2 / n
    return np.where(np.max([LAMBDAS[0], most]) >= LAMBDAS, 0.0, -np.inf)


@dataclass(frozen=True)
class _Problem:
    """min over c of pi sum (Y - Y(Xc))^2 + n lambda c'Kc; X (n, m), Y (n,)."""

    basis: Basis
    X: sparse.csr_array
    Y: Array

    def near(self, c: Array) -> _Linear:
        """The problem in the neighbourhood of c, for every lambda."""
        (n, m), u = self.X.shape, self.X @ c
        w, z = _working(u, self.Y)
        G, b = _bands((self.X.T * w) @ self.X), self.X.T @ (w * z)
        factors = [cholesky_banded(G + lam * self.basis.penalty) for lam in n * LAMBDAS]
        all_c = np.stack([cho_solve_banded((factor, False), b) for factor in factors])
        # z'Wz - b'c would cancel where the points have no noise
        off = z[:, None] - self.X @ all_c.T
        # points far out, whose weight is held, count with what they are off at u
        far = np.pi * np.sum((self.Y - _Y(u)) ** 2) - w @ (z - u) ** 2
        loss = far + w @ off**2 + n * (LAMBDAS * self.basis.bending(all_c.T))
        loss = np.maximum(loss, 0.0) + n * np.pi * ROUNDING**2
        size = np.array([np.log(factor[3]).sum() for factor in factors])
        evidence = (m - 2) / 2 * np.log(LAMBDAS) - size - (n - 2) / 2 * np.log(loss)
        return _Linear(factors, all_c, loss, evidence)

    def step(self, u: Array, choice: int) -> Array:
        """Coefficients of the Gauss-Newton step from u (n,) with `LAMBDAS[choice]`, (m,)."""
        w, z = _working(u, self.Y)
        A = _bands((self.X.T * w) @ self.X) + len(u) * LAMBDAS[choice] * self.basis.penalty
        return np.asarray(cho_solve_banded((cholesky_banded(A), False), self.X.T @ (w * z)))

    def loss(self, c: Array, choice: int) -> float:
        off = self.Y - _Y(self.X @ c)
        bent = LAMBDAS[choice] * self.basis.bending(c[:, None])[0]
        return float(np.pi * off @ off + len(off) * bent)

    def settled(self, c: Array, choice: int) -> Array:
        """Gauss-Newton steps from c until the loss stays, (m,)."""
        for _ in range(STEPS):
            step = self.step(self.X @ c, choice) - c
            before, part = self.loss(c, choice), 1.0
            while (after := self.loss(c + part * step, choice)) >= before:
                part /= 2
                if part < 1e-6:  # downhill, but by less than rounding
                    return c
            c = c + part * step
            if before - after < SETTLED * (before / len(self.Y) + np.pi * ROUNDING**2):
                return c
        raise ValueError("the fit does not settle: the points are too few or too noisy")

    def chosen(self, c: Array) -> tuple[Array, int]:
        """Coefficients and the number of the lambda that is most likely at its own fit."""
        choice, seen = -1, set[int]()
        while True:
            likely = self.near(c).evidence
            best = int(np.argmax(likely))
            if best == choice:
                return c, choice
            if best in seen:  # two of them point at each other: take the smoother
                choice = max(best, choice)
                return self.settled(c, choice), choice
            seen.add(best)
            choice = best
            c = self.settled(c, choice)


def _draw(
    near: _Linear, prior: Array, n: int, rising: Callable[[Array], NDArray[np.bool_]],
    rng: np.random.Generator, draws: int,
) -> Array:  # fmt: skip
    """Coefficients of rising curves drawn from the posterior, (draws, m)."""
    evidence = near.evidence + prior
    weight = np.exp(evidence - evidence.max())
    m = near.c.shape[1]
    kept: list[Array] = []
    for _ in range(BATCHES):
        picked = rng.choice(len(LAMBDAS), draws, p=weight / weight.sum())
        sd = np.sqrt(near.loss[picked] / rng.chisquare(n - 2, draws))
        normal = rng.standard_normal((draws, m))
        c = near.c[picked]
        for choice in np.unique(picked):
            same = picked == choice
            step = solve_banded((0, 3), near.factors[choice], normal[same].T).T
            c[same] += sd[same, None] * step
        kept.append(c[rising(c)])
        if sum(map(len, kept)) >= draws:
            return np.concatenate(kept)[:draws]
    raise ValueError("the points are too noisy to say that the profile rises everywhere")
