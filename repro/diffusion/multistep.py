r"""Multistep samplers on any grid, and the grids that few-step sampling compares.

In the symbols of `repro.diffusion.samplers`: $\bar\alpha_t$ decreases in $t$, $x_t =
\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon$.

| sampler | grid | ends at | network evaluations for n steps |
| --- | --- | --- | --- |
| `plms` | any sub-sequence of the training steps | clean data | n + 1 |
| `dpm_solver_pp_2m_times` | any n + 1 real times in [1 / T, 1] | the last time | n |

Continuous time runs from $1 / T$ (training step 0) to 1 (training step T - 1); $\log\alpha_t$ is
linear between the training steps, as in the released code of DPM-Solver.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from repro.diffusion.samplers import Callback, Network, _abar, _batches, _sampler
from repro.errors import ReproError

__all__ = [
    "alpha_at",
    "dpm_solver_pp_2m_times",
    "model_time",
    "plms",
    "times_of_steps",
    "times_uniform",
    "timesteps_inclusive",
    "timesteps_stride",
]

_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12),
                    (55 / 24, -59 / 24, 37 / 24, -9 / 24))  # fmt: skip


@_sampler
def plms(
    eps_model: Network,
    x: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    *,
    clip: float | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""Pseudo linear multistep sampling along any sub-sequence $\tau$ of the training steps.

    Every step is a DDIM step with $\varepsilon'$ in place of $\varepsilon$. With $e_n$ the newest
    prediction and $e_{n-1}, \dots$ those of the steps before,

    $$ \varepsilon' = \tfrac{3 e_n - e_{n-1}}{2}, \quad
       \tfrac{23 e_n - 16 e_{n-1} + 5 e_{n-2}}{12}, \quad
       \tfrac{55 e_n - 59 e_{n-1} + 37 e_{n-2} - 9 e_{n-3}}{24} $$

    for the second, third and all later steps. The first step has no past: it takes a trial step
    with $e_0$, evaluates the network there, and starts again from $x$ with the mean of both
    predictions. That is one evaluation more than there are steps.

    Arguments:
        eps_model: (x_t (B, ...), t int64 (B,)) -> $\varepsilon$ (B, ...).
        x: $x_t$ at `timesteps[-1]`, shape (B, ...).
        timesteps: $\tau$, ascending, int64 of shape (n,). With n = 1 both evaluations are at it.
        alphas_cumprod: $\bar\alpha_t$, shape (T,).
        clip: bound of $|\hat x_0|$, or None.
        callback: called with (i, t (B,), x_t, eps) for every evaluation, i = 0 ... n.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `timesteps` descend.

    Source:
        Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds (2022), as latent
        diffusion uses it (without the Runge-Kutta start).
    """
    abar_t, abar_s = _abar(timesteps, alphas_cumprod)
    sigma_t, sigma_s = (1 - abar_t).sqrt(), (1 - abar_s).sqrt()
    to_x0, from_eps = abar_t.rsqrt().tolist(), (-sigma_t * abar_t.rsqrt()).tolist()
    m_x = (sigma_s / sigma_t).tolist()
    m_x0 = (abar_s.sqrt() - sigma_s / sigma_t * abar_t.sqrt()).tolist()
    t = _batches(timesteps, x)
    evaluations = 0

    def evaluate(x: Tensor, i: int) -> Tensor:
        nonlocal evaluations
        eps = eps_model(x, t[i])
        if callback:
            callback(evaluations, t[i], x, eps)
        evaluations += 1
        return eps

    def step(x: Tensor, eps: Tensor, i: int) -> Tensor:
        x0 = (x * to_x0[i]).add_(eps, alpha=from_eps[i])
        if clip is not None:
            x0.clamp_(-clip, clip)
        return (x * m_x[i]).add_(x0, alpha=m_x0[i])

    past: list[Tensor] = []
    for i in reversed(range(len(t))):
        past = [evaluate(x, i), *past[:3]]
        if len(past) == 1 and i == len(t) - 1:
            trial = evaluate(step(x, past[0], i), max(i - 1, 0))
            eps = (past[0] + trial).mul_(0.5)
        else:
            weights = _ADAMS_BASHFORTH[len(past) - 1]
            eps = sum(w * e for w, e in zip(weights, past, strict=True))
        x = step(x, eps, i)
    return x


def alpha_at(times: Tensor, alphas_cumprod: Tensor) -> Tensor:
    r"""Returns $\alpha_t = \sqrt{\bar\alpha_t}$ at real times, float64 of shape (n,).

    Arguments:
        times: in [1 / T, 1], shape (n,).
        alphas_cumprod: $\bar\alpha_t$ at times (i + 1) / T, shape (T,).

    Raises:
        ReproError: if a time lies outside [1 / T, 1].

    Source:
        Released code of DPM-Solver, `NoiseScheduleVP` for discrete schedules: $\log\alpha$ is
        interpolated linearly.
    """
    T = len(alphas_cumprod)
    times = times.double().cpu()
    if bool((times < 1 / T - 1e-12).any()) or bool((times > 1 + 1e-12).any()):
        raise ReproError(f"times must lie in [{1 / T:g}, 1]")
    log_alpha = alphas_cumprod.double().cpu().log() / 2
    grid = np.arange(1, T + 1) / T
    return torch.from_numpy(np.interp(times.numpy(), grid, log_alpha.numpy())).exp()


def model_time(times: Tensor, T: int = 1000) -> Tensor:
    """Returns the real-valued training step (t - 1 / T) T that a network sees at times t."""
    return times.double() * T - 1


def times_of_steps(timesteps: Tensor, T: int = 1000) -> Tensor:
    """Returns times (n + 1,) that visit training steps (n,) and end at 1 / T, ascending.

    A walk that already ends at step 0 takes its last step to it, and so evaluates one time fewer.
    """
    times = (timesteps.double() + 1) / T
    start = times.new_tensor([1 / T])
    return times if int(timesteps[0]) == 0 else torch.cat([start, times])


@_sampler
def dpm_solver_pp_2m_times(
    eps_model: Network,
    x: Tensor,
    times: Tensor,
    alphas_cumprod: Tensor,
    *,
    lower_order_last: bool | None = None,
    clip: float | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""DPM-Solver++(2M) from the last to the first of n + 1 real times, n evaluations.

    The step of `samplers.dpm_solver_pp_2m`, with $\alpha_t$ of `alpha_at` and networks that see the
    real step `model_time`. The first step is of first order; so is the last, where
    `lower_order_last`.

    Arguments:
        eps_model: (x_t (B, ...), t float64 (B,)) -> $\varepsilon$ (B, ...).
        x: state at `times[-1]`, shape (B, ...).
        times: strictly ascending, in [1 / T, 1], shape (n + 1,), n >= 1.
        alphas_cumprod: $\bar\alpha_t$, shape (T,).
        lower_order_last: None means for fewer than 15 steps, as the released code.
        clip: bound of $|\hat x_0|$, or None.
        callback: called with (i, t (B,), x_t, eps), i = 0 ... n - 1.

    Returns:
        The state at `times[0]`, shape (B, ...).

    Raises:
        ReproError: if times repeat, descend, lie outside [1 / T, 1], or there are fewer than two.

    Source:
        Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models
        (2022), algorithm 2, and its released code (`multistep`, order 2).
    """
    if times.ndim != 1 or len(times) < 2 or bool((times.diff() <= 0).any()):
        raise ReproError("DPM-Solver++ needs two or more strictly ascending times")
    n = len(times) - 1
    if lower_order_last is None:
        lower_order_last = n < 15
    alpha = alpha_at(times, alphas_cumprod)
    sigma = (1 - alpha**2).sqrt()
    lambda_ = (alpha / sigma).log()
    h = lambda_[:-1] - lambda_[1:]  # h[i]: from time i + 1 to time i
    half = torch.cat([0.5 * h[:-1] / h[1:], h.new_zeros(1)])
    if lower_order_last:
        half[0] = 0
    phi = -alpha[:-1] * torch.expm1(-h)
    a, b, c = (sigma[:-1] / sigma[1:]).tolist(), (phi * (1 + half)).tolist(), -phi * half
    c, to_x0, from_eps = c.tolist(), (1 / alpha).tolist(), (-sigma / alpha).tolist()
    t = _batches(model_time(times, len(alphas_cumprod)), x)

    x0_before = None
    for step, i in enumerate(reversed(range(n))):
        eps = eps_model(x, t[i + 1])
        if callback:
            callback(step, t[i + 1], x, eps)
        x0 = (x * to_x0[i + 1]).add_(eps, alpha=from_eps[i + 1])
        if clip is not None:
            x0.clamp_(-clip, clip)
        x = (x * a[i]).add_(x0, alpha=b[i])
        if c[i]:
            x.add_(x0_before, alpha=c[i])
        x0_before = x0
    return x


# Grids -------------------------------------------------------------------------------------------


def timesteps_stride(T: int, n: int) -> Tensor:
    """Returns 0, s, 2 s, ... with the smallest stride s that gives n steps below T, int64 (n,).

    The rule `ddimN` of guided-diffusion. It never starts at the noisy end: n = 4 and T = 1000
    start at 750.

    Raises:
        ReproError: if no stride gives n steps.

    Source:
        Released code of Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis (2021),
        `space_timesteps`.
    """
    for stride in range(1, T + 1):
        steps = torch.arange(0, T, stride)
        if len(steps) == n:
            return steps
        if len(steps) < n:
            break
    raise ReproError(f"no stride gives {n} of {T} time steps; ask for another number")


def timesteps_inclusive(T: int, n: int) -> Tensor:
    r"""Returns $\tau_i = \mathrm{round}(i (T - 1) / (n - 1))$, both ends included, int64 (n,).

    One step is the noisiest one.

    Raises:
        ReproError: if not 1 <= n <= T.
    """
    if not 1 <= n <= T:
        raise ReproError(f"cannot pick {n} of {T} time steps; ask for 1 to {T}")
    if n == 1:
        return torch.tensor([T - 1])
    i = torch.arange(n, dtype=torch.float64)
    return (i * (T - 1) / (n - 1)).round().long()


def times_uniform(n: int, T: int = 1000) -> Tensor:
    """Returns n + 1 times equally spaced from 1 / T to 1, float64, ascending (`time_uniform`)."""
    return torch.linspace(1 / T, 1, n + 1, dtype=torch.float64)
