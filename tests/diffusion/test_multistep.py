"""PLMS, DPM-Solver++ on real times, and grids: against diffusers and against closed forms."""

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.diffusion import multistep, samplers, schedules
from repro.errors import ReproError
from repro.metrics.cost import NFECounter

ABAR = schedules.alphas_cumprod(schedules.linear_betas())
TOLERANCE = 3e-5  # float32 tables of diffusers, over 20 steps, against states of size 1


def network(x, t):
    """Exact noise of N(0, 1/4) data, disturbed by a smooth function of state and time."""
    t = t.double()[:, None]
    a = torch.from_numpy(np.interp(t.numpy(), range(1000), ABAR.numpy()))
    return (1 - a).sqrt() * x / (a / 4 + 1 - a) + 0.1 * torch.sin(3 * x + t / 200)


def noise(seed=1):
    return torch.randn(64, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("steps", [4, 10, 20])
def test_plms_is_that_of_diffusers(steps):
    scheduler = diffusers.PNDMScheduler(
        skip_prk_steps=True, timestep_spacing="leading", steps_offset=0
    )
    scheduler.alphas_cumprod = ABAR
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    x = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
    grid = schedules.timesteps_uniform(1000, steps)
    counted = NFECounter(network)
    ours = multistep.plms(counted, noise(), grid, ABAR)
    assert (ours - x).abs().max() <= TOLERANCE
    assert counted.calls == steps + 1 == len(scheduler.timesteps)


@pytest.mark.parametrize("steps", [4, 10, 20])
def test_dpm_solver_is_that_of_diffusers(steps):
    """Same steps, and the last step to time 1 / T instead of clean data."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, solver_order=2, algorithm_type="dpmsolver++",
        timestep_spacing="leading", steps_offset=0, final_sigmas_type="sigma_min",
        lower_order_final=True,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    x = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
    times = multistep.times_of_steps(scheduler.timesteps.flip(0))
    counted = NFECounter(network)
    ours = multistep.dpm_solver_pp_2m_times(counted, noise(), times, ABAR)
    assert counted.calls == steps == len(times) - 1
    assert (ours - x).abs().max() <= TOLERANCE


def test_last_step_is_of_first_order_below_fifteen():
    for n, lower in ((14, True), (15, False)):
        times = multistep.times_uniform(n)
        runs = [
            multistep.dpm_solver_pp_2m_times(network, noise(), times, ABAR, lower_order_last=last)
            for last in (None, lower, not lower)
        ]
        assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_dpm_solver_on_whole_steps_is_the_discrete_one():
    """All steps but the last of both samplers are one method."""
    grid = torch.tensor([0, 93, 217, 354, 574, 834])
    seen = {}
    for name, run in {
        "times": lambda keep: multistep.dpm_solver_pp_2m_times(
            network, noise(), multistep.times_of_steps(grid), ABAR, lower_order_last=False,
            callback=keep,
        ),
        "steps": lambda keep: multistep.dpm_solver_pp_2m(
            network, noise(), grid, ABAR, callback=keep
        ),
    }.items():  # fmt: skip
        states = seen[name] = []
        out = run(lambda i, t, x, eps, states=states: states.append(x.clone()))
        states.append(out)
    assert len(seen["times"]) == 6 and len(seen["steps"]) == 7
    for ours, theirs in zip(seen["times"], seen["steps"], strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_orders_of_convergence():
    """Errors on an ODE with a known solution fall with the step, the higher orders faster."""

    def exact(x, t):
        a = multistep.alpha_at((t[:1].double() + 1) / 1000, ABAR)[:, None] ** 2
        return (1 - a).sqrt() * x / (a / 4 + 1 - a)

    def truth(steps, end):
        # x scales with the deviation of the data: sqrt(abar / 4 + 1 - abar)
        start = ABAR[steps[-1]]
        return noise() * ((end / 4 + 1 - end) / (start / 4 + 1 - start)).sqrt()

    errors = {}
    for n in (10, 40):
        steps = schedules.timesteps_inclusive(1000, n)
        one = torch.ones((), dtype=torch.float64)
        for name, x in {
            "ddim": samplers.ddim(exact, noise(), steps, ABAR) - truth(steps, one),
            "plms": multistep.plms(exact, noise(), steps, ABAR) - truth(steps, one),
            "dpm": multistep.dpm_solver_pp_2m_times(
                exact,
                noise(),
                torch.logspace(-3, 0, n + 1, dtype=torch.float64),
                ABAR,
                lower_order_last=False,
            )
            - truth(steps, ABAR[0]),
        }.items():
            errors[name, n] = float(x.abs().max())
    for name, gain in {"ddim": 2, "plms": 4, "dpm": 4}.items():
        assert errors[name, 40] * gain < errors[name, 10], errors
    assert errors["plms", 40] < errors["ddim", 40] / 3


def test_first_plms_step_evaluates_twice_and_a_single_step_works():
    seen = []
    multistep.plms(
        network, noise(), torch.tensor([100, 500, 900]), ABAR,
        callback=lambda i, t, x, eps: seen.append((i, int(t[0]))),
    )  # fmt: skip
    assert seen == [(0, 900), (1, 500), (2, 500), (3, 100)]
    counted = NFECounter(network)
    alone = multistep.plms(counted, noise(), torch.tensor([700]), ABAR)
    assert counted.calls == 2 and alone.isfinite().all()


@pytest.mark.parametrize("sampler", ["plms", "dpm"])
def test_clipping_bounds_the_prediction(sampler):
    big = 50 * noise()
    if sampler == "plms":
        x = multistep.plms(network, big, torch.tensor([200, 900]), ABAR, clip=1.0)
        assert x.abs().max() <= 1 + 1e-12
    else:
        times = multistep.times_of_steps(torch.tensor([200, 900]))
        x = multistep.dpm_solver_pp_2m_times(network, big, times, ABAR, clip=1.0)
        free = multistep.dpm_solver_pp_2m_times(network, big, times, ABAR)
        assert x.abs().max() < free.abs().max()


def test_alpha_at_training_steps_is_the_table_and_between_them_log_linear():
    times = (torch.arange(1000) + 1) / 1000.0
    torch.testing.assert_close(multistep.alpha_at(times.double(), ABAR) ** 2, ABAR)
    mid = multistep.alpha_at(torch.tensor([0.5005]), ABAR)
    expected = (ABAR[499].sqrt() * ABAR[500].sqrt()).sqrt()
    assert float(mid) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ReproError, match="times must lie"):
        multistep.alpha_at(torch.tensor([0.0]), ABAR)


@given(st.integers(1, 31))
@settings(deadline=None)
def test_grids_ascend_and_have_their_length(n):
    for make in (schedules.timesteps_stride, schedules.timesteps_inclusive):
        steps = make(1000, n)
        assert len(steps) == n and (steps.diff() > 0).all()
        assert int(steps[0]) >= 0 and int(steps[-1]) < 1000
    stride = schedules.timesteps_stride(1000, n)
    assert len(set(stride.diff().tolist())) <= 1
    times = multistep.times_uniform(n)
    assert len(times) == n + 1 and float(times[0]) == pytest.approx(1e-3) and times[-1] == 1


@pytest.mark.parametrize(
    "n, expected",
    [(4, [0, 250, 500, 750]), (6, [0, 167, 334, 501, 668, 835]), (3, [0, 334, 668])],
)
def test_stride(n, expected):
    assert schedules.timesteps_stride(1000, n).tolist() == expected


def test_bad_grids_are_named():
    with pytest.raises(ReproError, match="no stride"):
        schedules.timesteps_stride(1000, 501)
    with pytest.raises(ReproError, match="cannot pick"):
        schedules.timesteps_inclusive(10, 11)
    with pytest.raises(ReproError, match="ascend"):
        multistep.plms(network, noise(), torch.tensor([5, 3]), ABAR)
    for times in ([0.5, 0.5], [0.9, 0.2], [0.7]):
        with pytest.raises(ReproError, match="ascending times"):
            multistep.dpm_solver_pp_2m_times(network, noise(), torch.tensor(times), ABAR)
