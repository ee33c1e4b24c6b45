r"""Superposition of diffusion models by the Itô density estimator.

M models share the forward process $dx = f_t(x)\,dt + g_t\,dW$ with $t$ from 0 (data) to 1 (noise)
and $q_t(x \mid \mu) = N(\alpha_t \mu, \sigma_t^2 I)$, hence $f_t(x) = x\, d\log\alpha_t / dt$ and
$g_t^2 = 2 \sigma_t^2\, d\log(\sigma_t / \alpha_t) / dt$. Sampling runs in $\tau = 1 - t$ along

$$ dx = \left(-f_t(x) + g_t^2 \sum_i \kappa_i s_i(x)\right) d\tau + g_t\, dW, \qquad
   s_i = \nabla \log q_t^i, \quad \sum_i \kappa_i = 1, $$

and every model's log-density of the sample is followed without a divergence (Theorem 1), along any
such equation with the same $g_t$:

$$ d\log q^i = \langle dx, s_i \rangle
   + \left(\nabla \cdot f_t + \langle f_t - \tfrac{g_t^2}{2} s_i, s_i \rangle\right) d\tau. $$

| rule | weights $\kappa$ | samples |
| --- | --- | --- |
| `Or` | softmax of the log-densities | the mixture of the models |
| `And` | all log-densities change alike | where all models are equally likely |
| `Averaging` | $1 / M$ | the baseline of Liu et al. (2022) |

Shapes: states x (B, ...), scores s (M, B, ...), weights and log-densities (M, B). A model maps
(x, t) to $\sigma_t s$, minus the noise; t is a number. Log-densities keep the type of the state;
give float64 states where their differences matter.

Source: Skreta et al., The Superposition of Diffusion Models Using the Itô Density Estimator (2025),
Theorem 1, Propositions 5 and 6, Algorithm 1 and Appendix D, and the released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Model = Callable[[Tensor, float], Tensor]
"""(x (B, ...), t) -> sigma_t * score, shaped like x."""


# The schedule of the paper's CIFAR-10 models ---------------------------------------------------


def log_alpha(t):
    r"""$\log \alpha_t = -0.05\, t - 4.975\, t^2$, as in a VP process with beta from 0.1 to 20."""
    return -0.05 * t - 4.975 * t**2


def dlog_alpha(t):
    r"""$d \log \alpha_t / dt$."""
    return -0.05 - 9.95 * t


def sigma(t):
    r"""$\sigma_t = t$: not that of the VP process."""
    return t


def b(t):
    r"""$b_t = \sigma_t\, d\log(\sigma_t / \alpha_t) / dt = 1 + 0.05\, t + 9.95\, t^2$."""
    return 1 + 0.05 * t + 9.95 * t**2


def g2(t):
    r"""$g_t^2 = 2 \sigma_t b_t$."""
    return 2 * sigma(t) * b(t)


def alpha(t: float) -> float:
    r"""$\alpha_t$."""
    return math.exp(log_alpha(t))


def low_discrepancy(n: int, u0: float) -> Tensor:
    r"""Training times $u_0 + \sqrt{2} k \bmod 1$, k = 0..n-1: (n,) float64 in [0, 1)."""
    return (u0 + math.sqrt(2) * torch.arange(n, dtype=torch.float64)) % 1


# Inner products over all but the batch ---------------------------------------------------------


def inner(a: Tensor, c: Tensor) -> Tensor:
    """Sums a * c over the dimensions of a sample; what comes before (batch, models) stays.

    a, c: (B, ...) or (M, B, ...), broadcast against each other. The trailing dimensions of a sample
    are those beyond the batch of the operand with fewer dimensions.
    """
    kept = 1 + abs(a.ndim - c.ndim)
    product = a * c
    return product.flatten(kept).sum(-1) if product.ndim > kept else product


def squared(s: Tensor) -> Tensor:
    """|s_i|^2 of stacked scores (M, B, ...) -> (M, B)."""
    return s.square().flatten(2).sum(-1)


def combine(kappa: Tensor, s: Tensor) -> Tensor:
    """sum_i kappa_i s_i: (M, B), (M, B, ...) -> (B, ...)."""
    return (kappa.reshape(kappa.shape + (1,) * (s.ndim - 2)) * s).sum(0)


# Log-densities ---------------------------------------------------------------------------------


def ito(dx: Tensor, x: Tensor, s: Tensor, t: float, dt: float) -> Tensor:
    r"""Theorem 1: change of every log-density while t falls by dt and x moves by dx.

    Returns (M, B): $\langle dx, s_i \rangle + (\nabla \cdot f + \langle f - (g^2/2) s_i, s_i
    \rangle)\, dt$.
    """
    divergence = x[0].numel() * dlog_alpha(t)
    moved = inner(s, dx + dt * dlog_alpha(t) * x)
    return moved + dt * (divergence - g2(t) / 2 * squared(s))


def ito_released(dx: Tensor, x: Tensor, s: Tensor, t: float, dt: float) -> Tensor:
    """What the released Stable Diffusion script adds under OR: the quadratic term's sign is wrong.

    Its update L -= <v, dx + dsigma v> / sigma, with the score -v / sigma, written for any schedule.
    """
    return ito(dx, x, s, t, dt) + dt * g2(t) * squared(s)


def ito_discrete(dx: Tensor, x: Tensor, s: Tensor, t: float, dt: float) -> Tensor:
    r"""Log of the reverse over the forward Gaussian kernel, as the CIFAR code has it (App. D).

    $(|a|^2 - |b_i|^2) / (2 g^2 dt)$ with $a = dx + dt f(x + dx)$, $b_i = dx + dt (f(x) - g^2 s_i)$.
    Returns (M, B); its differences between models are those of `ito` where f is linear.
    """
    a = dx + dt * dlog_alpha(t) * (x + dx)
    b_i = dx + dt * (dlog_alpha(t) * x - g2(t) * s)
    return (squared(a[None]) - squared(b_i)) / (2 * g2(t) * dt)


INCREMENTS = {"theorem-1": ito, "discrete": ito_discrete, "released-or": ito_released}


def along_ode(u: Tensor, x: Tensor, s: Tensor, divergence: Tensor, t: float, dt: float) -> Tensor:
    r"""Proposition 5: change of every log-density while x moves by -dt u along an ODE.

    $-\nabla \cdot v^i - \langle s_i, v^i - u \rangle$ with $v^i = f - (g^2 / 2) s_i$ is the rate in
    t; dt is what t falls by.

    u: velocity in t, (B, ...). divergence: of sigma * s_i, (M, B). Returns (M, B).
    """
    v = dlog_alpha(t) * x - g2(t) / 2 * s
    div_v = x[0].numel() * dlog_alpha(t) - b(t) * divergence
    return dt * (div_v + (s * (v - u)).flatten(2).sum(-1))


def hutchinson(model: Model, x: Tensor, t: float, probe: Tensor) -> tuple[Tensor, Tensor]:
    """A model's output and Hutchinson's estimate of its divergence, by one forward-mode product.

    probe: (B, ...) with zero mean and unit covariance; Rademacher in the released code. Returns
    sigma * score (B, ...) and probe . J probe (B,).
    """
    value, product, *_ = torch.func.jvp(lambda y: model(y, t), (x,), (probe,))
    return value, inner(probe, product)


# Weights ---------------------------------------------------------------------------------------


def kappa_or(L: Tensor, temperature: float = 1.0, l: Sequence[float] | None = None) -> Tensor:  # noqa: E741
    """softmax(T L + l) over the models: (M, B) -> (M, B). l: one number a model (default 0)."""
    scaled = temperature * L
    if l is not None:
        scaled = scaled + torch.as_tensor(l, dtype=L.dtype, device=L.device)[:, None]
    return torch.softmax(scaled, 0)


def kappa_or_released(L: Tensor, temperature: float, l: float) -> Tensor:  # noqa: E741
    """softmax([T (L_1 + l), T L_2]) of the released scripts: the bias is inside, on model 1."""
    shift = torch.zeros(len(L), 1, dtype=L.dtype, device=L.device)
    shift[0] = l
    return torch.softmax(temperature * (L + shift), 0)


def kappa_and_pair(
    x: Tensor,
    s: Tensor,
    noise: Tensor,
    t: float,
    dt: float,
    l: float = 0.0,  # noqa: E741
) -> Tensor:
    """AND for two models, closed form of the released code: (2, B).

    noise: sqrt(dt) g eps, (B, ...), the very noise that the step will use. l: dlog q_1 is to exceed
    dlog q_2 by l.
    """
    D = s[0] - s[1]
    dx0 = -dt * (dlog_alpha(t) * x - g2(t) * s[1]) + noise
    kappa = l - inner(dx0 + dt * dlog_alpha(t) * x, D) + dt * g2(t) / 2 * inner(D, s[0] + s[1])
    kappa = kappa / (dt * g2(t) * inner(D, D))
    return torch.stack([kappa, 1 - kappa])


def kappa_and(
    x: Tensor,
    s: Tensor,
    noise: Tensor,
    t: float,
    dt: float,
    l: Sequence[float] | None = None,  # noqa: E741
) -> tuple[Tensor, Tensor]:
    r"""Proposition 6: the weights with which all log-densities change alike, for M models.

    Solves $\begin{pmatrix} a & -1 \\ 1 & 0 \end{pmatrix} (\kappa, d\log) = (-b - l, 1)$ for each
    sample, with $a_{ij} = dt \langle -f + g^2 s_j, s_i \rangle$. l: dlog q_1 is to exceed dlog q_i
    by l_i (l_1 = 0).

    Returns kappa (M, B) and the common change dlog q_1 (B,).
    """
    M, B = s.shape[:2]
    flat, f = s.flatten(2), dlog_alpha(t) * x.flatten(1)
    gram = torch.einsum("ibd,jbd->bij", flat, flat)
    a = dt * (g2(t) * gram - torch.einsum("ibd,bd->bi", flat, f)[:, :, None])
    constant = inner(s, noise + dt * dlog_alpha(t) * x)
    constant = constant + dt * (f.shape[1] * dlog_alpha(t) - g2(t) / 2 * squared(s))
    if l is not None:
        constant = constant + torch.as_tensor(l, dtype=s.dtype, device=s.device)[:, None]
    system = torch.ones(B, M + 1, M + 1, dtype=s.dtype, device=s.device)
    system[:, :M, :M], system[:, :M, M], system[:, M, M] = a, -1, 0
    right = torch.cat([-constant.T, torch.ones(B, 1, dtype=s.dtype, device=s.device)], 1)
    solved = torch.linalg.solve(system, right)
    return solved[:, :M].T, solved[:, M]


def kappa_and_ode(outputs: Tensor, divergence: Tensor, t: float) -> Tensor:
    """AND along the ODE for two models, closed form of the released code: (2, B).

    outputs: sigma * score, (2, B, ...). divergence: of the same, (2, B).
    """
    D = outputs[0] - outputs[1]
    kappa = sigma(t) * (divergence[0] - divergence[1]) + inner(outputs[0], D)
    kappa = kappa / inner(D, D)
    return torch.stack([kappa, 1 - kappa])


class Rule(Protocol):
    """How the weights of a step are chosen; `tracks`: whether it reads log-densities."""

    @property
    def tracks(self) -> bool: ...

    def sde(
        self, L: Tensor, x: Tensor, s: Tensor, noise: Tensor, t: float, dt: float
    ) -> Tensor: ...

    def ode(self, L: Tensor, outputs: Tensor, divergence: Tensor | None, t: float) -> Tensor: ...


@dataclass(frozen=True)
class Or:
    """Sample the mixture: softmax of T times the log-densities, plus l."""

    temperature: float = 1.0
    l: tuple[float, ...] | None = None  # noqa: E741
    tracks: bool = True

    def sde(self, L, x, s, noise, t, dt):
        return kappa_or(L, self.temperature, self.l)

    def ode(self, L, outputs, divergence, t):
        return kappa_or(L, self.temperature, self.l)


@dataclass(frozen=True)
class And:
    """Keep the differences of the log-densities as they are."""

    tracks: bool = True

    def sde(self, L, x, s, noise, t, dt):
        if len(s) == 2:
            return kappa_and_pair(x, s, noise, t, dt)
        return kappa_and(x, s, noise, t, dt)[0]

    def ode(self, L, outputs, divergence, t):
        return kappa_and_ode(outputs, divergence, t)


@dataclass(frozen=True)
class Averaging:
    """Fixed weights: 1/M, or those given (one model alone is a weight of 1)."""

    weights: tuple[float, ...] | None = None
    tracks: bool = False

    def sde(self, L, x, s, noise, t, dt):
        weights = self.weights or (1 / len(L),) * len(L)
        return torch.as_tensor(weights, dtype=L.dtype, device=L.device)[:, None].expand_as(L)

    def ode(self, L, outputs, divergence, t):
        return self.sde(L, None, None, None, t, None)


# Sampling --------------------------------------------------------------------------------------


class Superposed(NamedTuple):
    """Samples x (B, ...), log-densities L (M, B) up to their start, weights of the last step, and
    the largest |L_1 - L_2| of the run for each sample (B,)."""

    x: Tensor
    L: Tensor
    kappa: Tensor
    largest_gap: Tensor


def _outputs(models: Sequence[Model], x: Tensor, t: float) -> Tensor:
    return torch.stack([model(x, t) for model in models])


def superdiff(
    models: Sequence[Model],
    x: Tensor,
    steps: int,
    rule: Rule,
    *,
    generator: torch.Generator,
    increments: Callable[..., Tensor] = ito,
    L: Tensor | None = None,
    callback: Callable[[float, Tensor, Tensor, Tensor], None] | None = None,
) -> Superposed:
    """Algorithm 1: Euler-Maruyama in equal steps from t = 1 to 0, the last one from t = dt.

    x: standard normal (B, ...). L: start of the log-densities, (M, B), 0 by default (all models
    agree at t = 1). increments: `ito`, or a variant. callback: sees t after the step, x, L, kappa.
    """
    dt = 1 / steps
    L = x.new_zeros(len(models), len(x)) if L is None else L
    first, largest = L, x.new_zeros(len(x))
    for k in range(steps):
        t = 1 - k * dt
        s = _outputs(models, x, t) / sigma(t)
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device)
        noise = math.sqrt(g2(t) * dt) * eps.to(x.device)
        kappa = rule.sde(L, x, s, noise, t, dt)
        dx = -dt * (dlog_alpha(t) * x - g2(t) * combine(kappa, s)) + noise
        L = L + increments(dx, x, s, t, dt)
        x = x + dx
        if len(L) > 1:
            gap = L - first
            largest = torch.maximum(largest, (gap[0] - gap[1]).abs())
        if callback is not None:
            callback(t - dt, x, L, kappa)
    return Superposed(x, L, kappa, largest)


def superdiff_ode(
    models: Sequence[Model],
    x: Tensor,
    steps: int,
    rule: Rule,
    *,
    generator: torch.Generator,
    offset: float = 0.0,
    follow: bool | None = None,
    L: Tensor | None = None,
) -> Superposed:
    """The same along the probability-flow ODE: Euler, log-densities by Proposition 5.

    Divergences are Hutchinson's with one Rademacher probe a step, common to the models.

    offset: what the released code adds to sigma (1e-3) where it divides by it. follow: whether
    log-densities are wanted; by default only where the rule reads them, which saves the products.
    """
    dt = 1 / steps
    follow = rule.tracks if follow is None else follow
    L = x.new_zeros(len(models), len(x)) if L is None else L
    first, largest = L, x.new_zeros(len(x))
    for k in range(steps):
        t = 1 - k * dt
        divergence = None
        if follow:
            sign = torch.randint(2, x.shape, generator=generator, device=generator.device)
            probe = (2 * sign - 1).to(x)
            pairs = [hutchinson(model, x, t, probe) for model in models]
            outputs, divergence = (torch.stack(part) for part in zip(*pairs, strict=True))
        else:
            outputs = _outputs(models, x, t)
        kappa = rule.ode(L, outputs, divergence, t)
        u = dlog_alpha(t) * x - b(t) * combine(kappa, outputs)
        if divergence is not None:
            L = L + along_ode(u, x, outputs / (sigma(t) + offset), divergence, t, dt)
            if len(L) > 1:
                gap = L - first
                largest = torch.maximum(largest, (gap[0] - gap[1]).abs())
        x = x - dt * u
    return Superposed(x, L, kappa, largest)


# In the variables of Stable Diffusion ----------------------------------------------------------
# Variance exploding: alpha = 1, f = 0, g^2 dtau = 2 sigma |dsigma|; the noise prediction v gives
# the score -v / sigma.


def ito_ve(dx: Tensor, v: Tensor, sigma: float, dsigma: float) -> Tensor:
    """Theorem 1 in the released script's variables: v (M, B, ...), dsigma < 0 -> (M, B)."""
    return -abs(dsigma) / sigma * squared(v) - inner(v, dx) / sigma


def ito_ve_released_or(dx: Tensor, v: Tensor, sigma: float, dsigma: float) -> Tensor:
    """The released script's update under OR: the quadratic term has the opposite sign."""
    return -(inner(v, dx) + dsigma * squared(v)) / sigma


def kappa_and_ve(
    v: Tensor,
    unconditional: Tensor,
    noise: Tensor,
    sigma: float,
    dsigma: float,
    guidance: float,
    l: float = 0.0,  # noqa: E741
) -> Tensor:
    """AND of two prompts under classifier-free guidance: weight of the first, (B,).

    v: noise predictions of both prompts, (2, B, ...). noise: sqrt(2 |dsigma| sigma) z of the step.
    The step is dx = 2 dsigma (v_u + w (v_2 - v_u + kappa (v_1 - v_2))) + noise. l: dlog q_2 is to
    exceed dlog q_1 by l (the released sign).
    """
    v_o, v_b = v
    dx_b = 2 * dsigma * (unconditional + guidance * (v_b - unconditional)) + noise
    D = v_o - v_b
    top = abs(dsigma) * inner(v_b - v_o, v_b + v_o) - inner(dx_b, D) + sigma * l
    return top / (2 * dsigma * guidance * inner(D, D))
