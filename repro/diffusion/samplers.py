r"""Samplers of one step at a time: one flat function each, in the symbols of its paper.

Variance preserving, with $\bar\alpha_t$ decreasing in $t$ and a network $\varepsilon(x_t, t)$:

$$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon, \qquad
   \hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\, \varepsilon(x_t, t)}{\sqrt{\bar\alpha_t}} $$

Variance exploding, with a denoiser $D(x; \sigma)$ or a score $s(x; \sigma)$:

$$ x_\sigma = x_0 + \sigma\, \varepsilon, \qquad s(x; \sigma) = \frac{D(x; \sigma) - x}{\sigma^2},
   \qquad \frac{\mathrm{d} x}{\mathrm{d} \sigma} = \frac{x - D(x; \sigma)}{\sigma} $$

| sampler | walks | order of the ODE solver | network evaluations |
| --- | --- | --- | --- |
| `ddpm` | any sub-sequence of the steps | stochastic | n |
| `ddim` | any sub-sequence | 1 (`eta` = 0) | n |
| `heun` | any noise levels | 2 | 2n - 1 |
| `reverse_diffusion_predictor`, `langevin_corrector` | one step each | stochastic | 1 each |

Samplers that remember earlier predictions are in `repro.diffusion.multistep`.

A grid has n entries that ascend with the noise. A sampler starts from `x` at the last entry, walks
to the first, and takes one more step to clean data; $t$ is where a step starts and $s$ where it
ends. It calls `callback(step_index, t, x, prediction)` with what the network saw and said, before
it moves on.

What multiplies a tensor is a plain number, computed in float64 from numbers that were read once, so
nothing in a loop waits for an accelerator. Noise comes from an explicit generator, drawn on the
generator's own device, so that a seed gives the same sample on every device. Samplers run in
inference mode and return an ordinary tensor; a tensor that a callback keeps is an inference tensor
(clone it, or stack several, before training on it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from math import inf, sqrt
from typing import ParamSpec

import torch
from torch import Tensor

from repro.diffusion.schedules import descend
from repro.errors import ReproError

__all__ = [
    "abar_at",
    "axpby",
    "ddim",
    "ddim_scales",
    "ddpm",
    "falls",
    "heun",
    "in_inference_mode",
    "langevin_corrector",
    "noise_like",
    "predict_x0",
    "reverse_diffusion_predictor",
    "walk",
]

Network = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]
P = ParamSpec("P")


def in_inference_mode(sampler: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Runs a sampler in inference mode and hands back a tensor that autograd accepts."""

    @functools.wraps(sampler)
    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.inference_mode():
            x = sampler(*args, **kwargs)
        return x.clone()

    return run


def _ascending(grid: Tensor, name: str) -> Tensor:
    rises = grid.ndim == 1 and len(grid) > 0 and bool((grid.diff() >= 0).all())
    if not rises or not bool(grid.isfinite().all()):
        raise ReproError(f"{name} must ascend with the noise, shape (n,); sort the grid first")
    return grid


def falls(abar: Tensor) -> bool:
    """Whether signal is lost from one entry to the next (n,); equal neighbours may be."""
    return bool((abar.diff() <= 0).all())


def abar_at(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    r"""Returns $\bar\alpha_t$ at ascending steps (n,), float64 of shape (n,) on the CPU.

    Raises:
        ReproError: if `timesteps` descend, are no integers of 0 ... T - 1, or a step has no noise
            or no signal, or `alphas_cumprod` does not fall with the step.
    """
    steps, T = _ascending(timesteps, "timesteps"), len(alphas_cumprod)
    if steps.is_floating_point() or int(steps[0]) < 0 or int(steps[-1]) >= T:
        raise ReproError(f"timesteps have to be integers of 0 ... {T - 1}, where alphas_cumprod is")
    abar = alphas_cumprod.double().cpu()[steps.cpu()]
    if not bool(((abar > 0) & (abar < 1)).all()):
        raise ReproError(
            "a step without noise or without signal says nothing about the other; leave out the "
            "time steps where alphas_cumprod is 0 or 1"
        )
    if not falls(abar):
        raise ReproError("alphas_cumprod has to fall with the time step; are these betas?")
    return abar


def walk(
    x: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
) -> Iterator[tuple[int, Tensor, float, float]]:
    r"""The steps from noise to data along a sub-sequence of the training steps.

    Arguments:
        x: a state, shape (B, ...); it gives batch size and device.
        timesteps: ascending, int64 of shape (n,).
        alphas_cumprod: $\bar\alpha_t$, shape (T,).

    Yields:
        (i, t int64 (B,), $\bar\alpha_t$, $\bar\alpha_s$) for i = 0 ... n - 1; the last step ends at
        clean data, $\bar\alpha_s = 1$.

    Raises:
        ReproError: see `abar_at`.
    """
    abar = abar_at(timesteps, alphas_cumprod)
    steps = timesteps.to(x.device).flip(0)
    for i, (t, (abar_t, abar_s)) in enumerate(zip(steps, descend(abar, 1.0), strict=True)):
        yield i, t.expand(len(x)), abar_t, abar_s


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape and type of `x`, drawn on the generator's device.

    Raises ReproError where there is no generator.
    """
    if generator is None:
        raise ReproError("this sampler draws noise; give it a torch.Generator")
    z = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    return z.to(x.device, non_blocking=True)


def axpby(a: float, x: Tensor, b: float, y: Tensor) -> Tensor:
    """a x + b y, shaped like x, in two passes over the state.

    Samplers write a step as one such sum, with the coefficients of a formula collected: fewer
    passes, and the rounding that committed results have.
    """
    return (x * a).add_(y, alpha=b)


def predict_x0(
    x_t: Tensor, eps: Tensor, alpha_t: float, sigma_t: float, clip: float | None
) -> Tensor:
    r"""$\hat x_0 = (x_t - \sigma_t \varepsilon) / \alpha_t$, held in $\pm$ `clip`, (B, ...)."""
    if clip is not None and not clip > 0:
        raise ReproError(f"a bound of {clip:g} holds no data; give a positive clip, or None")
    x0_hat = axpby(1 / alpha_t, x_t, -sigma_t / alpha_t, eps)
    return x0_hat if clip is None else x0_hat.clamp_(-clip, clip)


@in_inference_mode
def ddpm(
    eps_model: Network,
    x: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    *,
    generator: torch.Generator,
    variance: str = "posterior",
    clip: float | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""Ancestral sampling along any sub-sequence $\tau$ of the training steps.

    From $t = \tau_i$ to $s = \tau_{i - 1}$, with $\alpha = \bar\alpha_t / \bar\alpha_s$ and
    $\beta = 1 - \alpha$,

    $$ x_s = \frac{1}{\sqrt\alpha} \left( x_t - \frac{\beta}{\sqrt{1 - \bar\alpha_t}}\,
       \varepsilon(x_t, t) \right) + \sigma z, \qquad z \sim N(0, I) $$

    where $\sigma^2$ is $\tilde\beta = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \beta$
    (`posterior`) or $\beta$ (`beta`), and no noise is added in the last step.

    Arguments:
        eps_model: (x_t (B, ...), t int64 (B,)) -> $\varepsilon$ (B, ...).
        x: $x_t$ at `timesteps[-1]`, shape (B, ...).
        timesteps: $\tau$, ascending, int64 of shape (n,).
        alphas_cumprod: $\bar\alpha_t$, shape (T,).
        generator: source of $z$.
        variance: `posterior` or `beta`.
        clip: bound of $|\hat x_0|$, or None.
        callback: called with (i, t (B,), x_t, eps), i = 0 ... n - 1.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `variance` is unknown, or `timesteps` descend.

    Source:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), algorithm 2 and eqs. 6-7.
    """
    if variance not in ("posterior", "beta"):
        raise ReproError(f"unknown variance {variance!r}; use 'posterior' or 'beta'")
    for i, t, abar_t, abar_s in walk(x, timesteps, alphas_cumprod):
        alpha = abar_t / abar_s
        beta = 1 - alpha
        eps = eps_model(x, t)
        if callback:
            callback(i, t, x, eps)
        if clip is None:
            x = axpby(1 / sqrt(alpha), x, -beta / sqrt(alpha * (1 - abar_t)), eps)
        else:  # the same mean in x_t and x0_hat (eq. 7)
            x0_hat = predict_x0(x, eps, sqrt(abar_t), sqrt(1 - abar_t), clip)
            from_x_t = sqrt(alpha) * (1 - abar_s) / (1 - abar_t)
            from_x0 = sqrt(abar_s) * beta / (1 - abar_t)
            x = axpby(from_x_t, x, from_x0, x0_hat)
        sigma2 = (1 - abar_s) / (1 - abar_t) * beta if variance == "posterior" else beta
        if sigma2 > 0 and abar_s < 1:
            x.add_(noise_like(x, generator), alpha=sqrt(sigma2))
    return x


def ddim_scales(abar_t: float, abar_s: float, eta: float) -> tuple[float, float]:
    r"""$\sigma$ and $\sqrt{1 - \bar\alpha_s - \sigma^2}$: what multiplies z and eps in `ddim`.

    Raises ReproError where `eta` is negative or its noise exceeds that of the level.
    """
    sigma = eta * sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
    left = 1 - abar_s - sigma * sigma
    if not eta >= 0 or left < -1e-9:
        raise ReproError(f"eta = {eta:g} adds more noise than a step has; give 0 to 1")
    return sigma, sqrt(max(left, 0.0))


@in_inference_mode
def ddim(
    eps_model: Network,
    x: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    clip: float | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""DDIM along any sub-sequence $\tau$ of the training steps.

    From $t = \tau_i$ to $s = \tau_{i - 1}$,

    $$ x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\,
       \varepsilon(x_t, t) + \sigma z, \qquad
       \sigma = \eta \sqrt{\frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}}
       \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}} $$

    `eta` = 0 is deterministic, `eta` = 1 is `ddpm` with the posterior variance.

    Arguments:
        eps_model: (x_t (B, ...), t int64 (B,)) -> $\varepsilon$ (B, ...).
        x: $x_t$ at `timesteps[-1]`, shape (B, ...).
        timesteps: $\tau$, ascending, int64 of shape (n,).
        alphas_cumprod: $\bar\alpha_t$, shape (T,).
        eta: $\eta \ge 0$.
        generator: source of $z$; needed if `eta` > 0.
        clip: bound of $|\hat x_0|$, or None; $\varepsilon$ is recomputed from the clipped value.
        callback: called with (i, t (B,), x_t, eps), i = 0 ... n - 1.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `timesteps` descend, `eta` is not in [0, 1], or noise is needed and
            `generator` is None.

    Source:
        Song et al., Denoising Diffusion Implicit Models (2021), eqs. 12 and 16.
    """
    for i, t, abar_t, abar_s in walk(x, timesteps, alphas_cumprod):
        sigma, direction = ddim_scales(abar_t, abar_s, eta)
        eps = eps_model(x, t)
        if callback:
            callback(i, t, x, eps)
        if clip is None:  # x0_hat written in x_t and eps
            from_x_t = sqrt(abar_s / abar_t)
            from_eps = direction - sqrt(abar_s * (1 - abar_t) / abar_t)
            x = axpby(from_x_t, x, from_eps, eps)
        else:  # eps written in x_t and the clipped x0_hat
            x0_hat = predict_x0(x, eps, sqrt(abar_t), sqrt(1 - abar_t), clip)
            from_x_t = direction / sqrt(1 - abar_t)
            from_x0 = sqrt(abar_s) - from_x_t * sqrt(abar_t)
            x = axpby(from_x_t, x, from_x0, x0_hat)
        if sigma > 0:
            x.add_(noise_like(x, generator), alpha=sigma)
    return x


@in_inference_mode
def heun(
    denoiser: Network,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = inf,
    S_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    r"""Heun's method with optional stochastic churn, the sampler of EDM.

    For each level $t_i$ (a noise level here), the next $t_{i + 1}$ and $n$ levels in all,

    $$ \hat t_i = t_i + \gamma_i t_i, \quad
       \gamma_i = \min(S_{\mathrm{churn}} / n, \sqrt 2 - 1) \, 1[S_{\min} \le t_i \le S_{\max}],
       \quad \hat x_i = x_i + \sqrt{\hat t_i^2 - t_i^2}\, S_{\mathrm{noise}}\, z $$

    $$ d_i = (\hat x_i - D(\hat x_i; \hat t_i)) / \hat t_i, \quad
       x_{i + 1} = \hat x_i + (t_{i + 1} - \hat t_i) d_i $$

    and, unless $t_{i + 1} = 0$, the correction $x_{i + 1} = \hat x_i + (t_{i + 1} - \hat t_i)
    (d_i + d'_i) / 2$ with $d'_i = (x_{i + 1} - D(x_{i + 1}; t_{i + 1})) / t_{i + 1}$.

    Arguments:
        denoiser: $D$: (x (B, ...), sigma (B,)) -> (B, ...).
        x: state at `sigmas[-1]`, shape (B, ...).
        sigmas: noise levels, ascending, all positive, shape (n,).
        generator: source of $z$; needed if `S_churn` > 0.
        S_churn, S_min, S_max, S_noise: the churn; 0 makes the sampler deterministic.
        callback: called with (i, sigma (B,), x, D) once a step, i = 0 ... n - 1.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `sigmas` descend, or noise is needed and `generator` is None.

    Source:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022),
        algorithms 1 and 2.
    """

    def level(t: float) -> Tensor:
        return x.new_full((), t).expand(len(x))

    if not (0 <= S_churn < inf and 0 < S_noise < inf):
        raise ReproError(f"a churn of {S_churn:g} with noise {S_noise:g} is none; give 0 or more")
    for i, (t_cur, t_next) in enumerate(descend(_ascending(sigmas, "sigmas"), 0.0)):
        gamma = min(S_churn / len(sigmas), sqrt(2) - 1) if S_min <= t_cur <= S_max else 0.0
        t_hat = t_cur + gamma * t_cur
        churn = S_noise * sqrt(t_hat * t_hat - t_cur * t_cur)
        x_hat = x.add(noise_like(x, generator), alpha=churn) if churn else x
        denoised = denoiser(x_hat, level(t_hat))
        if callback:
            callback(i, level(t_hat), x_hat, denoised)
        d_cur = (x_hat - denoised).mul_(1 / t_hat)
        x = x_hat.add(d_cur, alpha=t_next - t_hat)
        if t_next > 0:
            d_prime = (x - denoiser(x, level(t_next))).mul_(1 / t_next)
            x = x_hat.add(d_cur.add_(d_prime), alpha=(t_next - t_hat) / 2)
    return x


def reverse_diffusion_predictor(x: Tensor, score: Tensor, g2: float, z: Tensor) -> Tensor:
    r"""One step of the reverse diffusion from $\sigma_i$ to $\sigma_{i - 1}$,
    $x \leftarrow x + g^2 s(x; \sigma_i) + g z$.

    Arguments:
        x: state, shape (B, ...).
        score: $s(x; \sigma_i)$, shape (B, ...).
        g2: $g^2 = \sigma_i^2 - \sigma_{i - 1}^2$.
        z: standard normal noise, shape (B, ...).

    Returns:
        The new state, shape (B, ...).

    Source:
        Song et al., Score-Based Generative Modeling through SDEs (2021), algorithm 2 (VE).
    """
    return x + g2 * score + sqrt(g2) * z


def langevin_corrector(x: Tensor, score: Tensor, snr: float, z: Tensor) -> Tensor:
    r"""One Langevin step at $\sigma_i$, $x \leftarrow x + \epsilon s + \sqrt{2 \epsilon}\, z$.

    The step size is $\epsilon = 2 (r \overline{\lVert z \rVert} / \overline{\lVert s \rVert})^2$
    with $r$ the signal-to-noise ratio and the two norms averaged over the batch, so the result
    depends on how samples are batched.

    Arguments:
        x: state, shape (B, ...).
        score: $s(x; \sigma_i)$, shape (B, ...).
        snr: $r$.
        z: standard normal noise, shape (B, ...).

    Returns:
        The new state, shape (B, ...).

    Source:
        Song et al., Score-Based Generative Modeling through SDEs (2021), algorithm 4 (VE).
    """
    z_norm, s_norm = (v.flatten(1).norm(dim=1).mean() for v in (z, score))
    epsilon = 2 * (snr * z_norm / s_norm) ** 2
    return x + epsilon * score + torch.sqrt(2 * epsilon) * z
