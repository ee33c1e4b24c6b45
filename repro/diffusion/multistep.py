r"""Samplers that remember earlier predictions, and the continuous time of DPM-Solver.

In the symbols of `repro.diffusion.samplers`: $\bar\alpha_t$ decreases in $t$, $x_t = \alpha_t x_0 +
\sigma_t \varepsilon$ with $\alpha_t = \sqrt{\bar\alpha_t}$ and $\sigma_t = \sqrt{1 -
\bar\alpha_t}$. A step leads from $t$ to $s$.

| sampler | grid | ends at | network evaluations |
| --- | --- | --- | --- |
| `plms` | any n of the training steps | clean data | n + 1 |
| `dpm_solver_pp_2m` | any n of the training steps | clean data | n |
| `dpm_solver_pp_2m_times` | any n + 1 real times in [1 / T, 1] | the last time | n |

Continuous time runs from $1 / T$ (training step 0) to 1 (training step T - 1); $\log\alpha_t$ is
linear between the training steps, as in the released code of DPM-Solver.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from math import inf, sqrt

import numpy as np
import torch
from torch import Tensor

from repro.diffusion.samplers import (
    Callback,
    Network,
    abar_at,
    axpby,
    falls,
    in_inference_mode,
    predict_x0,
    walk,
)
from repro.errors import ReproError

__all__ = [
    "alpha_at",
    "dpm_solver_pp_2m",
    "dpm_solver_pp_2m_times",
    "model_time",
    "plms",
    "times_of_steps",
    "times_uniform",
]

_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12),
                    (55 / 24, -59 / 24, 37 / 24, -9 / 24))  # fmt: skip


@in_inference_mode
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
    evaluations = 0

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        nonlocal evaluations
        eps = eps_model(x, t)
        if callback:
            callback(evaluations, t, x, eps)
        evaluations += 1
        return eps

    def ddim_step(x: Tensor, eps: Tensor, abar_t: float, abar_s: float) -> Tensor:
        alpha_t, sigma_t, alpha_s, sigma_s = (
            sqrt(v) for v in (abar_t, 1 - abar_t, abar_s, 1 - abar_s)
        )
        x0_hat = predict_x0(x, eps, alpha_t, sigma_t, clip)
        # alpha_s x0_hat + sigma_s eps, with eps written in x and the (clipped) x0_hat
        from_x_t = sigma_s / sigma_t
        return axpby(from_x_t, x, alpha_s - from_x_t * alpha_t, x0_hat)

    steps = list(walk(x, timesteps, alphas_cumprod))
    past: list[Tensor] = []
    for i, t, abar_t, abar_s in steps:
        past = [evaluate(x, t), *past[:3]]
        if i == 0:
            _, t_trial, *_ = steps[min(1, len(steps) - 1)]
            trial = evaluate(ddim_step(x, past[0], abar_t, abar_s), t_trial)
            eps = (past[0] + trial).mul_(0.5)
        else:
            weights = _ADAMS_BASHFORTH[len(past) - 1]
            eps = reduce(torch.add, (w * e for w, e in zip(weights, past, strict=True)))
        x = ddim_step(x, eps, abar_t, abar_s)
    return x


@in_inference_mode
def dpm_solver_pp_2m(
    eps_model: Network,
    x: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    *,
    clip: float | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""DPM-Solver++(2M), the multistep solver of second order for data prediction.

    With $\lambda_t = \log(\alpha_t / \sigma_t)$, $h_i = \lambda_{t_i} - \lambda_{t_{i - 1}}$ and
    $r_i = h_{i - 1} / h_i$ (here $i$ counts in the direction of sampling),

    $$ D_i = \left(1 + \frac{1}{2 r_i}\right) \hat x_0(x_{t_{i - 1}}, t_{i - 1})
             - \frac{1}{2 r_i} \hat x_0(x_{t_{i - 2}}, t_{i - 2}), \qquad
       x_{t_i} = \frac{\sigma_{t_i}}{\sigma_{t_{i - 1}}} x_{t_{i - 1}}
             - \alpha_{t_i} (e^{-h_i} - 1) D_i $$

    The first step has no past and is of first order; so is the last, to $\lambda = \infty$, where
    it returns $\hat x_0$.

    Arguments:
        eps_model: (x_t (B, ...), t int64 (B,)) -> $\varepsilon$ (B, ...).
        x: $x_t$ at `timesteps[-1]`, shape (B, ...).
        timesteps: strictly ascending, int64 of shape (n,).
        alphas_cumprod: $\bar\alpha_t$, shape (T,).
        clip: bound of $|\hat x_0|$, or None.
        callback: called with (i, t (B,), x_t, eps), i = 0 ... n - 1.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `timesteps` do not ascend strictly.

    Source:
        Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models
        (2022), algorithm 2.
    """
    if not bool((timesteps.diff() > 0).all()):
        raise ReproError("timesteps repeat or descend; give DPM-Solver++ a strictly ascending grid")
    abar = abar_at(timesteps, alphas_cumprod)
    alpha = torch.cat([abar.new_ones(1), abar.sqrt()])
    sigma = torch.cat([abar.new_zeros(1), (1 - abar).sqrt()])
    return _second_order(eps_model, x, timesteps, alpha, sigma, True, clip, callback)


@in_inference_mode
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

    The steps of `dpm_solver_pp_2m`, with $\alpha_t$ of `alpha_at` and networks that see the real
    step `model_time`. The first step is of first order; so is the last, where `lower_order_last`.

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
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() > 0).all()):
        raise ReproError("DPM-Solver++ needs two or more strictly ascending times")
    if lower_order_last is None:
        lower_order_last = len(times) - 1 < 15
    alpha = alpha_at(times, alphas_cumprod)
    sigma = (1 - alpha**2).sqrt()
    seen = model_time(times[1:], len(alphas_cumprod))
    return _second_order(eps_model, x, seen, alpha, sigma, lower_order_last, clip, callback)


def _second_order(
    eps_model: Network,
    x: Tensor,
    seen: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    lower_order_last: bool,
    clip: float | None,
    callback: Callback | None,
) -> Tensor:
    """The loop of both: n steps over n + 1 points of alpha and sigma (float64, ascending noise).

    seen: what the network sees as its time at all points but the first, shape (n,).
    """
    h = (alpha / sigma).log().flip(0).diff()
    phi = -torch.expm1(-h)
    alphas, sigmas = (pairwise(v.flip(0).tolist()) for v in (alpha, sigma))
    steps = zip(seen.to(x.device).flip(0), alphas, sigmas, h.tolist(), phi.tolist(), strict=True)

    h_before, x0_before = inf, x  # the first step has no past: 1 / (2 r_i) = 0
    for i, (t, (alpha_t, alpha_s), (sigma_t, sigma_s), h_i, phi_i) in enumerate(steps):
        t = t.expand(len(x))
        eps = eps_model(x, t)
        if callback:
            callback(i, t, x, eps)
        x0_hat = predict_x0(x, eps, alpha_t, sigma_t, clip)
        last = i == len(h) - 1
        half = 0.0 if last and lower_order_last else 0.5 * h_i / h_before  # 1 / (2 r_i)
        # sigma_s / sigma_t x + alpha_s phi D with D = (1 + half) x0_hat - half x0_before
        x = axpby(sigma_s / sigma_t, x, alpha_s * phi_i * (1 + half), x0_hat)
        if half:
            x.add_(x0_before, alpha=-alpha_s * phi_i * half)
        h_before, x0_before = h_i, x0_hat
    return x


def alpha_at(times: Tensor, alphas_cumprod: Tensor) -> Tensor:
    r"""Returns $\alpha_t = \sqrt{\bar\alpha_t}$ at real times, float64 of shape (n,).

    Arguments:
        times: in [1 / T, 1], shape (n,).
        alphas_cumprod: $\bar\alpha_t$ at times (i + 1) / T, shape (T,).

    Raises:
        ReproError: if a time lies outside [1 / T, 1], or `alphas_cumprod` does not fall from 1.

    Source:
        Released code of DPM-Solver, `NoiseScheduleVP` for discrete schedules: $\log\alpha$ is
        interpolated linearly.
    """
    T = len(alphas_cumprod)
    times = times.double().cpu()
    if not bool(((times >= 1 / T - 1e-12) & (times <= 1 + 1e-12)).all()):
        raise ReproError(f"times must lie in [{1 / T:g}, 1]")
    if not bool(((alphas_cumprod > 0) & (alphas_cumprod <= 1)).all()) or not falls(alphas_cumprod):
        raise ReproError("alphas_cumprod has to fall in (0, 1]; this does not, are these betas?")
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


def times_uniform(n: int, T: int = 1000) -> Tensor:
    """Returns n + 1 times equally spaced from 1 / T to 1, float64, ascending (`time_uniform`).

    Raises ReproError unless n >= 1 and T >= 2.
    """
    if n < 1 or T < 2:
        raise ReproError(
            f"{n} steps on {T} time steps are no walk; ask for 1 or more, on 2 or more"
        )
    return torch.linspace(1 / T, 1, n + 1, dtype=torch.float64)
