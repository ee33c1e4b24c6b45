r"""Noise schedules, noised data, and the grids that samplers walk.

Variance preserving (DDPM), for $t = 0 \dots T-1$:

$$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon, \qquad
   \bar\alpha_t = \prod_{s \le t} (1 - \beta_s) $$

Variance exploding (score SDE, EDM):

$$ x_\sigma = x_0 + \sigma\, \varepsilon $$

A variance-preserving state is a scaled variance-exploding one, $x_t = \sqrt{\bar\alpha_t}\,
x_{\sigma_t}$ with $\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$.

Every grid here ascends with the noise. A sampler walks its grid from the end to the start and then
takes one last step to clean data. Tables are float64 on the CPU: samplers read them once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from repro.errors import ReproError

__all__ = [
    "alphas_cumprod",
    "cosine_betas",
    "descend",
    "expand",
    "geometric_sigmas",
    "karras_sigmas",
    "linear_betas",
    "q_sample",
    "stratified",
    "stratified_steps",
    "timesteps_inclusive",
    "timesteps_quad",
    "timesteps_stride",
    "timesteps_uniform",
    "vp_sigmas",
]


def linear_betas(T: int = 1000, start: float = 1e-4, end: float = 0.02) -> Tensor:
    r"""Returns $\beta_t$ equally spaced from `start` to `end`, float64 of shape (T,).

    Raises:
        ReproError: if T < 1, or an end is outside (0, 1).

    Source:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), section 4.
    """
    if T < 1 or not 0 < start < 1 or not 0 < end < 1:
        raise ReproError(f"{T} betas from {start} to {end} are no schedule; they lie in (0, 1)")
    return torch.linspace(start, end, T, dtype=torch.float64)


def cosine_betas(T: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    r"""Returns the cosine schedule, float64 of shape (T,).

    $\bar\alpha(u) = f(u) / f(0)$ with $f(u) = \cos^2\left(\frac{u + s}{1 + s} \frac{\pi}{2}\right)$
    and $\beta_t = \min(1 - \bar\alpha((t + 1) / T) / \bar\alpha(t / T), \beta_{\max})$.

    Source:
        Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models (2021), eq. 17.
    """
    if T < 1:
        raise ReproError(f"{T} betas are no schedule; ask for 1 or more")
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


def alphas_cumprod(betas: Tensor) -> Tensor:
    r"""Returns $\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$.

    Arguments:
        betas: $\beta_t$, shape (T,).

    Returns:
        float64 of shape (T,).

    Raises:
        ReproError: unless all $\beta_t$ lie in [0, 1].
    """
    if betas.ndim != 1 or not bool(((betas >= 0) & (betas <= 1)).all()):
        raise ReproError("betas are of shape (T,) and lie in [0, 1]; these do not")
    return torch.cumprod(1 - betas.double(), dim=0)


def vp_sigmas(alphas_cumprod: Tensor) -> Tensor:
    r"""Returns the noise-to-signal ratio $\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}$.

    Arguments:
        alphas_cumprod: $\bar\alpha_t$, shape (T,).

    Returns:
        float64 of shape (T,).

    Raises:
        ReproError: unless all $\bar\alpha_t$ lie in (0, 1].
    """
    abar = alphas_cumprod.double()
    if not bool(((abar > 0) & (abar <= 1)).all()):
        raise ReproError("alphas_cumprod lie in (0, 1]; these do not, are they betas?")
    return ((1 - abar) / abar).sqrt()


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Returns numbers of shape (B,) as (B, 1, ..., 1) in the type of `like` (B, ...).

    Any leading shape of `like` serves as well as (B,).
    """
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def q_sample(x0: Tensor, t: Tensor, alphas_cumprod: Tensor, noise: Tensor) -> Tensor:
    r"""Returns $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon$.

    Arguments:
        x0: clean data, shape (B, ...).
        t: time steps, int64 of shape (B,).
        alphas_cumprod: $\bar\alpha_t$, shape (T,); roots are taken in its type.
        noise: $\varepsilon$, shape (B, ...).

    Returns:
        shape (B, ...), in the type of `x0`.

    Raises:
        ReproError: for negative steps, which would count from the end.

    Source:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), eq. 4.
    """
    if t.is_floating_point() or bool((t < 0).any()):
        raise ReproError("time steps are integers from 0; these are not")
    abar = alphas_cumprod.to(t.device)[t]
    return expand(abar.sqrt(), x0) * x0 + expand((1 - abar).sqrt(), x0) * noise


def stratified(n: int, generator: torch.Generator) -> Tensor:
    """Returns $i + u_i$ with u ~ U[0, 1), i = 0 ... n - 1: (n,) on the generator's device.

    Divided by n, each is uniform on its n-th of [0, 1) and together they cover it evenly, which
    lowers the variance of a gradient over independent times.
    """
    device = generator.device
    return torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)


def stratified_steps(n: int, T: int, generator: torch.Generator) -> Tensor:
    """Returns n training steps of 0 ... T - 1, one in each of n equal strata, int64 (n,)."""
    return (stratified(n, generator) * T / n).long().clamp(max=T - 1)


def descend(levels: Tensor, clean: float) -> Iterator[tuple[float, float]]:
    """Returns the pairs (level i, level i - 1) of levels (n,) for i = n - 1 ... 0.

    `clean` is the level of clean data, where the last step ends. Raises ReproError unless the
    levels go away from it step by step; equal neighbours may be.
    """
    walked = [*levels.flip(0).tolist(), clean] if levels.ndim == 1 else []
    pairs = list(pairwise(walked))
    ordered = all(a >= b for a, b in pairs) or all(a <= b for a, b in pairs)
    if not pairs or not ordered or not all(map(math.isfinite, walked)):
        raise ReproError(
            f"noise levels have to ascend from {clean:g}, the level of clean data, shape (n,); "
            "sort the grid first"
        )
    return iter(pairs)


def geometric_sigmas(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    r"""Returns $\sigma_i = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^{i / (n - 1)}$, ascending.

    Returns:
        float64 of shape (n,).

    Raises:
        ReproError: unless n >= 1 and 0 < sigma_min <= sigma_max.

    Source:
        Song et al., Score-Based Generative Modeling through SDEs (2021), appendix C (VE SDE).
    """
    _check_sigmas(n, sigma_min, sigma_max)
    log_sigma = torch.linspace(math.log(sigma_min), math.log(sigma_max), n, dtype=torch.float64)
    sigmas = log_sigma.exp()
    sigmas[0], sigmas[-1] = sigma_min, sigma_max
    return sigmas


def _check_sigmas(n: int, sigma_min: float, sigma_max: float) -> None:
    if n < 1 or not 0 < sigma_min <= sigma_max < math.inf:
        raise ReproError(
            f"{n} noise levels from {sigma_min:g} to {sigma_max:g} are no schedule; give 1 or more "
            "levels and 0 < sigma_min <= sigma_max"
        )


def karras_sigmas(
    n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    r"""Returns $\sigma_i = \left(\sigma_{\min}^{1/\rho} + \frac{i}{n - 1}
    (\sigma_{\max}^{1/\rho} - \sigma_{\min}^{1/\rho})\right)^\rho$, ascending.

    The paper counts downwards and appends $\sigma = 0$; samplers here take that last step unasked.

    Returns:
        float64 of shape (n,).

    Raises:
        ReproError: unless n >= 1, 0 < sigma_min <= sigma_max and rho > 0.

    Source:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022),
        eq. 5.
    """
    _check_sigmas(n, sigma_min, sigma_max)
    if not 0 < rho < math.inf:
        raise ReproError(f"rho = {rho:g} bends no schedule; give a positive number")
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = torch.linspace(*ends, n, dtype=torch.float64) ** rho
    sigmas[0], sigmas[-1] = sigma_min, sigma_max
    return sigmas


def timesteps_uniform(T: int, n: int) -> Tensor:
    r"""Returns $\tau_i = i \lfloor T / n \rfloor$, ascending, int64 of shape (n,).

    Raises:
        ReproError: if not 1 <= n <= T.

    Source:
        Song et al., Denoising Diffusion Implicit Models (2021), appendix D.2 ("linear").
    """
    if not 1 <= n <= T:
        raise ReproError(f"cannot pick {n} of {T} time steps; ask for 1 to {T}")
    return torch.arange(n) * (T // n)


def timesteps_quad(T: int, n: int) -> Tensor:
    r"""Returns $\tau_i = \lfloor c_i^2 \rfloor$ with $c$ equally spaced from 0 to
    $\sqrt{0.8\, T}$, ascending, int64 of shape (n,).

    The first steps may repeat (0, 0, 1, ... for T = 1000 and n = 50), as they do in the released
    code of the paper: a repeated step leaves the sample unchanged and costs one evaluation.

    Raises:
        ReproError: if not 2 <= n <= T.

    Source:
        Song et al., Denoising Diffusion Implicit Models (2021), appendix D.2 ("quadratic").
    """
    if not 2 <= n <= T:
        raise ReproError(f"cannot pick {n} of {T} time steps quadratically; ask for 2 to {T}")
    return torch.linspace(0, math.sqrt(0.8 * T), n, dtype=torch.float64).square().long()


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
