"""The same network, grid and noise through our samplers and through the schedulers of diffusers."""

import diffusers
import pytest
import torch
from torch import nn

from repro.diffusion import multistep, samplers, schedules

# Both sides in float64 from one table of abar. What is left are the float32 tables (relative error
# 6e-8) that some schedulers build from it, against states of size 1 to 160.
TOLERANCE = 1e-5
STEPS = 20


class Network(nn.Module):
    """A small fixed convolutional network: the exact eps of N(0, I) data, disturbed."""

    def __init__(self, abar):
        super().__init__()
        self.register_buffer("noise_level", (1 - abar).sqrt())
        rng = torch.Generator().manual_seed(0)
        for name, shape in {"inner": (8, 2, 3, 3), "time": (8,), "outer": (2, 8, 3, 3)}.items():
            self.register_buffer(name, 0.3 * torch.randn(shape, generator=rng, dtype=torch.float64))

    def forward(self, x, t):
        phase = (t.double() / 100).sin()[:, None, None, None] * self.time[None, :, None, None]
        h = torch.tanh(torch.conv2d(x, self.inner, padding=1) + phase)
        h = torch.conv2d(h, self.outer, padding=1)
        return 0.2 * h + self.noise_level[t][:, None, None, None] * x


@pytest.fixture(scope="module")
def abar():
    return schedules.alphas_cumprod(schedules.linear_betas())


@pytest.fixture(scope="module")
def network(abar):
    return Network(abar)


def noise(seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, 8, 8, generator=rng, dtype=torch.float64)


def run(scheduler, abar, network, x, **kwargs):
    """The loop of a diffusers pipeline, on our float64 table."""
    scheduler.alphas_cumprod = abar
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        eps = network(scheduler.scale_model_input(x, t), t.long().expand(len(x)))
        x = scheduler.step(eps, t, x, **kwargs).prev_sample
    return x


def steps(scheduler):
    scheduler.set_timesteps(STEPS)
    return scheduler.timesteps.flip(0).long().unique()


def assert_same(ours, theirs):
    assert theirs.abs().max() > 0.1, "the comparison would be empty"
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("eta", "clip"), [(0.0, None), (0.0, 1.0), (0.7, None), (1.0, 1.0)])
def test_ddim(network, abar, eta, clip):
    scheduler = diffusers.DDIMScheduler(
        clip_sample=clip is not None, timestep_spacing="leading", steps_offset=0
    )
    theirs = run(
        scheduler,
        abar,
        network,
        noise(),
        eta=eta,
        use_clipped_model_output=True,
        generator=torch.Generator().manual_seed(2),
    )
    ours = samplers.ddim(
        network,
        noise(),
        schedules.timesteps_uniform(1000, STEPS),
        abar,
        eta=eta,
        clip=clip,
        generator=torch.Generator().manual_seed(2),
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("variance", "theirs_variance"), [("posterior", "fixed_small"), ("beta", "fixed_large")]
)
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddpm(network, abar, variance, theirs_variance, clip):
    scheduler = diffusers.DDPMScheduler(
        variance_type=theirs_variance, clip_sample=clip is not None, timestep_spacing="leading"
    )
    theirs = run(scheduler, abar, network, noise(), generator=torch.Generator().manual_seed(3))
    ours = samplers.ddpm(
        network,
        noise(),
        schedules.timesteps_uniform(1000, STEPS),
        abar,
        variance=variance,
        clip=clip,
        generator=torch.Generator().manual_seed(3),
    )
    assert_same(ours, theirs)


def test_dpm_solver_pp_2m(network, abar):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="dpmsolver++", timestep_spacing="leading"
    )
    # this scheduler builds its own tables from alphas_cumprod, in float32
    theirs = run(scheduler, abar, network, noise())
    ours = multistep.dpm_solver_pp_2m(network, noise(), steps(scheduler), abar)
    assert_same(ours, theirs)


def test_heun_on_a_variance_preserving_network(network, abar):
    # linear betas here too: the default of this class is another schedule
    kwargs = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = diffusers.HeunDiscreteScheduler(timestep_spacing="leading", **kwargs)
    levels = schedules.vp_sigmas(abar)
    sigmas = levels[steps(scheduler)]

    def denoiser(x, sigma):
        """The network read as D: x / sqrt(1 + sigma^2) is its state at the step of that level."""
        t = (levels.log()[None] - sigma.log()[:, None]).abs().argmin(1)
        sigma = schedules.expand(sigma, x)
        return x - sigma * network(x / (1 + sigma**2).sqrt(), t)

    x = noise() * sigmas[-1]
    theirs = run(scheduler, abar, network, x)
    assert_same(samplers.heun(denoiser, x, sigmas), theirs)
