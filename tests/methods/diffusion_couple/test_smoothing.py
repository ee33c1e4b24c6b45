import numpy as np
import pytest
from scipy.interpolate import make_smoothing_spline
from scipy.special import erf

from methods.diffusion_couple import smoothing, systems
from methods.diffusion_couple.forward import forward_simulation_analysis
from methods.diffusion_couple.method import den_broeder, wagner


def test_smoothing_step_is_the_smoothing_spline():
    rng = np.random.default_rng(0)
    x, z, w = np.sort(rng.uniform(0, 1, 40)), rng.normal(size=40), rng.uniform(0.1, 2, 40)
    for lam in (1e-6, 1e-3, 1.0):
        ours = smoothing.smooth(smoothing.roughness(x), w, z, lam)
        np.testing.assert_allclose(ours, make_smoothing_spline(x, z, w=w, lam=lam)(x), atol=1e-8)


def test_cross_validation_finds_the_minimum_of_its_score():
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, 60)
    w, z = np.ones(60), np.sin(5 * x) + 0.1 * rng.normal(size=60)
    K = smoothing.roughness(x)

    def score(lam):
        hat = np.linalg.solve(np.diag(w) + lam * K, np.diag(w))
        left = 60 - smoothing.FREEDOM * np.trace(hat)
        return np.sum(w * (z - hat @ z) ** 2) / left**2

    lam = smoothing.cross_validated(K, w, z)
    assert smoothing.LAMBDAS[0] < lam < smoothing.LAMBDAS[-1]
    assert score(lam) < min(score(2 * lam), score(lam / 2))


def test_fit_is_exact_on_an_error_function_and_rises_into_its_tails():
    x = np.linspace(-2.2, 2.2, 45)
    N = 0.1 + 0.6 * (1 + erf(1.3 * x + 0.2)) / 2
    spline = smoothing.fit(x, N, 0.1, 0.7)
    grid = spline.grid()
    u, slope = spline(grid)
    np.testing.assert_allclose(u, 1.3 * grid + 0.2, atol=1e-6)
    np.testing.assert_allclose(slope, 1.3, atol=1e-6)
    profile = spline.profile(grid)
    assert profile.Y[0] < 1e-8 and 1 - profile.Y[-1] < 1e-8
    np.testing.assert_allclose(np.gradient(profile.N, grid)[1:-1], profile.dNdx[1:-1], atol=2e-5)


@pytest.mark.parametrize("noise, expected", [(0.002, 0.0079), (0.005, 0.020)])
def test_error_under_noise_is_as_good_as_known(noise, expected):
    # a one-step probit spline with plain cross-validation reached these means
    couple = systems.ni_pd_like(0.4)
    errors, apart = [], []
    for seed in range(20):
        x, N = couple.points(55, noise * np.random.default_rng(seed).standard_normal(55))
        spline = smoothing.fit(x, N, 0.0, 1.0)
        profile = spline.profile(spline.grid())
        inner = (profile.N > 0.1) & (profile.N < 0.9)
        W = wagner(profile, couple.V, couple.t)[inner]
        errors.append(np.mean(np.abs(W / couple.D(profile.N[inner]) - 1)))
        apart.append(np.mean(den_broeder(profile, couple.V, couple.t)[inner] / W - 1))
    assert np.mean(errors) < 1.15 * expected
    # the paired difference hardly feels the noise
    assert np.mean(apart) == pytest.approx(0.0173, abs=2e-4)
    assert np.std(apart) < 3e-4


def test_noisy_profiles_still_rise():
    couple = systems.ni_al_like(3.0)
    for seed in range(15):
        x, N = couple.points(55, 0.005 * np.random.default_rng(seed).standard_normal(55))
        assert smoothing.fit(x, N, 0.42, 0.52).rising()


def test_fit_refuses_what_is_no_profile():
    x = np.linspace(0, 1, 20)
    with pytest.raises(ValueError, match="fit needs five"):
        smoothing.fit(x, np.where(x > 0.5, 1.0, 0.0), 0.0, 1.0)
    with pytest.raises(ValueError, match="do not rise"):
        smoothing.fit(x, 0.9 - 0.8 * x, 0.0, 1.0)


def test_bootstrap_resamples_scatter_like_the_noise():
    couple = systems.ni_pd_like(0.0)
    x, N = couple.points(55, 0.004 * np.random.default_rng(3).standard_normal(55))
    spline = smoothing.fit(x, N, 0.0, 1.0)
    many = smoothing.bootstrap(spline, N, np.random.default_rng(0), resamples=100)
    assert many.u.shape == (100, 55) and many.rising().all()
    again = smoothing.bootstrap(spline, N, np.random.default_rng(0), resamples=100, chunk=55**2 * 7)
    np.testing.assert_array_equal(many.u, again.u)
    spread = many.profile(x).N.std(axis=0)[20:35]
    assert 0.0005 < spread.mean() < 0.004  # smaller than one point's noise, not nothing
    # each resample is the fit to its points: with every point once it is the fit itself
    one = smoothing.smooth(
        smoothing.roughness((x - x[0]) / np.ptp(x)),
        *smoothing._working(spline.u, N),
        spline.smoothing,
    )
    np.testing.assert_allclose(erf(one), erf(spline.u), atol=1e-6)


def test_inverse_method_finds_a_diffusivity_that_wagner_did_not_start_from():
    couple = systems.ni_pd_like(0.0)
    N = couple.profile.N[::80]
    keep = (N > 1e-4) & (N < 1 - 1e-4)
    # constant mobility: xi = 2 z sqrt(Dm t) with z on the nodes of the closed form
    Dm = couple.D(np.array(0.5)) / couple.V(0.5) ** 2
    xi = 2 * np.linspace(-8, 8, 4001)[::80] * np.sqrt(Dm * couple.t)
    start = 1.4 * float(couple.D(np.array(0.5)))
    found = forward_simulation_analysis(
        xi[keep], N[keep], 0.0, 1.0, lambda n: np.full_like(n, start), couple.V, couple.t
    )
    inner = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(found.D(inner), couple.D(inner), rtol=0.03)
    assert found.misfit < 1e-3
