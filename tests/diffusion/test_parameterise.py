import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.diffusion import parameterise, schedules
from repro.errors import ReproError

angles = st.floats(0.02, math.pi / 2 - 0.02)


@given(angle=angles, seed=st.integers(0, 2**31), shape=st.sampled_from([(3,), (2, 1, 4, 4)]))
@settings(max_examples=60, deadline=None)
def test_round_trips_between_all_targets(angle, seed, shape):
    rng = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, *shape, generator=rng, dtype=torch.float64)
    alpha, sigma = math.cos(angle), math.sin(angle)
    x_t = alpha * x0 + sigma * eps
    truth = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma}
    assert set(truth) == set(parameterise.TARGETS)
    for source, target in itertools.product(truth, truth):
        found = parameterise.convert(truth[source], x_t, alpha, sigma, source=source, target=target)
        torch.testing.assert_close(found, truth[target], rtol=1e-9, atol=1e-9)


@given(alpha=st.floats(0.1, 3), sigma=st.floats(0.1, 50), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_v_also_holds_off_the_unit_circle(alpha, sigma, seed):
    rng = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    kwargs = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(parameterise.eps_from_v(x_t, v, alpha, sigma), eps, **kwargs)
    torch.testing.assert_close(parameterise.x0_from_v(x_t, v, alpha, sigma), x0, **kwargs)
    torch.testing.assert_close(parameterise.v_from_x0(x_t, x0, alpha, sigma), v, **kwargs)
    torch.testing.assert_close(parameterise.v_from_eps(x_t, eps, alpha, sigma), v, **kwargs)


def test_coefficients_may_differ_within_a_batch():
    rng = torch.Generator().manual_seed(0)
    abar = schedules.alphas_cumprod(schedules.linear_betas(100))
    x0, noise = torch.randn(2, 3, 1, 4, 4, generator=rng, dtype=torch.float64)
    t = torch.tensor([0, 50, 99])
    x_t = parameterise.q_sample(x0, t, abar, noise)
    for b in range(3):
        expected = abar[t[b]].sqrt() * x0[b] + (1 - abar[t[b]]).sqrt() * noise[b]
        torch.testing.assert_close(x_t[b], expected)
    alpha, sigma = abar[t].sqrt(), (1 - abar[t]).sqrt()
    torch.testing.assert_close(parameterise.x0_from_eps(x_t, noise, alpha, sigma), x0)


def test_q_sample_keeps_the_type_of_the_data():
    abar = schedules.alphas_cumprod(schedules.linear_betas(10))
    x = torch.ones(2, 3)
    assert parameterise.q_sample(x, torch.tensor([0, 9]), abar, x).dtype == torch.float32


def test_denoiser_inverts_the_noise_at_every_training_level():
    abar = schedules.alphas_cumprod(schedules.linear_betas(50))
    seen = []

    def eps_model(x, t):
        seen.append(t)
        return torch.ones_like(x)

    sigmas = schedules.vp_sigmas(abar)
    x0 = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    x = x0 + sigmas[:, None]  # x0 + sigma eps with eps = 1
    denoised = parameterise.eps_to_denoiser(eps_model, abar)(x, sigmas)
    assert seen[0].tolist() == list(range(50))
    torch.testing.assert_close(denoised, x0)


def test_unknown_target_is_refused():
    x = torch.zeros(1, 1)
    with pytest.raises(ReproError, match="unknown prediction target 'noise'"):
        parameterise.convert(x, x, 1.0, 1.0, source="noise", target="eps")
