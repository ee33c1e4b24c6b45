r"""Consistency distillation (Song et al. 2023) in the flow's time: the rival of equal size.

A consistency function sends every point of a path of the teacher's ODE to the image at its end,
f(x_t, t) = x_1. It is learnt between neighbours of the times t_0 < ... < t_N = 1,

    x_t = t_n x + (1 − t_n) z,   x̂ = one Heun step of the teacher's velocity from x_t to t_{n+1},
    L = E D(f_θ(x_t, t_n), f_θ⁻(x̂, t_{n+1})),

where θ⁻ is a moving average of θ through which no gradient passes. x are the teacher's own images,
those of the pairs, as in every other training here; z is fresh noise, since a state of the
teacher's ODE is an image plus noise that is independent of it. The noises of the pairs are unused.

The boundary f(x, 1) = x holds by construction. A state y = x_t / t of noise level σ = (1 − t) / t
has c_skip = σ_d² / (σ² + σ_d²) and c_out = σ σ_d / √(σ² + σ_d²); with σ_d left to the network,
which predicts images as all small networks here do,

    f(x_t, t) = σ_d² t / ((1 − t)² + σ_d² t²) x_t + (1 − t) / √((1 − t)² + σ_d² t²) F(x_t, 999 t).

From noise, t ≈ 0, this is F: one step returns the network's image.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from methods.slimflow import method as slim
from methods.slimflow import training
from repro.diffusion import flow
from repro.diffusion.schedules import expand, karras_sigmas
from repro.errors import ReproError
from repro.nets.unet import UNet

if TYPE_CHECKING:
    from repro.job import Job

Consistency = Callable[[Tensor, Tensor], Tensor]
"""f(x_t (B, ...), t (B,)) -> images (B, ...)."""

SIGMAS = 0.01, 80.0
"""Noise levels σ that Karras et al.'s spacing covers; 0.01 is the smallest the teacher knows."""


def coefficients(t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """c_skip and c_out of times t (B,): 1 and 0 at t = 1, 0 and 1 at t = 0."""
    variance = (1 - t) ** 2 + sigma_data**2 * t**2
    return sigma_data**2 * t / variance, (1 - t) / variance.sqrt()


def consistency(network: Callable[[Tensor, Tensor], Tensor], sigma_data: float) -> Consistency:
    """f of a network (x, 999 t) -> image."""

    def f(x: Tensor, t: Tensor) -> Tensor:
        skip, out = (expand(c, x) for c in coefficients(t, sigma_data))
        return skip * x + out * network(x, flow.TIME_SCALE * t).to(x.dtype)

    return f


def times(levels: int, spacing: str) -> Tensor:
    """t_0 < ... < t_N = 1 for N = ``levels``, (N + 1,) float32.

    "even": times at even distances from ε; "karras": noise levels between `SIGMAS` as spaced by
    Karras et al. 2022, and no noise behind.

    Raises ReproError where there is no spacing of that name.
    """
    if spacing == "even":
        return torch.linspace(slim.EPS, 1, levels + 1)
    if spacing != "karras":
        raise ReproError(f"no spacing `{spacing}`; choose even or karras")
    sigmas = karras_sigmas(levels, *SIGMAS).flip(0)
    return (1 / (1 + torch.cat([sigmas, sigmas.new_zeros(1)]))).float()


def neighbours(t: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbouring times (t_n, t_{n+1}), each (B,), n uniform for t (B,) uniform in [ε, 1]."""
    levels = len(grid) - 1
    n = ((t - slim.EPS) / (1 - slim.EPS) * levels).long().clamp(0, levels - 1)
    return grid[n], grid[n + 1]


def euler_step(v: flow.Velocity, x: Tensor, t: Tensor, later: Tensor) -> Tensor:
    """One Euler step of x (B, ...) from t to later, both (B,)."""
    return x + expand(later - t, x) * v(x, t).to(x.dtype)


def heun_step(v: flow.Velocity, x: Tensor, t: Tensor, later: Tensor) -> Tensor:
    """One step of Heun's method of x (B, ...) from t to later, both (B,).

    Where it ends at the image, t = 1, it is Euler's, as in Karras et al.'s sampler.
    """
    first = v(x, t).to(x.dtype)
    step = expand(later - t, x)
    second = v(x + step * first, later).to(x.dtype)
    return x + step * torch.where(expand(later, x) < 1, (first + second) / 2, first)


SOLVERS = {"euler": euler_step, "heun": heun_step}


def consistency_loss(
    f: Consistency,
    target: Consistency,
    v: flow.Velocity,
    x: Tensor,
    z: Tensor,
    t: Tensor,
    later: Tensor,
    distance: slim.Distance,
    solver: Callable[..., Tensor] = heun_step,
) -> Tensor:
    """D(f(x_t, t), sg f⁻(x̂, t')) for images x and fresh noises z (B, ...), times t < t' (B,)."""
    x_t = flow.interpolate(x, z, t)
    with torch.no_grad():
        end = target(solver(v, x_t, t, later), later)
    return distance(f(x_t, t), end)


class WithTarget(nn.Module):
    """A student beside its moving average, so that a checkpoint of training holds both."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.target = student, deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """θ⁻ ← μ θ⁻ + (1 − μ) θ."""
        mine: list[Tensor] = [*self.target.parameters()]
        theirs: list[Tensor] = [*self.student.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def train(job: Job) -> dict[str, Tensor]:
    """A one-step student by consistency distillation of the teacher, from random weights."""
    p, data = job.params, job.model("pairs")
    if p.solver not in SOLVERS:
        raise ReproError(f"no solver `{p.solver}`; choose {' or '.join(SOLVERS)}")
    solver, D = SOLVERS[p.solver], training.distance(job)
    v, grid = training.teacher_velocity(job), times(p.levels, p.spacing).to(job.device)

    def batch(step: int, generator: Generator) -> training.Draw:
        return training.drawn(data, p.batch, p.flip, generator)

    def loss(net: WithTarget, d: training.Draw, generator: Generator) -> Tensor:
        net.follow(p.target_decay)
        f, target = (consistency(n, p.sigma_data) for n in (net.student, net.target))
        return consistency_loss(f, target, v, d.x, d.fresh, *neighbours(d.t, grid), D, solver)

    state = training.fitted(job, WithTarget(training.initialised(job)), loss, batch)
    prefix = "student."
    return {k.removeprefix(prefix): s for k, s in state.items() if k.startswith(prefix)}


def load(job: Job, name: str) -> flow.Velocity:
    """What one full Euler step from noise z adds to arrive at f((1 − t_0) z, t_0).

    The student of a model of the card, in eval mode; noise is scaled to the first time t_0.
    """
    p = job.model_params(name)
    network = UNet(**p.unet)
    network.load_state_dict(job.model(name))
    f = consistency(network.to(job.device).eval().requires_grad_(False), p.sigma_data)
    first = float(times(p.levels, p.spacing)[0])
    return lambda z, t: f((1 - first) * z, torch.full_like(t, first)) - z
