"""Samplers against closed forms on Gaussian data, where the exact network is known."""

import math

import pytest
import torch

from repro.diffusion import multistep, samplers, schedules
from repro.errors import ReproError
from tests.diffusion.gaussian import DATA, slope

F64 = torch.float64


def start(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=F64)


def vp_table(n: int) -> torch.Tensor:
    """abar of the continuous linear schedule at n + 1 times, from t = 0.02 to 1."""
    t = torch.linspace(0.02, 1, n + 1, dtype=F64)
    return torch.exp(-0.1 * t - (20 - 0.1) * t**2 / 2)


def vp_error(sampler, n: int) -> float:
    """Distance to the exact flow down to the lowest level, then the exact prediction of x0."""
    abar, x = vp_table(n), start()
    eps = DATA.eps(abar)
    found = sampler(eps, x, torch.arange(n + 1), abar)
    low = DATA.vp_flow(x, abar[-1], abar[0])
    t0 = torch.zeros(len(x), dtype=torch.long)
    exact = (low - (1 - abar[0]).sqrt() * eps(low, t0)) / abar[0].sqrt()
    return (found - exact).abs().max().item()


def ve_error(sampler, n: int) -> float:
    sigmas = schedules.karras_sigmas(n + 1, 0.05, 20.0)
    x = 20 * start()
    low = DATA.ve_flow(x, sigmas[-1], sigmas[0])
    exact = DATA.denoiser(low, sigmas[0].expand(len(x)))
    return (sampler(DATA.denoiser, x, sigmas) - exact).abs().max().item()


# Measured between 160 and 320 steps; 0.1 is the distance from the asymptotic regime left there.
@pytest.mark.parametrize(
    ("sampler", "error", "order"),
    [
        (samplers.ddim, vp_error, 1),
        (samplers.heun, ve_error, 2),
        (multistep.dpm_solver_pp_2m, vp_error, 2),
    ],
)
def test_order_of_convergence_to_the_exact_flow(sampler, error, order):
    errors = [error(sampler, n) for n in (80, 160, 320)]
    assert errors[0] > errors[1] > errors[2]
    assert slope(errors) == pytest.approx(order, abs=0.1)


def affine_moments(abar, timesteps, step_mean, step_std):
    """Mean and variance (D,) after every step m <- A m + b, v <- A^2 v + s^2 of an affine chain."""
    m, v = torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)
    for i in reversed(range(len(timesteps))):
        t, s = timesteps[i], timesteps[i - 1] if i else None
        abar_t = abar[t]
        abar_s = abar[s] if i else torch.ones((), dtype=F64)
        offset = step_mean(torch.zeros(3, dtype=F64), abar_t, abar_s)
        gain = step_mean(torch.ones(3, dtype=F64), abar_t, abar_s) - offset
        m, v = gain * m + offset, gain**2 * v + step_std(abar_t, abar_s) ** 2
    return m, v


def x0_and_eps(x, abar_t):
    """The exact predictions at x (D,)."""
    eps = (1 - abar_t).sqrt() * (x - abar_t.sqrt() * DATA.mu)
    eps = eps / (abar_t * DATA.S + 1 - abar_t)
    return (x - (1 - abar_t).sqrt() * eps) / abar_t.sqrt(), eps


def check_moments(samples, mean, variance):
    """Each moment within 4.5 standard errors (two-sided p = 7e-6 for a normal)."""
    n = len(samples)
    assert ((samples.mean(0) - mean).abs() < 4.5 * (variance / n).sqrt()).all()
    assert ((samples.var(0) - variance).abs() < 4.5 * variance * math.sqrt(2 / n)).all()


TIMESTEPS = torch.tensor([0, 3, 4, 11, 30, 31, 60, 99])  # irregular on purpose


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_follows_eq_12_on_any_subsequence(eta):
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))

    def sigma(abar_t, abar_s):
        return eta * ((1 - abar_s) / (1 - abar_t)).sqrt() * (1 - abar_t / abar_s).sqrt()

    def mean(x, abar_t, abar_s):
        x0, eps = x0_and_eps(x, abar_t)
        return abar_s.sqrt() * x0 + (1 - abar_s - sigma(abar_t, abar_s) ** 2).sqrt() * eps

    rng = torch.Generator().manual_seed(1)
    x = torch.randn(40_000, 3, generator=rng, dtype=F64)
    samples = samplers.ddim(DATA.eps(abar), x, TIMESTEPS, abar, eta=eta, generator=rng)
    check_moments(samples, *affine_moments(abar, TIMESTEPS, mean, sigma))


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_follows_the_posterior_on_any_subsequence(variance):
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))

    def std(abar_t, abar_s):
        if abar_s == 1:
            return torch.zeros((), dtype=F64)
        beta = 1 - abar_t / abar_s
        return (beta * ((1 - abar_s) / (1 - abar_t) if variance == "posterior" else 1)).sqrt()

    def mean(x, abar_t, abar_s):  # eq. 7, in x0 and x_t
        x0, _ = x0_and_eps(x, abar_t)
        alpha = abar_t / abar_s
        return (abar_s.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - abar_s) * x) / (1 - abar_t)

    rng = torch.Generator().manual_seed(2)
    x = torch.randn(40_000, 3, generator=rng, dtype=F64)
    samples = samplers.ddpm(DATA.eps(abar), x, TIMESTEPS, abar, variance=variance, generator=rng)
    check_moments(samples, *affine_moments(abar, TIMESTEPS, mean, std))


def test_full_ddpm_recovers_the_data():
    abar = schedules.alphas_cumprod(schedules.linear_betas())
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(10_000, 3, generator=rng, dtype=F64)
    samples = samplers.ddpm(DATA.eps(abar), x, torch.arange(1000), abar, generator=rng)
    # 4.5 standard errors plus 2 % for a thousand finite steps
    assert ((samples.mean(0) - DATA.mu).abs() < 4.5 * (DATA.S / 10_000).sqrt() + 0.01).all()
    assert ((samples.var(0) / DATA.S - 1).abs() < 4.5 * math.sqrt(2 / 10_000) + 0.02).all()


def test_ddim_with_eta_one_is_ddpm():
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))
    x, eps = start(), DATA.eps(abar)
    runs = [
        samplers.ddim(eps, x, TIMESTEPS, abar, eta=1.0, generator=torch.Generator().manual_seed(7)),
        samplers.ddpm(eps, x, TIMESTEPS, abar, generator=torch.Generator().manual_seed(7)),
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-12)


def test_churn_keeps_the_moments():
    sigmas = schedules.karras_sigmas(200, 0.002, 20.0)
    rng = torch.Generator().manual_seed(4)
    n = 10_000
    x = DATA.mu + (DATA.S + 20.0**2).sqrt() * torch.randn(n, 3, generator=rng, dtype=F64)
    samples = samplers.heun(
        DATA.denoiser, x, sigmas, generator=rng, S_churn=40, S_min=0.05, S_max=15
    )
    assert ((samples.mean(0) - DATA.mu).abs() < 4.5 * (DATA.S / n).sqrt() + 0.005).all()
    assert ((samples.var(0) / DATA.S - 1).abs() < 4.5 * math.sqrt(2 / n) + 0.005).all()


def test_churn_adds_the_noise_of_algorithm_2():
    """A denoiser that returns its input has no drift: what is left is the churn."""
    sigmas = torch.tensor([1.0, 2.0, 4.0], dtype=F64)
    rng = torch.Generator().manual_seed(5)
    x = torch.zeros(50_000, 1, dtype=F64)
    samples = samplers.heun(
        lambda x, _: x, x, sigmas, generator=rng, S_churn=0.6, S_min=1.5, S_max=9, S_noise=1.1
    )
    gamma = 0.6 / 3  # below sqrt(2) - 1, for the two levels inside [S_min, S_max]
    expected = 1.1**2 * ((1 + gamma) ** 2 - 1) * (2.0**2 + 4.0**2)
    assert samples.var().item() == pytest.approx(expected, rel=4.5 * math.sqrt(2 / 50_000))


def predict_and_correct(x, sigmas, rng, snr=None):
    """The loop of algorithms 2 and 4, without a corrector where `snr` is None."""
    for sigma, sigma_next in schedules.descend(sigmas, 0.0):
        level = x.new_full((len(x),), sigma)
        g2 = sigma**2 - sigma_next**2
        x = samplers.reverse_diffusion_predictor(
            x, DATA.score(x, level), g2, samplers.noise_like(x, rng)
        )
        if snr is not None:
            z = samplers.noise_like(x, rng)
            x = samplers.langevin_corrector(x, DATA.score(x, level), snr, z)
    return x


def test_predictor_and_corrector_recover_the_data():
    sigmas = schedules.geometric_sigmas(500, 0.01, 20.0)
    rng = torch.Generator().manual_seed(6)
    n = 4000
    x = 20.0 * torch.randn(n, 3, generator=rng, dtype=F64)
    samples = predict_and_correct(x, sigmas, rng, snr=0.05)
    # 4.5 standard errors plus 3 % for 500 finite steps of each kind. With r = 0.16 and so few
    # dimensions a Langevin step is long against the narrowest direction, hence the smaller r.
    assert ((samples.mean(0) - DATA.mu).abs() < 4.5 * (DATA.S / n).sqrt() + 0.03).all()
    assert ((samples.var(0) / DATA.S - 1).abs() < 4.5 * math.sqrt(2 / n) + 0.03).all()


def test_predictor_alone_has_its_closed_form_moments():
    sigmas = schedules.geometric_sigmas(30, 0.05, 5.0)
    rng = torch.Generator().manual_seed(8)
    x = 5.0 * torch.randn(40_000, 3, generator=rng, dtype=F64)
    samples = predict_and_correct(x, sigmas, rng)
    m, v = torch.zeros(3, dtype=F64), torch.full((3,), 25.0, dtype=F64)
    for sigma, sigma_next in schedules.descend(sigmas, 0.0):
        g2 = sigma**2 - sigma_next**2
        k = g2 / (DATA.S + sigma**2)
        m, v = (1 - k) * m + k * DATA.mu, (1 - k) ** 2 * v + g2
    check_moments(samples, m, v)


def test_langevin_step_has_the_size_that_the_norms_give():
    rng = torch.Generator().manual_seed(9)
    x, score, z = torch.randn(3, 4, 1, 5, 5, generator=rng, dtype=F64)
    found = samplers.langevin_corrector(x, score, 0.16, z)
    ratio = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
    epsilon = 2 * (0.16 * ratio) ** 2
    torch.testing.assert_close(found, x + epsilon * score + (2 * epsilon).sqrt() * z)


def test_clipping_bounds_the_prediction():
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))

    def wild(x, t):
        return -5 * torch.ones_like(x)

    for sampler in (samplers.ddim, samplers.ddpm, multistep.dpm_solver_pp_2m):
        kwargs = {"generator": torch.Generator()} if sampler is samplers.ddpm else {}
        clipped = sampler(wild, start(), TIMESTEPS, abar, clip=1.0, **kwargs)
        torch.testing.assert_close(clipped, torch.ones_like(clipped))
        free = sampler(wild, start(), TIMESTEPS, abar, **kwargs)
        assert free.max() > 2


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.ddpm, multistep.dpm_solver_pp_2m])
def test_wide_clipping_changes_nothing(sampler):
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))
    runs = []
    for clip in (None, 1e6):
        kwargs = (
            {}
            if sampler is multistep.dpm_solver_pp_2m
            else {"generator": torch.Generator().manual_seed(0)}
        )
        runs.append(sampler(DATA.eps(abar), start(), TIMESTEPS, abar, clip=clip, **kwargs))
    torch.testing.assert_close(*runs, rtol=0, atol=1e-11)


SAMPLERS = {
    "ddpm": (samplers.ddpm, 8),
    "ddim": (samplers.ddim, 8),
    "dpm_solver_pp_2m": (multistep.dpm_solver_pp_2m, 8),
    "heun": (samplers.heun, 15),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_contract_of_every_sampler(name):
    """Evaluations, callback, shapes of the network's inputs, reproducibility, no autograd state."""
    sampler, calls = SAMPLERS[name]
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))
    discrete = name != "heun"
    grid = TIMESTEPS if discrete else schedules.karras_sigmas(8, 0.1, 10.0)
    count, seen = 0, []
    weight = torch.ones(1, requires_grad=True)

    def network(x, t):
        nonlocal count
        count += 1
        assert t.shape == (len(x),) and t.dtype == (torch.int64 if discrete else x.dtype)
        return 0.1 * x * weight

    def run():
        kwargs = {"generator": torch.Generator().manual_seed(1)} if name == "ddpm" else {}
        args = (grid, abar) if discrete else (grid,)
        x = torch.ones(4, 2)
        out = sampler(network, x, *args, **kwargs, callback=lambda *args: seen.append(args))
        assert torch.equal(x, torch.ones(4, 2)), "the caller's state must not change"
        return out

    out = run()
    assert count == calls and torch.equal(out, run())
    assert out.dtype == torch.float32 and not out.requires_grad and not out.is_inference()
    steps = [i for i, *_ in seen[:8]]
    assert steps == list(range(8))
    levels = torch.stack([t[0] for _, t, _, _ in seen[:8]])
    torch.testing.assert_close(levels, grid.flip(0).to(levels.dtype))
    for _, _, x, prediction in seen:  # what the network saw and said, untouched by later steps
        torch.testing.assert_close(prediction, 0.1 * x)


def test_repeated_steps_leave_the_sample_alone():
    abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))
    repeated = torch.tensor([0, 0, 0, 5, 5, 50, 99])
    for sampler in (samplers.ddim, samplers.ddpm):
        x = start()
        runs = [
            sampler(DATA.eps(abar), x, steps, abar, generator=torch.Generator().manual_seed(0))
            for steps in (repeated, repeated.unique())
        ]
        torch.testing.assert_close(*runs, rtol=0, atol=1e-12)


def test_mistakes_are_named():
    abar = schedules.alphas_cumprod(schedules.linear_betas(100))
    eps, x = DATA.eps(abar), start()
    with pytest.raises(ReproError, match="ascend"):
        samplers.ddim(eps, x, TIMESTEPS.flip(0), abar)
    with pytest.raises(ReproError, match="strictly ascending"):
        multistep.dpm_solver_pp_2m(eps, x, torch.tensor([0, 0, 9]), abar)
    with pytest.raises(ReproError, match="Generator"):
        samplers.ddim(eps, x, TIMESTEPS, abar, eta=1.0)
    with pytest.raises(ReproError, match="unknown variance"):
        samplers.ddpm(eps, x, TIMESTEPS, abar, variance="large", generator=torch.Generator())
    with pytest.raises(ReproError, match="ascend"):
        samplers.heun(DATA.denoiser, x, torch.tensor([2.0, 1.0]))
    for value in (0.0, 1.0):
        with pytest.raises(ReproError, match="without noise or without signal"):
            samplers.ddim(eps, x, torch.tensor([0, 1]), torch.tensor([0.5, value]))


def test_a_walk_names_its_steps_and_ends_at_clean_data():
    abar = torch.tensor([0.9, 0.5, 0.2], dtype=F64)
    steps = list(samplers.walk(torch.zeros(4, 1), torch.tensor([0, 2]), abar))
    assert [(i, t.tolist(), *levels) for i, t, *levels in steps] == [
        (0, [2] * 4, 0.2, 0.9),
        (1, [0] * 4, 0.9, 1.0),
    ]


@pytest.mark.parametrize("name", [*SAMPLERS, "plms"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_loop_never_waits_for_the_state(name, clip):
    """Tensors of the meta device have no values: reading one in a loop raises."""
    if name == "heun":
        grid, options = (schedules.karras_sigmas(8, 0.1, 10.0),), {"S_churn": 4.0}
    else:
        abar = schedules.alphas_cumprod(schedules.linear_betas(100, 1e-3, 0.1))
        grid, options = (TIMESTEPS, abar), {"clip": clip}
    if name in ("ddim", "ddpm", "heun"):
        options["generator"] = torch.Generator().manual_seed(0)
    if name == "ddim":
        options["eta"] = 0.5
    sampler = multistep.plms if name == "plms" else SAMPLERS[name][0]
    x = sampler(lambda x, t: 0.1 * x, torch.empty(4, 2, device="meta"), *grid, **options)
    assert x.is_meta and x.shape == (4, 2)
