import time

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.special import erf

from methods.diffusion_couple import posterior, smoothing, systems
from methods.diffusion_couple.method import constant_volume, wagner

Y_GRID = np.linspace(0.1, 0.9, 81)


def error_function(n, noise=0.0, seed=0):
    """A couple of constant D: x (n,) in units of 2 sqrt(Dt), N."""
    x = np.linspace(-3, 3, n)
    return x, (1 + erf(x)) / 2 + noise * np.random.default_rng(seed).standard_normal(n)


def fitted(x, N, ends=(0.0, 1.0), draws=400):
    return posterior.fit(x, N, *ends, np.random.default_rng(0), draws=draws)


def test_basis_is_that_of_natural_splines():
    knots = np.sort(np.random.default_rng(0).uniform(0, 1, 12))
    basis = posterior.Basis.on(knots)
    c = np.random.default_rng(1).standard_normal(12)
    spline = CubicSpline(knots, basis(knots) @ c, bc_type="natural")
    inside = np.linspace(knots[0], knots[-1], 101)
    np.testing.assert_allclose(basis(inside) @ c, spline(inside), atol=1e-9)
    beyond = knots[-1] + 0.3
    straight = spline(knots[-1]) + 0.3 * spline(knots[-1], 1)
    np.testing.assert_allclose(basis(np.array([beyond])) @ c, straight, rtol=1e-9)
    # int u''^2 by the roughness matrix of all points, and by the bands
    u = basis(knots) @ c
    known = u @ smoothing.roughness(knots) @ u
    assert basis.bending(c[:, None])[0] == pytest.approx(known, rel=1e-8)
    m = len(c)
    by_bands = basis.penalty[3] @ c**2 + sum(
        2 * basis.penalty[3 - d, d:] @ (c[: m - d] * c[d:]) for d in (1, 2, 3)
    )
    assert by_bands == pytest.approx(known, rel=1e-8)


@pytest.mark.parametrize("n", [50, 200, 301, 1000, 2000])
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.003])
def test_a_constant_diffusivity_comes_back_at_every_size(n, noise):
    for seed in range(6):
        found = fitted(*error_function(n, noise, seed), draws=20)
        profile = found.curve.profile(found.curve.grid())
        D = 4 * np.interp(Y_GRID, profile.Y, constant_volume(profile, 1.0))
        assert abs(D.mean() - 1) < 0.01
        assert np.sqrt(np.mean((D - 1) ** 2)) < 0.03
        assert found.noise == pytest.approx(noise, rel=0.4, abs=1e-6)


def test_twenty_thousand_points_take_seconds():
    x, N = error_function(20_000, 0.005)
    start = time.process_time()
    fitted(x, N)
    assert time.process_time() - start < 5


def test_repeated_positions_count_as_points():
    x, N = error_function(61, 0.004)
    once = fitted(x, N)
    twice = fitted(np.repeat(x, 2), np.repeat(N, 2))
    np.testing.assert_allclose(twice.curve.profile(x).N, once.curve.profile(x).N, atol=3e-3)
    assert (
        np.ptp(twice.draws.profile(x).N, axis=0).mean()
        < np.ptp(once.draws.profile(x).N, axis=0).mean()
    )


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_points_far_out_change_little(noise):
    """With the noise of the others, or cut off at 1."""
    x, N = error_function(81, 0.002)
    more = noise * np.random.default_rng(9).standard_normal(200)
    far = np.r_[x, 300 + np.arange(200)], np.r_[N, 1 + more]
    inner = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(
        fitted(*far).curve.profile(inner).N, fitted(x, N).curve.profile(inner).N, atol=4e-3
    )


@pytest.mark.parametrize("mark", [0.02, 0.98])
def test_every_curve_drawn_rises(mark):
    couple = systems.ni_al_like(3.0)
    x, N = couple.points(55, 0.0005 * np.random.default_rng(2).standard_normal(55))
    found = fitted(x, N, (0.42, 0.52))
    assert found.curve.rising() and found.draws.rising().all() and len(found.draws.u) == 400
    # they differ where the points leave room
    profiles = found.draws.profile(x)
    at = int(np.argmin(np.abs((N - 0.42) / 0.1 - mark)))
    assert profiles.N[:, at].std() > 1e-5


COUPLES = {
    "constant mobility": (systems.ni_pd_like, 0.4),
    "minimum of D": (systems.ni_al_like, 3.0),
    "strong volume": (lambda _: systems.strong(), 0.0),
}


@pytest.mark.parametrize("couple", COUPLES)
@pytest.mark.parametrize("n, noise", [(55, 0.001), (55, 0.02), (201, 0.005), (1001, 0.001)])
def test_intervals_hold_the_truth_as_often_as_they_say(couple, n, noise):
    """Over the compositions and ten seeds. 40 seeds gave 0.947 to 1.000 for 27 such settings."""
    make, parameter = COUPLES[couple]
    truth = make(parameter)
    profile = truth.profile
    span = profile.N_plus - profile.N_minus
    D = truth.D(profile.N_minus + span * Y_GRID)
    inside = []
    for seed in range(10):
        x, N = truth.points(n, noise * span * np.random.default_rng(seed).standard_normal(n))
        found = fitted(x, N, (profile.N_minus, profile.N_plus), draws=300)
        many = found.draws.profile(found.curve.grid(nodes=501))
        drawn = wagner(many, truth.V, truth.t)
        on_grid = [np.interp(Y_GRID, Y, d) for Y, d in zip(many.Y, drawn, strict=True)]
        low, high = np.percentile(on_grid, [2.5, 97.5], axis=0)
        inside.append((low <= D) & (high >= D))
        # and they are no wider than is of use
        assert np.mean((high - low) / D) / 2 < {0.001: 0.06, 0.005: 0.16, 0.02: 0.4}[noise]
    assert np.mean(inside) > 0.88


def test_what_is_no_profile_is_refused():
    x = np.linspace(0, 1, 20)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="fit needs five"):
        posterior.fit(x, np.where(x > 0.5, 1.0, 0.0), 0.0, 1.0, rng)
    with pytest.raises(ValueError, match="do not rise"):
        posterior.fit(x, 0.9 - 0.8 * x, 0.0, 1.0, rng)
