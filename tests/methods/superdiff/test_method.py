"""Itô estimator, rules and samplers: identities with their numbers, and properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.superdiff import exact
from methods.superdiff import method as sd


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(t=0.5, dt=0.01, models=2, batch=6, shape=(3, 2), seed=0):
    g = generator(seed)
    x = torch.randn(batch, *shape, generator=g, dtype=torch.float64)
    s = torch.randn(models, batch, *shape, generator=g, dtype=torch.float64)
    noise = math.sqrt(sd.g2(t) * dt) * torch.randn(x.shape, generator=g, dtype=torch.float64)
    return x, s, noise, t, dt


def changes(kappa, x, s, noise, t, dt):
    dx = -dt * (sd.dlog_alpha(t) * x - sd.g2(t) * sd.combine(kappa, s)) + noise
    return sd.ito(dx, x, s, t, dt)


@pytest.mark.parametrize(
    ("item", "bound"),
    [(item, 1e-9) for item, _ in exact.all_errors(generator())],
)
def test_identities(item, bound):
    assert dict(exact.all_errors(generator(1)))[item] <= bound


def test_schedule_values():
    found = exact.schedule_values()
    assert found["alpha-1"] == pytest.approx(0.0065716, abs=5e-8)
    assert (found["b-0"], found["b-1"]) == pytest.approx((1, 11))
    assert found["dlog-alpha-1"] == pytest.approx(-10)
    assert found["V-1"] == pytest.approx(1.0000069, abs=5e-8)


@pytest.mark.parametrize(
    ("steps", "difference", "single", "discrete", "drift"),
    [(100, 0.318, 1.48, 0.31, 0.178), (400, 0.0787, 0.70, 0.126, 0.0436)],
)
def test_estimator_on_gaussians(steps, difference, single, discrete, drift):
    """Against another implementation: 4096 samples of other draws."""
    found = exact.ito_errors(steps, 4096, generator())
    assert found["difference"] == pytest.approx(difference, rel=0.06)
    assert found["single"] == pytest.approx(single, rel=0.06)
    assert found["single-discrete"] == pytest.approx(discrete, rel=0.07)
    assert found["arbitrary-drift"] == pytest.approx(drift, rel=0.07)
    assert found["discrete-apart"] < 1e-11


def test_and_on_gaussians_keeps_the_difference_and_biases_the_level():
    found = exact.and_errors(400, 2048, generator())
    assert found["drift"] <= 1e-12
    assert found["bisector"] == pytest.approx(1.0e-3, rel=0.2)
    assert exact.level_bias() == pytest.approx(-5.9413, abs=5e-5)
    assert found["level"] == pytest.approx(exact.level_bias(), abs=0.15)
    assert exact.ito_errors(400, 2048, generator())["averaging-ends"] == pytest.approx(7.9, abs=0.3)
    three = exact.three_model_errors(400, 1024, generator())
    assert three["drift-3"] <= 5e-12 and three["spread-3"] < 1e-3


def test_noise_of_another_step_breaks_and():
    x, s, noise, t, dt = step()
    kappa = sd.kappa_and_pair(x, s, noise, t, dt)
    held = changes(kappa, x, s, noise, t, dt)
    broken = changes(kappa, x, s, noise.flip(0), t, dt)
    assert (held[0] - held[1]).abs().max() < 1e-12 < 1e-3 < (broken[0] - broken[1]).abs().max()


def test_weights_sum_to_one_and_the_released_temperature_is_an_argmax():
    found = exact.weights_errors(generator(2))
    assert max(found["sum-and"], found["sum-or"]) <= 1e-12
    assert found["or-limit"] == 0 and found["or-bias"] <= 1e-9


def test_variance_of_theorem_3():
    assert exact.theorem_3() == pytest.approx(178.845, abs=1e-3)
    assert exact.ito_variance(1e-4, 200_000, generator()) == pytest.approx(178.1, rel=0.025)
    gaussian = exact.hutchinson_variance("gaussian", 200_000, generator())
    assert gaussian == pytest.approx(178.845, rel=0.025)
    assert exact.hutchinson_variance("rademacher", 100, generator()) < 1e-20


def test_or_samples_both_modes_and_the_released_sign_does_not_follow_densities():
    right = exact.or_errors(200, 2048, generator())
    wrong = exact.or_errors(200, 2048, generator(), sd.ito_released)
    assert right["frequency"] == pytest.approx(0.5, abs=0.05)
    assert right["nearest"] == pytest.approx(0.32, abs=0.04)
    assert wrong["gap"] > 10 * right["gap"]


@settings(max_examples=30, deadline=None)
@given(
    t=st.floats(0.05, 1.0),
    models=st.integers(2, 4),
    seed=st.integers(0, 1000),
    bias=st.floats(-1, 1),
)
def test_and_keeps_any_prescribed_ratio(t, models, seed, bias):
    x, s, noise, t, dt = step(t=t, models=models, seed=seed)
    biases = [0.0] + [bias] * (models - 1)
    kappa, common = sd.kappa_and(x, s, noise, t, dt, l=biases)
    dL = changes(kappa, x, s, noise, t, dt)
    scale = dL.abs().max() + kappa.abs().max() + 1
    assert (kappa.sum(0) - 1).abs().max() < 1e-8 * scale
    assert (dL[0] - common).abs().max() < 1e-8 * scale
    assert (dL[0] - dL[1:] - bias).abs().max() < 1e-8 * scale


@settings(max_examples=30, deadline=None)
@given(t=st.floats(0.01, 1.0), seed=st.integers(0, 1000))
def test_forms_of_the_increment_differ_by_what_models_share(t, seed):
    x, s, noise, t, dt = step(t=t, models=3, seed=seed)
    dx = noise - dt * x
    apart = sd.ito(dx, x, s, t, dt) - sd.ito_discrete(dx, x, s, t, dt)
    assert (apart - apart[0]).abs().max() < 1e-8 * (1 + apart.abs().max())


@settings(max_examples=20, deadline=None)
@given(T=st.floats(0.1, 1e6), shift=st.floats(-50, 50), seed=st.integers(0, 100))
def test_or_sees_differences_alone(T, shift, seed):
    L = torch.randn(3, 5, generator=generator(seed), dtype=torch.float64)
    kappa = sd.kappa_or(L, T)
    assert kappa.sum(0) == pytest.approx(1)
    assert torch.allclose(kappa, sd.kappa_or(L + shift, T), atol=1e-12 + 1e-14 * T * 100)


@given(n=st.integers(2, 200), u0=st.floats(0, 0.999))
def test_training_times_cover_the_interval(n, u0):
    t = sd.low_discrepancy(n, u0).sort().values
    gaps = torch.cat([t.diff(), t[:1] + 1 - t[-1:]])
    assert 0 <= t.min() and t.max() < 1 and gaps.max() * n < 3.5


def test_hutchinson_is_exact_for_a_diagonal_jacobian():
    probe = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    x = torch.zeros(2, 2, dtype=torch.float64)
    value, divergence = sd.hutchinson(lambda y, t: t * torch.tensor([2.0, 5.0]) * y, x, 0.5, probe)
    assert value.shape == x.shape and divergence.tolist() == [3.5, 3.5]


def test_single_model_is_plain_sampling_and_ode_follows_densities():
    model = exact.models()[0]
    x = torch.randn(64, 2, generator=generator(), dtype=torch.float64)
    out = sd.superdiff_ode([model], x, 200, sd.Averaging((1.0,)), generator=generator())
    assert (out.x.mean(0) - model.mean).abs().max() < 0.2
    assert exact.ode_error(400, 512, generator()) < 0.3 * exact.ode_error(100, 512, generator())


def test_and_along_the_ode_keeps_the_difference():
    pair = exact.models()
    x = torch.randn(64, 2, generator=generator(), dtype=torch.float64)
    out = sd.superdiff_ode(pair, x, 100, sd.And(), generator=generator())
    assert out.largest_gap.max() < 1e-10
