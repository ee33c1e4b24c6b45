r"""Samplers: one flat function each, in the symbols of its paper.

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
| `dpm_solver_pp_2m` | any sub-sequence | 2 | n |
| `euler` | any noise levels | 1 | n |
| `heun` | any noise levels | 2 | 2n - 1 |
| `ve_predictor_corrector` | any noise levels | stochastic | (1 + corrector_steps) n |

A grid has n entries that ascend with the noise. A sampler starts from `x` at the last entry, walks
to the first, and takes one more step to clean data. It calls
`callback(step_index, t, x, prediction)` with what the network saw and said, before it moves on.

Coefficients are computed once, in float64, and enter the loop as plain numbers: the loop holds the
network and two or three tensor operations, and nothing that waits for an accelerator. Noise comes
from an explicit generator, drawn on the generator's own device, so that a seed gives the same
sample on every device. Samplers run in inference mode and return an ordinary tensor; a tensor that
a callback keeps is an inference tensor (clone it, or stack several, before training on it).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from repro.errors import ReproError

__all__ = [
    "ddim",
    "ddpm",
    "dpm_solver_pp_2m",
    "euler",
    "heun",
    "langevin_corrector",
    "reverse_diffusion_predictor",
    "ve_predictor_corrector",
]

Network = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]


def _sampler(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs a sampler in inference mode and hands back a tensor that autograd accepts."""

    @functools.wraps(function)
    def run(*args, **kwargs) -> Tensor:
        with torch.inference_mode():
            x = function(*args, **kwargs)
        return x.clone()

    return run


def _batches(grid: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Returns the entries of a grid (n,) as n network inputs of shape (B,), without copies."""
    return grid.to(x.device)[:, None].expand(-1, len(x)).unbind()


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Returns standard normal noise like `x`, drawn on the generator's device."""
    if generator is None:
        raise ReproError("this sampler draws noise; give it a torch.Generator")
    z = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    return z.to(x.device, non_blocking=True)


def _ascending(grid: Tensor, name: str) -> Tensor:
    if grid.ndim != 1 or len(grid) == 0 or bool((grid.diff() < 0).any()):
        raise ReproError(f"{name} must ascend with the noise, shape (n,); sort the grid first")
    return grid


def _abar(timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the abar of every step and of the step below it; below the first is clean data."""
    abar = alphas_cumprod.double().cpu()[_ascending(timesteps, "timesteps").cpu()]
    return abar, torch.cat([abar.new_ones(1), abar[:-1]])


@_sampler
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
    abar_t, abar_s = _abar(timesteps, alphas_cumprod)
    alpha = abar_t / abar_s
    beta = 1 - alpha
    sigma2 = (1 - abar_s) / (1 - abar_t) * beta if variance == "posterior" else beta.clone()
    sigma2[0] = 0
    a, c, s = alpha.rsqrt(), -beta / (alpha * (1 - abar_t)).sqrt(), sigma2.sqrt()
    # With a clipped prediction the mean is written in x0 and x_t (eq. 7).
    to_x0, from_eps = abar_t.rsqrt(), -((1 - abar_t) / abar_t).sqrt()
    m_x0, m_x = abar_s.sqrt() * beta / (1 - abar_t), alpha.sqrt() * (1 - abar_s) / (1 - abar_t)
    a, c, s, to_x0, from_eps, m_x0, m_x = (
        v.tolist() for v in (a, c, s, to_x0, from_eps, m_x0, m_x)
    )
    t = _batches(timesteps, x)

    for step, i in enumerate(reversed(range(len(t)))):
        eps = eps_model(x, t[i])
        if callback:
            callback(step, t[i], x, eps)
        if clip is None:
            x = (x * a[i]).add_(eps, alpha=c[i])
        else:
            x0 = (x * to_x0[i]).add_(eps, alpha=from_eps[i]).clamp_(-clip, clip)
            x = (x * m_x[i]).add_(x0, alpha=m_x0[i])
        if s[i]:
            x.add_(_noise(x, generator), alpha=s[i])
    return x


@_sampler
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
        ReproError: if `timesteps` descend, or noise is needed and `generator` is None.

    Source:
        Song et al., Denoising Diffusion Implicit Models (2021), eqs. 12 and 16.
    """
    abar_t, abar_s = _abar(timesteps, alphas_cumprod)
    sigma = eta * ((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)).sqrt()
    direction = (1 - abar_s - sigma**2).clamp(min=0).sqrt()
    a, c = (abar_s / abar_t).sqrt(), direction - (abar_s * (1 - abar_t) / abar_t).sqrt()
    to_x0, from_eps = abar_t.rsqrt(), -((1 - abar_t) / abar_t).sqrt()
    # With a clipped prediction, eps = (x_t - sqrt(abar_t) x0) / sqrt(1 - abar_t).
    m_x = direction / (1 - abar_t).sqrt()
    m_x0 = abar_s.sqrt() - m_x * abar_t.sqrt()
    a, c, s, to_x0, from_eps, m_x0, m_x = (
        v.tolist() for v in (a, c, sigma, to_x0, from_eps, m_x0, m_x)
    )
    t = _batches(timesteps, x)

    for step, i in enumerate(reversed(range(len(t)))):
        eps = eps_model(x, t[i])
        if callback:
            callback(step, t[i], x, eps)
        if clip is None:
            x = (x * a[i]).add_(eps, alpha=c[i])
        else:
            x0 = (x * to_x0[i]).add_(eps, alpha=from_eps[i]).clamp_(-clip, clip)
            x = (x * m_x[i]).add_(x0, alpha=m_x0[i])
        if s[i]:
            x.add_(_noise(x, generator), alpha=s[i])
    return x


@_sampler
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

    With $\alpha_t = \sqrt{\bar\alpha_t}$, $\sigma_t = \sqrt{1 - \bar\alpha_t}$,
    $\lambda_t = \log(\alpha_t / \sigma_t)$, $h_i = \lambda_{t_i} - \lambda_{t_{i - 1}}$ and
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
    if bool((timesteps.diff() <= 0).any()):
        raise ReproError("timesteps repeat or descend; give DPM-Solver++ a strictly ascending grid")
    abar, _ = _abar(timesteps, alphas_cumprod)
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    lambda_ = (alpha / sigma).log()
    h = lambda_[:-1] - lambda_[1:]  # h[i]: from step i + 1 to step i
    r = h[1:] / h[:-1]
    phi = -alpha[:-1] * torch.expm1(-h)
    half = torch.cat([0.5 / r, r.new_zeros(1)])[: len(h)]
    one, zero = abar.new_ones(1), abar.new_zeros(1)
    # x <- a x + b x0 + c x0_before, entry i: the step that leaves grid point i
    a = torch.cat([zero, sigma[:-1] / sigma[1:]]).tolist()
    b = torch.cat([one, phi * (1 + half)]).tolist()
    c = torch.cat([zero, -phi * half]).tolist()
    to_x0, from_eps = (1 / alpha).tolist(), (-sigma / alpha).tolist()
    t = _batches(timesteps, x)

    x0_before = None
    for step, i in enumerate(reversed(range(len(t)))):
        eps = eps_model(x, t[i])
        if callback:
            callback(step, t[i], x, eps)
        x0 = (x * to_x0[i]).add_(eps, alpha=from_eps[i])
        if clip is not None:
            x0.clamp_(-clip, clip)
        x = (x * a[i]).add_(x0, alpha=b[i])
        if c[i]:
            x.add_(x0_before, alpha=c[i])
        x0_before = x0
    return x


@_sampler
def euler(
    denoiser: Network,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    r"""Euler steps on the probability-flow ODE $\mathrm{d}x / \mathrm{d}\sigma = (x - D) / \sigma$.

    `heun` without its correction; the arguments are the same.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `sigmas` descend, or noise is needed and `generator` is None.

    Source:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022),
        algorithm 2, lines 4-8.
    """
    t_cur, t_hat, dt, churn = _edm_tables(sigmas, S_churn, S_min, S_max, S_noise)
    sigma = _batches(t_hat.to(x.dtype), x)
    t_hat, dt, churn = t_hat.tolist(), dt.tolist(), churn.tolist()

    for step, i in enumerate(reversed(range(len(t_hat)))):
        x_hat = x.add(_noise(x, generator), alpha=churn[i]) if churn[i] else x
        denoised = denoiser(x_hat, sigma[i])
        if callback:
            callback(step, sigma[i], x_hat, denoised)
        # x_hat + dt (x_hat - D) / t_hat, with dt = t_next - t_hat
        slope = dt[i] / t_hat[i]
        x = (x_hat * (1 + slope)).add_(denoised, alpha=-slope)
    return x


@_sampler
def heun(
    denoiser: Network,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
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
    t_cur, t_hat, dt, churn = _edm_tables(sigmas, S_churn, S_min, S_max, S_noise)
    sigma, sigma_next = _batches(t_hat.to(x.dtype), x), _batches(t_cur.to(x.dtype), x)
    t_cur, t_hat, dt, churn = t_cur.tolist(), t_hat.tolist(), dt.tolist(), churn.tolist()

    for step, i in enumerate(reversed(range(len(t_hat)))):
        x_hat = x.add(_noise(x, generator), alpha=churn[i]) if churn[i] else x
        denoised = denoiser(x_hat, sigma[i])
        if callback:
            callback(step, sigma[i], x_hat, denoised)
        d_cur = (x_hat - denoised).mul_(1 / t_hat[i])
        x = x_hat.add(d_cur, alpha=dt[i])
        if i > 0:
            d_prime = (x - denoiser(x, sigma_next[i - 1])).mul_(1 / t_cur[i - 1])
            x = x_hat.add(d_cur.add_(d_prime), alpha=dt[i] / 2)
    return x


def _edm_tables(
    sigmas: Tensor, S_churn: float, S_min: float, S_max: float, S_noise: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns t_i, t_hat_i, t_next - t_hat_i and the standard deviation of the churn, (n,) each."""
    t_cur = _ascending(sigmas, "sigmas").double().cpu()
    t_next = torch.cat([t_cur.new_zeros(1), t_cur[:-1]])
    inside = (t_cur >= S_min) & (t_cur <= S_max)
    gamma = min(S_churn / len(t_cur), math.sqrt(2) - 1) * inside
    t_hat = t_cur + gamma * t_cur
    return t_cur, t_hat, t_next - t_hat, S_noise * (t_hat**2 - t_cur**2).sqrt()


@torch.inference_mode()
def reverse_diffusion_predictor(
    x: Tensor, score: Tensor, g2: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""One step of the reverse diffusion, $x \leftarrow x + g^2 s(x; \sigma_i) + g z$.

    Arguments:
        x: state, shape (B, ...).
        score: $s(x; \sigma_i)$, shape (B, ...).
        g2: $g^2 = \sigma_i^2 - \sigma_{i - 1}^2$.
        generator: source of $z$.

    Returns:
        The new state and its mean (the state before $g z$ was added), shape (B, ...) each.

    Source:
        Song et al., Score-Based Generative Modeling through SDEs (2021), algorithm 2 (VE).
    """
    mean = torch.add(x, score, alpha=g2)
    return torch.add(mean, _noise(x, generator), alpha=math.sqrt(g2)), mean


@torch.inference_mode()
def langevin_corrector(
    x: Tensor, score: Tensor, snr: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""One Langevin step, $x \leftarrow x + \epsilon s + \sqrt{2 \epsilon}\, z$.

    The step size is $\epsilon = 2 (r \overline{\lVert z \rVert} / \overline{\lVert s \rVert})^2$
    with $r$ the signal-to-noise ratio and the two norms averaged over the batch, so the result
    depends on how samples are batched.

    Arguments:
        x: state, shape (B, ...).
        score: $s(x; \sigma_i)$, shape (B, ...).
        snr: $r$.
        generator: source of $z$.

    Returns:
        The new state and its mean (the state before the noise was added), shape (B, ...) each.

    Source:
        Song et al., Score-Based Generative Modeling through SDEs (2021), algorithm 4 (VE).
    """
    z = _noise(x, generator)
    norm_z, norm_s = (torch.linalg.vector_norm(v.flatten(1), dim=1).mean() for v in (z, score))
    epsilon = 2 * (snr * norm_z / norm_s) ** 2
    mean = torch.addcmul(x, score, epsilon)
    return torch.addcmul(mean, z, (2 * epsilon).sqrt()), mean


@_sampler
def ve_predictor_corrector(
    score_model: Network,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    snr: float = 0.16,
    corrector_steps: int = 1,
    denoise: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    r"""Predictor-corrector sampling of the variance-exploding SDE.

    For $i = n - 1 \dots 0$, with $\sigma_{-1} = 0$: the reverse-diffusion predictor from
    $\sigma_i$ to $\sigma_{i - 1}$, then `corrector_steps` Langevin steps. Predictor and corrector
    both evaluate the score at $\sigma_i$, as the released code does.

    Arguments:
        score_model: (x (B, ...), sigma (B,)) -> $s(x; \sigma)$ (B, ...).
        x: state at `sigmas[-1]`, shape (B, ...).
        sigmas: $\sigma_0 \dots \sigma_{n - 1}$, ascending, shape (n,).
        generator: source of all noise.
        snr: $r$ of the corrector.
        corrector_steps: Langevin steps per noise level.
        denoise: return the mean of the last update instead of its noisy value.
        callback: called with (i, sigma (B,), x, score) before each predictor step.

    Returns:
        $x_0$, shape (B, ...).

    Raises:
        ReproError: if `sigmas` descend.

    Source:
        Song et al., Score-Based Generative Modeling through SDEs (2021), algorithms 2 and 4, in the
        order predictor, corrector of Chung et al., Solving 3D Inverse Problems using Pre-trained 2D
        Diffusion Models (2023).
    """
    sigma = _ascending(sigmas, "sigmas").double().cpu()
    g2 = torch.cat([sigma[:1] ** 2, (sigma**2).diff()]).tolist()
    sigma = _batches(sigma.to(x.dtype), x)

    for step, i in enumerate(reversed(range(len(g2)))):
        score = score_model(x, sigma[i])
        if callback:
            callback(step, sigma[i], x, score)
        x, mean = reverse_diffusion_predictor(x, score, g2[i], generator)
        for _ in range(corrector_steps):
            x, mean = langevin_corrector(x, score_model(x, sigma[i]), snr, generator)
    return mean if denoise else x
