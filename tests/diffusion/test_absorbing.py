"""The absorbing process: schedules, masks, reverse steps, closed forms."""

import math

import pytest
import torch

from repro.diffusion import absorbing

SCHEDULES = ["log-linear", "geometric", "cosine"]
F64 = torch.float64


@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_is_the_derivative_of_the_total_noise(name):
    noise = absorbing.noise_by_name(name)
    t = torch.linspace(0.01, 0.99, 50, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(noise.total(t).sum(), t)
    torch.testing.assert_close(noise.rate(t.detach()), slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_masked_probability_grows_to_almost_one(name):
    noise = absorbing.noise_by_name(name)
    lam = noise.masked(torch.linspace(0, 1, 100, dtype=F64))
    assert (lam.diff() > 0).all() and 0 <= lam[0] < 1.1e-4 and 0.998 < lam[-1] <= 1


def test_log_linear_masks_in_proportion_to_time():
    t = torch.linspace(0, 1, 11, dtype=F64)
    torch.testing.assert_close(absorbing.LogLinear(1e-3).masked(t), 0.999 * t)


def test_schedules_at_points_known_by_hand():
    half = torch.tensor(0.5, dtype=F64)
    assert float(absorbing.Geometric().total(half)) == pytest.approx(math.sqrt(1e-4 * 20))
    cosine = absorbing.Cosine(eps=0.0)
    assert float(cosine.total(half)) == pytest.approx(math.log(2) / 2)
    assert float(cosine.rate(half)) == pytest.approx(math.pi / 2)


def test_unknown_schedule_and_draw_are_refused():
    with pytest.raises(ValueError, match="log-linear"):
        absorbing.noise_by_name("linear")
    with pytest.raises(ValueError, match="stratified"):
        absorbing.uniforms(4, "sobol", generator=torch.Generator())


def test_log_odds_holds_for_tiny_and_large_noise():
    s = torch.tensor([1e-7, 1.0, 30.0], dtype=F64)
    expected = torch.log(torch.exp(-s) / -torch.expm1(-s))
    torch.testing.assert_close(absorbing.log_odds(s), expected)


def test_stratified_has_one_number_in_each_stratum_and_lattice_is_equidistant():
    g = torch.Generator().manual_seed(0)
    u = absorbing.uniforms(50, "stratified", generator=g)
    assert torch.equal(torch.floor(u * 50).long(), torch.arange(50))
    v = absorbing.uniforms(50, "lattice", generator=g).sort().values
    torch.testing.assert_close(v.diff(), torch.full((49,), 0.02), rtol=0, atol=1e-6)
    assert 0 <= v[0] and v[-1] < 1


@pytest.mark.parametrize("how", ["independent", "stratified", "lattice"])
def test_every_draw_is_uniform(how):
    g = torch.Generator().manual_seed(1)
    u = torch.cat([absorbing.uniforms(8, how, generator=g, dtype=F64) for _ in range(4000)])
    assert float(u.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * len(u)) * 3)
    assert float(u.var()) == pytest.approx(1 / 12, rel=0.03)


def test_masks_have_the_right_number_and_hit_every_position_alike():
    g = torch.Generator().manual_seed(2)
    x0 = torch.zeros(8000, 10, dtype=torch.long)
    lam = torch.full((8000,), 0.3)
    share = absorbing.mask_independently(x0, lam, generator=g).double().mean(0)
    torch.testing.assert_close(share, torch.full((10,), 0.3, dtype=F64), rtol=0, atol=0.021)
    k = torch.arange(8000) % 11
    m = absorbing.mask_exactly(x0, k, generator=g)
    assert torch.equal(m.sum(1), k)
    share = m[k == 4].double().mean(0)
    torch.testing.assert_close(share, torch.full((10,), 0.4, dtype=F64), rtol=0, atol=0.075)


def test_psi_agrees_for_log_linear_only():
    t, s = torch.tensor(0.7, dtype=F64), torch.tensor(0.6, dtype=F64)
    for eps in (0.0, 1e-3, 0.1):
        noise = absorbing.LogLinear(eps)
        assert float(absorbing.psi_tweedie(noise, t, s)) == pytest.approx(1 / 7, abs=1e-14)
        assert float(absorbing.psi_euler(noise, t, s)) == pytest.approx(1 / 7, abs=1e-14)
    noise = absorbing.Cosine()
    gap = absorbing.psi_tweedie(noise, t, s) - absorbing.psi_euler(noise, t, s)
    assert abs(float(gap)) > 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_reveal_probabilities_telescope(name):
    """For Tweedie r_k is the drop of lambda over the step, relative to lambda(1)."""
    noise, n = absorbing.noise_by_name(name), 20
    steps = absorbing.step_probabilities(noise, n)
    reveal = absorbing.reveal_probabilities(steps)
    assert float(reveal.sum()) == pytest.approx(1, abs=1e-12)
    lam = noise.masked(absorbing.grid(n))
    torch.testing.assert_close(reveal[:-1], ((lam[:-1] - lam[1:]) / lam[0])[:-1])


def test_expected_nfe_limits():
    flat = torch.full((100,), 0.01, dtype=F64)
    assert absorbing.expected_nfe(flat, 1) == pytest.approx(1)
    assert absorbing.expected_nfe(flat, 10**6) == pytest.approx(100)
    assert absorbing.expected_nfe(flat, 64) == pytest.approx(100 * (1 - 0.99**64))
    assert absorbing.expected_calls(flat, 64) == pytest.approx(
        100 * (1 - 0.99**64) + 0.99**64, abs=1e-9
    )
    sure = torch.tensor([0.0, 1.0], dtype=F64)
    assert absorbing.expected_nfe(sure, 5) == 1


def test_expected_nfe_against_simulated_unmasking():
    noise, n, length = absorbing.Geometric(), 24, 6
    steps = absorbing.step_probabilities(noise, n, psi=absorbing.psi_euler)
    reveal = absorbing.reveal_probabilities(steps)
    g = torch.Generator().manual_seed(3)
    step = torch.multinomial(reveal, 20_000 * length, replacement=True, generator=g)
    distinct = torch.zeros(20_000, n).scatter_(1, step.view(20_000, length), 1.0).sum(1)
    assert float(distinct.mean()) == pytest.approx(absorbing.expected_nfe(reveal, length), rel=0.01)
