"""Rectified flow: closed forms, convergence, and the diffusion that is read as a flow."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.diffusion import flow, samplers, schedules
from repro.errors import ReproError
from tests.diffusion.gaussian import DATA

F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def to_point(mu):
    """The flow to a single point: straight paths."""
    return lambda x, t: (mu - x) / (1 - t[:, None])


def decay(x, t):
    return -x


def test_interpolation_ends():
    x, z = noise(4, 3), noise(4, 3, seed=1)
    assert torch.equal(flow.interpolate(x, z, torch.zeros(4)), z)
    assert torch.equal(flow.interpolate(x, z, torch.ones(4)), x)
    t = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=F64)
    assert torch.allclose(flow.interpolate(x, z, t)[0], 0.25 * x[0] + 0.75 * z[0])


def test_loss_is_zero_for_the_true_velocity_and_has_the_right_sign():
    x, z, t = torch.full((5, 3), 2.0), noise(5, 3).float(), torch.linspace(0, 0.9, 5)
    assert float(flow.velocity_loss(to_point(2.0), x, z, t)) < 1e-9
    backwards = flow.velocity_loss(lambda x, t: -to_point(2.0)(x, t), x, z, t)
    assert float(backwards) == pytest.approx(float(4 * (x - z).square().mean()), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 200), eps=st.sampled_from([0.0, 1e-3, 0.2]))
def test_times_fill_their_strata(n, eps):
    t = flow.uniform_times(n, torch.Generator().manual_seed(n), eps)
    u = (t - eps) / (1 - eps) * n - torch.arange(n)
    assert float(t.min()) >= eps and float(t.max()) <= 1
    assert float(u.min()) > -1e-3 and float(u.max()) < 1 + 1e-3
    assert bool((t.diff() > 0).all())


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_one_step_is_enough_for_a_straight_flow(steps):
    z = noise(6, 2)
    assert torch.allclose(flow.euler(to_point(0.7), z, steps), torch.full_like(z, 0.7))
    assert flow.straightness(to_point(0.7), z, 20) < 1e-10


def test_euler_of_a_curved_flow_in_numbers():
    z = torch.ones(1, 1, dtype=F64)
    for n in (1, 2, 4, 50):
        assert float(flow.euler(decay, z, n)) == pytest.approx((1 - 1 / n) ** n)
    path = flow.euler_path(decay, z, 4)
    assert path.flatten().tolist() == pytest.approx([0.75**k for k in range(5)])


def test_batches_change_nothing_and_zero_steps_are_refused():
    z = noise(7, 3)
    assert torch.equal(flow.euler(decay, z, 5), flow.euler(decay, z, 5, batch=2))
    with pytest.raises(ReproError, match="at least one step, 0"):
        flow.euler(decay, z, 0)


def test_samples_can_be_trained_on():
    weight = torch.ones(3, requires_grad=True)
    for x in (flow.euler(decay, torch.ones(2, 3), 2), flow.rk45(decay, torch.ones(2, 3)).x):
        (weight * x).sum().backward()


def test_rk45_meets_the_closed_form_and_counts():
    calls = []

    def counted(x, t):
        calls.append(float(t[0]))
        return decay(x, t)

    z = noise(4, 2)
    found = flow.rk45(counted, z, eps=0.0)
    assert torch.allclose(found.x, z * math.exp(-1), atol=1e-4)
    assert found.nfe == len(calls) and min(calls) >= 0 and max(calls) <= 1
    loose = flow.rk45(decay, z, eps=0.0, rtol=1e-2, atol=1e-2)
    assert loose.nfe < found.nfe


def test_straightness_in_numbers():
    # Two Euler steps of dx/dt = -x from 1: velocities -1 and -0.5, their mean -0.75.
    z = torch.ones(3, 1, dtype=F64)
    assert flow.straightness(decay, z, 2) == pytest.approx(0.25)
    # The norm is over all elements of a sample and is not squared.
    assert flow.straightness(decay, torch.ones(3, 4, dtype=F64), 2) == pytest.approx(0.5)


def test_network_sees_999_t():
    seen = []
    v = flow.network_velocity(lambda x, t: seen.append(t) or x)
    v(torch.zeros(2, 1), torch.tensor([0.0, 0.5]))
    assert seen[0].tolist() == [0.0, 499.5]


# A diffusion read as a flow


def vp():
    return schedules.alphas_cumprod(schedules.linear_betas())


def continuous_eps(x, tau):
    """The exact noise prediction for Gaussian data at real-valued steps."""
    half_logit = 0.5 * torch.logit(vp().double())
    lower = tau.floor().long().clamp(max=998)
    w = (tau - lower).double()
    level = half_logit[lower] * (1 - w) + half_logit[lower + 1] * w
    abar = torch.sigmoid(2 * level)[:, None]
    mean, var = DATA.mu, DATA.S
    total = abar * var + 1 - abar
    return (1 - abar).sqrt() * (x - abar.sqrt() * mean) / total


def test_flow_of_a_diffusion_is_the_rectified_flow_of_gaussian_data():
    v = flow.eps_velocity(continuous_eps, vp())
    x, t = noise(50, 3), torch.linspace(0.01, 0.98, 50, dtype=F64)
    mean, var = DATA.mu, DATA.S
    s = t[:, None]
    expected = mean + (s * var - (1 - s)) / (s**2 * var + (1 - s) ** 2) * (x - s * mean)
    assert torch.allclose(v(x, t), expected, atol=1e-6)


def test_euler_along_it_is_ddim():
    abar = vp().double()
    steps = torch.tensor([0, 300, 600, 999])
    signal = abar[steps].sqrt() / (abar[steps].sqrt() + (1 - abar[steps]).sqrt())
    scale = (signal**2 + (1 - signal) ** 2).sqrt()

    def eps(x, tau):
        return torch.tanh(x) + tau[:, None] / 1000

    v, x = flow.eps_velocity(eps, abar), noise(4, 2)
    start = x * scale[-1]
    for i in (3, 2, 1):
        t = signal[i].expand(4)
        start = start + (signal[i - 1] - signal[i]) * v(start, t)
    found = samplers.ddim(lambda x, t: eps(x, t.float()), x, steps[1:], abar)
    states = []
    samplers.ddim(
        lambda x, t: eps(x, t.float()), x, steps, abar, callback=lambda *a: states.append(a[2])
    )
    assert torch.allclose(states[-1] * scale[0], start, atol=1e-6)
    assert found.shape == x.shape


def test_the_ends_are_finite():
    v = flow.eps_velocity(lambda x, tau: x, vp())
    for t in (0.0, 1.0):
        assert torch.isfinite(v(noise(2, 3).float(), torch.full((2,), t))).all()
