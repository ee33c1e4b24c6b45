import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.diffusion import schedules
from repro.errors import ReproError


def test_linear_betas_are_those_of_ddpm():
    betas = schedules.linear_betas()
    assert betas.dtype == torch.float64 and betas.shape == (1000,)
    assert betas[0] == 1e-4 and betas[-1] == 0.02
    # product of (1 - beta_t) by log-sum in plain Python
    log_abar = sum(math.log1p(-(1e-4 + (0.02 - 1e-4) * t / 999)) for t in range(1000))
    abar = schedules.alphas_cumprod(betas)
    assert abar[-1].item() == pytest.approx(math.exp(log_abar), rel=1e-12)


def test_cosine_betas_telescope_to_the_cosine_until_the_cap():
    T, s = 1000, 0.008
    abar = schedules.alphas_cumprod(schedules.cosine_betas(T, s))
    t = torch.arange(T - 1, dtype=torch.float64)

    def f(u):
        return torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    expected = f((t + 1) / T) / f(torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(abar[:-1], expected, rtol=1e-10, atol=0)
    assert schedules.cosine_betas(T)[-1] == 0.999


@given(T=st.integers(2, 2000), start=st.floats(1e-5, 1e-2), width=st.floats(0, 0.5))
@settings(max_examples=50, deadline=None)
def test_noise_grows_under_every_variance_preserving_schedule(T, start, width):
    for betas in (schedules.linear_betas(T, start, start + width), schedules.cosine_betas(T)):
        abar = schedules.alphas_cumprod(betas)
        assert bool(((betas > 0) & (betas < 1)).all())
        assert bool(((abar >= 0) & (abar < 1)).all()) and bool((abar.diff() <= 0).all())
        kept = abar > 1e-200
        assert bool((schedules.vp_sigmas(abar[kept]).diff() > 0).all())


@given(
    n=st.integers(2, 300),
    low=st.floats(1e-4, 1.0),
    ratio=st.floats(1.01, 1e5),
    rho=st.floats(1, 10),
)
@settings(max_examples=100, deadline=None)
def test_sigmas_ascend_between_their_bounds(n, low, ratio, rho):
    high = low * ratio
    for sigmas in (
        schedules.geometric_sigmas(n, low, high),
        schedules.karras_sigmas(n, low, high, rho),
    ):
        assert sigmas.shape == (n,) and bool((sigmas.diff() > 0).all())
        assert sigmas[0] == low and sigmas[-1] == high


def test_geometric_sigmas_of_the_ve_sde():
    sigmas = schedules.geometric_sigmas(2000, 0.01, 378)
    ratio = sigmas[1:] / sigmas[:-1]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.0052866), rtol=1e-7, atol=0)


def test_karras_sigmas_are_eq_5_of_edm():
    n, rho, low, high = 18, 7, 0.002, 80.0
    sigmas = schedules.karras_sigmas(n)
    for i in range(n):  # the paper counts downwards
        root = high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))
        assert sigmas[n - 1 - i].item() == pytest.approx(root**rho, rel=1e-12)


@given(T=st.integers(2, 4000), data=st.data())
@settings(max_examples=100, deadline=None)
def test_timesteps_stay_inside_the_schedule(T, data):
    n = data.draw(st.integers(2, T))
    uniform, quad = schedules.timesteps_uniform(T, n), schedules.timesteps_quad(T, n)
    assert uniform.shape == quad.shape == (n,)
    assert uniform.dtype == quad.dtype == torch.int64
    assert uniform[0] == quad[0] == 0
    assert bool((uniform.diff() == T // n).all()) and uniform[-1] < T
    assert bool((quad.diff() >= 0).all()) and quad[-1] <= 0.8 * T


def test_quad_timesteps_of_ddim_on_cifar10():
    quad = schedules.timesteps_quad(1000, 100)
    expected = [int((math.sqrt(800) * i / 99) ** 2 + 1e-9) for i in range(100)]
    assert quad.tolist()[:-1] == expected[:-1]
    assert quad[-1] in (799, 800)
    assert quad.tolist()[:6] == [0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("n", [0, 11])
def test_too_many_or_no_steps_are_refused(n):
    with pytest.raises(ReproError, match="time steps"):
        schedules.timesteps_uniform(10, n)
    with pytest.raises(ReproError, match="time steps"):
        schedules.timesteps_quad(10, n)


def test_noised_data_keeps_its_type_and_has_its_own_level_in_every_row():
    abar = schedules.alphas_cumprod(schedules.linear_betas(100))
    x0, noise = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 50, 99])
    x_t = schedules.q_sample(x0, t, abar, noise)
    assert x_t.dtype == torch.float32
    for b in range(3):
        expected = abar[t[b]].sqrt() * x0[b] + (1 - abar[t[b]]).sqrt() * noise[b]
        torch.testing.assert_close(x_t[b], expected.float())


@pytest.mark.parametrize("n", [1, 7, 100, 256])
def test_one_draw_falls_in_every_stratum(n):
    u = schedules.stratified(n, torch.Generator().manual_seed(0))
    assert u.floor().tolist() == list(range(n)) and (n == 1 or u.frac().std() > 0.1)
    t = schedules.stratified_steps(n, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64 and bool((t.diff() >= 0).all())
    assert torch.equal(t, (u * 1000 / n).long()) and 0 <= t[0] and t[-1] < 1000


def test_descent_pairs_every_level_with_the_next():
    pairs = list(schedules.descend(torch.tensor([0.5, 1.0, 4.0]), 0.0))
    assert pairs == [(4.0, 1.0), (1.0, 0.5), (0.5, 0.0)]


def test_numbers_get_the_axes_and_the_type_of_the_data():
    x = torch.zeros(2, 3, 4, 5)
    assert schedules.expand(torch.ones(2, dtype=torch.float64), x).shape == (2, 1, 1, 1)
    assert schedules.expand(torch.ones(2, 3, dtype=torch.float64), x).shape == (2, 3, 1, 1)
    assert schedules.expand(torch.ones(2, dtype=torch.float64), x).dtype == torch.float32
