r"""What a network may predict, and how to turn one prediction into another.

With $x_t = \alpha x_0 + \sigma \varepsilon$ the four targets carry the same information:

| target | definition | from $\varepsilon$ | to $\varepsilon$ |
| --- | --- | --- | --- |
| `eps` | $\varepsilon$ | | |
| `x0` | $x_0$ | $(x_t - \sigma \varepsilon) / \alpha$ | $(x_t - \alpha x_0) / \sigma$ |
| `v` | $\alpha \varepsilon - \sigma x_0$ | by $x_0$ | $(\alpha v + \sigma x_t) / c$ |
| `score` | $\nabla \log p(x_t)$ | $-\varepsilon / \sigma$ | $-\sigma s$ |

where $c = \alpha^2 + \sigma^2$, which is 1 in the variance-preserving process.

All functions take `alpha` and `sigma` as numbers or as tensors of shape (B,) beside a state of
shape (B, ...). Sources: Ho et al. (2020) for `eps` and `x0`; Salimans and Ho, Progressive
Distillation (2022), section 4 and appendix D, for `v`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from repro.diffusion.schedules import vp_sigmas
from repro.errors import ReproError

__all__ = [
    "TARGETS",
    "convert",
    "eps_from_score",
    "eps_from_v",
    "eps_from_x0",
    "eps_to_denoiser",
    "q_sample",
    "score_from_eps",
    "v_from_eps",
    "v_from_x0",
    "x0_from_eps",
    "x0_from_v",
]

Number = float | Tensor
TARGETS = ("eps", "x0", "v", "score")


def expand(value: Number, like: Tensor) -> Number:
    """Returns per-sample numbers of shape (B,) as (B, 1, ..., 1) in the type of `like` (B, ...)."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha: Number, sigma: Number) -> Tensor:
    r"""Returns $x_0 = (x_t - \sigma \varepsilon) / \alpha$, shape (B, ...)."""
    return (x_t - expand(sigma, x_t) * eps) / expand(alpha, x_t)


def eps_from_x0(x_t: Tensor, x0: Tensor, alpha: Number, sigma: Number) -> Tensor:
    r"""Returns $\varepsilon = (x_t - \alpha x_0) / \sigma$, shape (B, ...)."""
    return (x_t - expand(alpha, x_t) * x0) / expand(sigma, x_t)


def v_from_eps(x_t: Tensor, eps: Tensor, alpha: Number, sigma: Number) -> Tensor:
    r"""Returns $v = \alpha \varepsilon - \sigma x_0$ for any $\alpha, \sigma$, shape (B, ...)."""
    x0 = x0_from_eps(x_t, eps, alpha, sigma)
    return expand(alpha, x_t) * eps - expand(sigma, x_t) * x0


def v_from_x0(x_t: Tensor, x0: Tensor, alpha: Number, sigma: Number) -> Tensor:
    r"""Returns $v = \alpha \varepsilon - \sigma x_0$ for any $\alpha, \sigma$, shape (B, ...)."""
    eps = eps_from_x0(x_t, x0, alpha, sigma)
    return expand(alpha, x_t) * eps - expand(sigma, x_t) * x0


def eps_from_v(x_t: Tensor, v: Tensor, alpha: Number, sigma: Number) -> Tensor:
    r"""Returns $\varepsilon = (\alpha v + \sigma x_t) / (\alpha^2 + \sigma^2)$, shape (B, ...)."""
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    return (alpha * v + sigma * x_t) / (alpha**2 + sigma**2)


def x0_from_v(x_t: Tensor, v: Tensor, alpha: Number, sigma: Number) -> Tensor:
    r"""Returns $x_0 = (\alpha x_t - \sigma v) / (\alpha^2 + \sigma^2)$, shape (B, ...)."""
    alpha, sigma = expand(alpha, x_t), expand(sigma, x_t)
    return (alpha * x_t - sigma * v) / (alpha**2 + sigma**2)


def score_from_eps(eps: Tensor, sigma: Number) -> Tensor:
    r"""Returns $\nabla \log p(x_t) = -\varepsilon / \sigma$, shape (B, ...)."""
    return -eps / expand(sigma, eps)


def eps_from_score(score: Tensor, sigma: Number) -> Tensor:
    r"""Returns $\varepsilon = -\sigma \nabla \log p(x_t)$, shape (B, ...)."""
    return -expand(sigma, score) * score


def convert(
    prediction: Tensor, x_t: Tensor, alpha: Number, sigma: Number, *, source: str, target: str
) -> Tensor:
    r"""Turns one prediction into another.

    Arguments:
        prediction: what the network said, shape (B, ...).
        x_t: the state that it saw, shape (B, ...).
        alpha: $\alpha$, a number or shape (B,).
        sigma: $\sigma$, a number or shape (B,).
        source: one of `TARGETS`, what the network predicts.
        target: one of `TARGETS`, what is wanted.

    Returns:
        The same prediction as `target`, shape (B, ...).

    Raises:
        ReproError: if `source` or `target` is not one of `TARGETS`.
    """
    for name in (source, target):
        if name not in TARGETS:
            raise ReproError(f"unknown prediction target {name!r}; use one of {', '.join(TARGETS)}")
    if source == target:
        return prediction
    match source:
        case "eps":
            eps = prediction
        case "x0":
            eps = eps_from_x0(x_t, prediction, alpha, sigma)
        case "v":
            eps = eps_from_v(x_t, prediction, alpha, sigma)
        case "score":
            eps = eps_from_score(prediction, sigma)
    match target:
        case "eps":
            return eps
        case "x0":
            return x0_from_eps(x_t, eps, alpha, sigma)
        case "v":
            return v_from_eps(x_t, eps, alpha, sigma)
        case _:
            return score_from_eps(eps, sigma)


def q_sample(x0: Tensor, t: Tensor, alphas_cumprod: Tensor, noise: Tensor) -> Tensor:
    r"""Returns $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon$.

    Arguments:
        x0: clean data, shape (B, ...).
        t: time steps, int64 of shape (B,).
        alphas_cumprod: $\bar\alpha_t$, shape (T,).
        noise: $\varepsilon$, shape (B, ...).

    Returns:
        shape (B, ...).

    Source:
        Ho et al., Denoising Diffusion Probabilistic Models (2020), eq. 4.
    """
    abar = alphas_cumprod.to(t.device)[t]
    return expand(abar.sqrt(), x0) * x0 + expand((1 - abar).sqrt(), x0) * noise


def eps_to_denoiser(
    eps_model: Callable[[Tensor, Tensor], Tensor], alphas_cumprod: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Lets a variance-preserving network be sampled as a variance-exploding denoiser.

    $D(x; \sigma) = x - \sigma\, \varepsilon(x / \sqrt{1 + \sigma^2}, t)$, where $t$ is the training
    step whose $\sigma_t$ is nearest to $\sigma$ on a logarithmic scale.

    Arguments:
        eps_model: (x_t (B, ...), t int64 (B,)) -> $\varepsilon$ (B, ...).
        alphas_cumprod: $\bar\alpha_t$, shape (T,).

    Returns:
        $D$: (x (B, ...), sigma (B,)) -> (B, ...).

    Source:
        Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models (2022),
        table 1, column VP (iDDPM's choice of the time step).
    """
    log_sigmas = vp_sigmas(alphas_cumprod).log()
    edges = (log_sigmas[1:] + log_sigmas[:-1]) / 2

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        t = torch.bucketize(sigma.double().log(), edges.to(sigma.device))
        sigma = expand(sigma, x)
        return x - sigma * eps_model(x / (1 + sigma**2).sqrt(), t)

    return denoiser
