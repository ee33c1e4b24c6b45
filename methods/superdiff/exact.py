r"""Identities and closed forms, on Gaussians whose scores and log-densities are known.

The toy G2: d = 2, the paper's schedule, $q_0^i = N(m_i, 0.4^2 I)$, so that $q_t^i = N(\alpha_t m_i,
V_t I)$ with $V_t = (0.4 \alpha_t)^2 + \sigma_t^2$. Log-densities start at their true values at
t = 1. Float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from methods.superdiff import method as sd

if TYPE_CHECKING:
    from repro.job import Job

MEANS = ((1.5, 1.5), (-1.5, 0.5))
THIRD = (0.0, -2.0)
CIRCUMCENTRE = (0.361111, -0.083333)
DEVIATION = 0.4

Errors = dict[str, float]


class Gaussian:
    """One model of G2: its score times sigma, its log-density and the divergence of its output."""

    def __init__(self, mean: tuple[float, float]) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64)

    @staticmethod
    def variance(t: float) -> float:
        return (DEVIATION * sd.alpha(t)) ** 2 + sd.sigma(t) ** 2

    def score(self, x: Tensor, t: float) -> Tensor:
        return -(x - sd.alpha(t) * self.mean) / self.variance(t)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return sd.sigma(t) * self.score(x, t)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        V = self.variance(t)
        distance = (x - sd.alpha(t) * self.mean).square().sum(-1)
        return -distance / (2 * V) - math.log(2 * math.pi * V)


def models(third: bool = False) -> list[Gaussian]:
    """The two models of G2, or three."""
    return [Gaussian(mean) for mean in (*MEANS, *((THIRD,) if third else ()))]


def log_densities(gaussians: list[Gaussian], x: Tensor, t: float) -> Tensor:
    """True log-densities, (M, B)."""
    return torch.stack([g.log_density(x, t) for g in gaussians])


def start(samples: int, generator: Generator) -> Tensor:
    return torch.randn(samples, 2, generator=generator, dtype=torch.float64)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def difference_error(L: Tensor, truth: Tensor) -> float:
    """RMS error of L_1 - L_2."""
    return _rms((L[0] - L[1]) - (truth[0] - truth[1]))


# The estimator (checks 1 and 2) -----------------------------------------------------------------


def ito_errors(steps: int, samples: int, generator: Generator) -> Errors:
    """Errors of the estimator after a whole trajectory of each of three reverse equations."""
    found: Errors = {}
    pair = models()
    x = start(samples, generator)
    L = log_densities(pair, x, 1.0)
    continuous, discrete, apart = L, L, torch.zeros((), dtype=torch.float64)
    y, at_y, z, at_z = x, L, x, L
    dt = 1 / steps
    for k in range(steps):
        t = 1 - k * dt
        noise = math.sqrt(sd.g2(t) * dt) * start(samples, generator)
        s = torch.stack([g.score(x, t) for g in pair])
        dx = -dt * (sd.dlog_alpha(t) * x - sd.g2(t) * s[0]) + noise
        first, second = sd.ito(dx, x, s, t, dt), sd.ito_discrete(dx, x, s, t, dt)
        continuous, discrete, x = continuous + first, discrete + second, x + dx
        apart = torch.maximum(apart, ((first - second)[0] - (first - second)[1]).abs().max())
        s = torch.stack([g.score(y, t) for g in pair])
        dx = -dt * (sd.dlog_alpha(t) * y - sd.g2(t) * s.mean(0)) + noise
        at_y, y = at_y + sd.ito(dx, y, s, t, dt), y + dx
        s = torch.stack([g.score(z, t) for g in pair])
        dx = dt * torch.sin(3 * z) + noise
        at_z, z = at_z + sd.ito(dx, z, s, t, dt), z + dx
    truth = log_densities(pair, x, 0.0)
    found["difference"] = difference_error(continuous, truth)
    found["single"] = float((continuous - truth).std())
    found["single-discrete"] = float((discrete - truth).std())
    found["averaging"] = difference_error(at_y, log_densities(pair, y, 0.0))
    found["arbitrary-drift"] = difference_error(at_z, log_densities(pair, z, 0.0))
    found["discrete-apart"] = float(apart)
    true_y = log_densities(pair, y, 0.0)
    found["averaging-ends"] = _rms(true_y[0] - true_y[1])
    return found


def ode_error(steps: int, samples: int, generator: Generator) -> float:
    """RMS error of L_1 - L_2 by Proposition 5 along the averaged ODE, with true divergences.

    The toy's Jacobian is a multiple of the identity, so that one Rademacher probe is exact.
    """
    pair, x = models(), start(samples, generator)
    out = sd.superdiff_ode(
        pair,
        x,
        steps,
        sd.Averaging(),
        generator=generator,
        follow=True,
        L=log_densities(pair, x, 1),
    )
    return difference_error(out.L, log_densities(pair, out.x, 0.0))


# AND (checks 3, 4 and 7) ------------------------------------------------------------------------


def and_errors(steps: int, samples: int, generator: Generator) -> Errors:
    """Drift of L_1 - L_2, where samples end, and the bias of the common level."""
    pair, x = models(), start(samples, generator)
    L = log_densities(pair, x, 1.0)
    out = sd.superdiff(pair, x, steps, sd.And(), generator=generator, L=L)
    truth = log_densities(pair, out.x, 0.0)
    gap = truth[0] - truth[1]
    m = torch.tensor(MEANS, dtype=torch.float64)
    normal = (m[0] - m[1]) / (m[0] - m[1]).norm()
    return {
        "drift": float(out.largest_gap.max()),
        "bisector": _rms((out.x - m.mean(0)) @ normal),
        "final-gap": _rms(gap),
        "level": float((out.L - truth).mean()),
    }


def level_bias(points: int = 200_001) -> float:
    r"""$-\int_0^1 g_t^2 / (2 V_t)\, dt$ by the trapezoidal rule."""
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    a = torch.exp(sd.log_alpha(t))
    integrand = sd.g2(t) / (2 * ((DEVIATION * a) ** 2 + sd.sigma(t) ** 2))
    return -float(torch.trapezoid(integrand, t))


def three_model_errors(steps: int, samples: int, generator: Generator) -> Errors:
    """The same with a third model: drift, distance of the mean to the circumcentre, spread."""
    three, x = models(third=True), start(samples, generator)
    L = log_densities(three, x, 1.0)
    out = sd.superdiff(three, x, steps, sd.And(), generator=generator, L=L)
    drift = (out.L - L) - (out.L - L)[0]
    centre = torch.tensor(CIRCUMCENTRE, dtype=torch.float64)
    return {
        "drift-3": float(drift.abs().max()),
        "circumcentre": float((out.x.mean(0) - centre).abs().max()),
        "spread-3": float(out.x.std(0).max()),
    }


def weights_errors(generator: Generator) -> Errors:
    """Closed form against linear system, sums of weights, biases, limits of the softmax."""
    pair, x, t, dt = models(), start(256, generator), 0.6, 0.01
    s = torch.stack([g.score(x, t) for g in pair])
    noise = math.sqrt(sd.g2(t) * dt) * start(256, generator)
    closed = sd.kappa_and_pair(x, s, noise, t, dt)
    system, _ = sd.kappa_and(x, s, noise, t, dt)
    biased = sd.kappa_and_pair(x, s, noise, t, dt, l=0.3)
    biased_system, _ = sd.kappa_and(x, s, noise, t, dt, l=[0.0, 0.3])

    def changes(kappa: Tensor) -> Tensor:
        dx = -dt * (sd.dlog_alpha(t) * x - sd.g2(t) * sd.combine(kappa, s)) + noise
        return sd.ito(dx, x, s, t, dt)

    _, common = sd.kappa_and(x, s, noise, t, dt)
    L = 3 * start(256, generator).T
    l, T = 0.7, 2.5  # noqa: E741
    released, plain = sd.kappa_or_released(L, T, l), sd.kappa_or(L, T)
    shift = (released.log() - plain.log()).diff(dim=0)[0]
    outputs = torch.stack([g(x, t) for g in pair])
    unequal = torch.randn(2, 256, generator=generator, dtype=torch.float64)
    kappa = sd.kappa_and_ode(outputs, unequal, t)
    u = sd.dlog_alpha(t) * x - sd.b(t) * sd.combine(kappa, outputs)
    rates = sd.along_ode(u, x, s, unequal, t, dt)
    argmax = torch.nn.functional.one_hot(L.argmax(0), 2).T.double()
    mixture = torch.stack([g.log_density(x, t) for g in pair])
    y = x.clone().requires_grad_()
    both = torch.logsumexp(torch.stack([g.log_density(y, t) for g in pair]), 0).sum()
    (true_score,) = torch.autograd.grad(both, y)
    return {
        "closed-form": float((closed - system).abs().max()),
        "closed-form-biased": float((biased - biased_system).abs().max()),
        "bias-kept": float((changes(biased)[0] - changes(biased)[1] - 0.3).abs().max()),
        "common-change": float((changes(system) - common).abs().max()),
        "sum-and": float((closed.sum(0) - 1).abs().max()),
        "sum-or": float((sd.kappa_or(L, T).sum(0) - 1).abs().max()),
        "or-bias": float((shift + T * l).abs().max()),
        "or-limit": float((sd.kappa_or(L, 1e6) - argmax).abs().max()),
        "or-is-mixture": float((sd.combine(sd.kappa_or(mixture), s) - true_score).abs().max()),
        "and-ode": float((rates[0] - rates[1]).abs().max()),
    }


# Variance (check 5) -----------------------------------------------------------------------------


def ito_variance(dt: float, samples: int, generator: Generator, t: float = 0.5) -> float:
    """Variance of the error of one step from (0.3, -0.2) with model 1, over dt^2."""
    model = models()[0]
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64).expand(samples, 2)
    s = model.score(x, t)[None]
    noise = math.sqrt(sd.g2(t) * dt) * start(samples, generator)
    dx = -dt * (sd.dlog_alpha(t) * x - sd.g2(t) * s[0]) + noise
    true = model.log_density(x + dx, t - dt) - model.log_density(x, t)
    return float((sd.ito(dx, x, s, t, dt)[0] - true).var() / dt**2)


def theorem_3(t: float = 0.5) -> float:
    r"""$(g^4 / 4) \cdot 2 d / V^2$ on G2."""
    return sd.g2(t) ** 2 / 4 * 4 / Gaussian.variance(t) ** 2


def hutchinson_variance(probe: str, samples: int, generator: Generator, t: float = 0.5) -> float:
    """Variance of (g^2 / 2) times Hutchinson's divergence of the score, at the same point."""
    model = models()[0]
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64).expand(samples, 2)
    draw = start(samples, generator)
    draw = draw if probe == "gaussian" else draw.sign()
    _, divergence = sd.hutchinson(model, x.contiguous(), t, draw)
    return float((sd.g2(t) / (2 * sd.sigma(t)) * divergence).var())


# OR (check 6) and Stable Diffusion's variables --------------------------------------------------


def or_errors(
    steps: int,
    samples: int,
    generator: Generator,
    increments: Callable[..., Tensor] = sd.ito,
) -> Errors:
    """Where samples of OR end: frequency of mode 1, mean squared distance to the nearest mean."""
    pair, x = models(), start(samples, generator)
    L = log_densities(pair, x, 1.0)
    out = sd.superdiff(pair, x, steps, sd.Or(), generator=generator, increments=increments, L=L)
    m = torch.tensor(MEANS, dtype=torch.float64)
    distance = (out.x[:, None] - m).square().sum(-1)
    truth = log_densities(pair, out.x, 0.0)
    return {
        "frequency": float((distance.argmin(1) == 0).double().mean()),
        "nearest": float(distance.min(1).values.mean()),
        "gap": difference_error(out.L, truth),
    }


def stable_diffusion_errors(generator: Generator) -> Errors:
    """The released script's updates against Theorem 1 with f = 0 and g^2 dtau = 2 sigma |dsigma|.

    `released-or`: how far the sign error of the OR branch is from twice the quadratic term.
    """
    B, d, scale, dsigma, w = 64, 8, 3.0, -0.05, 7.5
    v = torch.randn(2, B, d, generator=generator, dtype=torch.float64)
    unconditional = torch.randn(B, d, generator=generator, dtype=torch.float64)
    noise = math.sqrt(2 * abs(dsigma) * scale) * torch.randn(
        B, d, generator=generator, dtype=torch.float64
    )
    kappa = sd.kappa_and_ve(v, unconditional, noise, scale, dsigma, w)
    mixed = v[1] - unconditional + kappa[:, None] * (v[0] - v[1])
    dx = 2 * dsigma * (unconditional + w * mixed) + noise
    s = -v / scale
    # Theorem 1 spelled out: <dx, s> - (g^2 / 2) |s|^2 dtau.
    theorem = sd.inner(s, dx) - scale * abs(dsigma) * sd.squared(s)
    ve, released = sd.ito_ve(dx, v, scale, dsigma), sd.ito_ve_released_or(dx, v, scale, dsigma)
    twice = 2 * abs(dsigma) / scale * sd.squared(v)
    return {
        "ve-theorem-1": float((ve - theorem).abs().max()),
        "ve-and": float((ve[0] - ve[1]).abs().max()),
        "released-or": float((released - ve - twice).abs().max()),
    }


def schedule_values() -> Errors:
    """Values of the schedule that the specification of the released code gives."""
    return {
        "alpha-1": sd.alpha(1.0),
        "b-0": sd.b(0.0),
        "b-1": sd.b(1.0),
        "dlog-alpha-1": sd.dlog_alpha(1.0),
        "V-1": Gaussian.variance(1.0),
    }


def schedule_error() -> float:
    """b and g^2 against numerical derivatives of log(sigma / alpha), largest difference."""
    t = torch.linspace(0.05, 1, 200, dtype=torch.float64, requires_grad=True)
    (rate,) = torch.autograd.grad((torch.log(sd.sigma(t)) - sd.log_alpha(t)).sum(), t)
    t = t.detach()
    return float(max((sd.b(t) - t * rate).abs().max(), (sd.g2(t) - 2 * t**2 * rate).abs().max()))


def discrepancy_error(n: int = 1000) -> float:
    """Largest gap of the sorted training times on the circle, times n: about 1 if well spread."""
    t = sd.low_discrepancy(n, 0.3).sort().values
    return float(torch.cat([t.diff(), t[:1] + 1 - t[-1:]]).max() * n)


def all_errors(generator: Generator) -> Iterator[tuple[str, float]]:
    """Identities that hold to round-off, by name."""
    yield from weights_errors(generator).items()
    yield from stable_diffusion_errors(generator).items()
    yield "schedule", schedule_error()


def measure(job: Job) -> None:
    """Every identity and closed form of this module."""
    p = job.params
    for item, error in all_errors(job.rng("identities")):
        job.measure("error", error, item=item)
    for item, value in schedule_values().items():
        job.measure("value", value, item=item)
    for steps in p.steps:
        for item, value in ito_errors(steps, p.samples, job.rng("ito", steps)).items():
            job.measure("value", value, item=item, steps=steps)
    for steps in (100, 400):
        error = ode_error(steps, 1024, job.rng("ode", steps))
        job.measure("value", error, item="ode", steps=steps)
    for steps in p.and_steps:
        found = and_errors(steps, p.samples, job.rng("and", steps))
        for item, value in found.items():
            job.measure("value", value, item=f"and-{item}", steps=steps)
    for item, value in three_model_errors(400, p.samples, job.rng("three")).items():
        job.measure("value", value, item=item, steps=400)
    job.measure("value", level_bias(), item="level-bias")
    job.measure("value", theorem_3(), item="theorem-3")
    for dt in (1e-3, 1e-4):
        value = ito_variance(dt, p.draws, job.rng("variance"))
        job.measure("value", value, item="ito-variance", dt=dt)
    for probe in ("gaussian", "rademacher"):
        value = hutchinson_variance(probe, p.draws, job.rng("probe"))
        job.measure("value", value, item="hutchinson-variance", probe=probe)
    for name, steps in (("theorem-1", 1600), ("released-or", 400)):
        found = or_errors(steps, p.samples, job.rng("or"), sd.INCREMENTS[name])
        for item, value in found.items():
            job.measure("value", value, item=f"or-{item}", increments=name)
