r"""RADD: absorbing diffusion without time (Ou et al., ICLR 2025, arXiv 2406.03736).

Theorem 1. If $\hat x$ differs from $x$ in one masked position, which it sets to $\hat x^i \ne M$,

$$ \frac{p_t(\hat x)}{p_t(x)} = a(t)\, p_0(\hat x^i \mid x^{UM}), \qquad
   a(t) = \frac{e^{-\bar\sigma(t)}}{1 - e^{-\bar\sigma(t)}}, $$

where $x^{UM}$ are the tokens of $x$ that are not masked. So the network $c_\theta(x)[i, \cdot]
\approx p_0(\cdot \mid x^{UM})$ needs no time; what it said stays valid until a token changes, which
lets a sampler cache it; and four losses turn out to be one (Theorem 2).

Symbols, here and below:
    N           number of real tokens; the id of the mask M is N
    d           length of a sequence; x0, xt are (B, d) integers
    m           which positions are masked, bool (B, d)
    c_theta     maps xt (B, d) to log c (B, d, N), the log of the conditionals
    s_theta     maps xt (B, d) and sbar (B,) to log s (B, d, N), the log of the concrete score
    sigma, sbar the rate and the total noise of the schedule, see repro.diffusion.absorbing
    u           (B,) uniform numbers in [0, 1), one a sequence, that place t, lambda or k
    psi         (n,) chance to unmask a masked position in each of n steps, the last one 1

Every loss returns nats per sequence, (B,): divide by d and exponentiate for a perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from repro.diffusion.absorbing import (
    Noise,
    check_probabilities,
    log_odds,
    mask_exactly,
    mask_independently,
)
from repro.errors import ReproError
from repro.numbers import argmax

Conditionals = Callable[[Tensor], Tensor]
Scores = Callable[[Tensor, Tensor], Tensor]

T_MIN = 1e-3  # the losses over time leave out t < T_MIN, as in the released code

# Parameterisations


def conditionals(network: Callable[[Tensor], Tensor]) -> Conditionals:
    """c_theta of a network x -> logits (B, d, N + 1): a softmax over the N real tokens.

    The mask channel is cut off, so no probability can flow to it.
    """
    return lambda xt: torch.log_softmax(network(xt)[..., :-1], dim=-1)


def scores(network: Callable[[Tensor, Tensor], Tensor], scaled: bool = True) -> Scores:
    """s_theta of SEDD from a network (x, sbar) -> logits (B, d, N + 1).

    scaled: subtract log(e^sbar - 1) and log N, the "scaling trick" that gives the score its order
    of magnitude; without it this is SEDD-Unscale.
    """

    def s_theta(xt: Tensor, sbar: Tensor) -> Tensor:
        log_s = network(xt, sbar)[..., :-1]
        if scaled:
            log_s = log_s + log_odds(sbar)[:, None, None] - math.log(log_s.shape[-1])
        return log_s

    return s_theta


def scores_of(c_theta: Conditionals) -> Scores:
    """Theorem 1: s = a(t) c."""
    return lambda xt, sbar: c_theta(xt) + log_odds(sbar)[:, None, None]


# The four losses (Section 3.3), for masks that are given


def nll(log_c: Tensor, x0: Tensor, m: Tensor) -> Tensor:
    """Sum over the masked positions of -log c[i, x0_i], (B,)."""
    return -(log_c.gather(-1, x0[..., None])[..., 0] * m).sum(dim=-1)


def dse_integrand(log_s: Tensor, x0: Tensor, m: Tensor, t: Tensor, noise: Noise) -> Tensor:
    """Denoising score entropy at time t (B,), Eq. 2.6: also the loss of SEDD.

    sum over i in m of sigma { sum_j s_ij - a log s_i,x0 + K(a) },  K(a) = a log a - a.
    """
    log_a = log_odds(noise.total(t))
    a = log_a.exp()
    log_s0 = log_s.gather(-1, x0[..., None])[..., 0]
    entropy = log_s.exp().sum(dim=-1) - a[:, None] * log_s0 + (a * log_a - a)[:, None]
    return noise.rate(t) * (entropy * m).sum(dim=-1)


def t_dce_integrand(log_c: Tensor, x0: Tensor, m: Tensor, t: Tensor, noise: Noise) -> Tensor:
    """t-denoising cross-entropy, Eq. 3.5: sum over i in m of sigma a (-log c_i,x0 - log a)."""
    log_a = log_odds(noise.total(t))
    return noise.rate(t) * log_a.exp() * (nll(log_c, x0, m) - log_a * m.sum(dim=-1))


def lambda_dce_integrand(log_c: Tensor, x0: Tensor, m: Tensor, lam: Tensor) -> Tensor:
    """lambda-denoising cross-entropy, Eq. 3.6: (1 / lambda) sum over i in m of -log c_i,x0."""
    return nll(log_c, x0, m) / lam


def ao_integrand(log_c: Tensor, x0: Tensor, m: Tensor) -> Tensor:
    """Any-order autoregressive loss, Eq. 3.8, for k = |m| >= 1: (d / k) sum of -log c_i,x0."""
    return nll(log_c, x0, m) * x0.shape[1] / m.sum(dim=-1)


# ... and as Monte-Carlo estimators with one draw a sequence


def corrupt(x0: Tensor, m: Tensor, mask: int) -> Tensor:
    """xt: x0 with the positions in m masked."""
    return torch.where(m, mask, x0)


def dse(
    s_theta: Scores, x0: Tensor, u: Tensor, *, noise: Noise, mask: int, generator: torch.Generator
) -> Tensor:
    """DSE (RADD with :func:`scores_of`, SEDD with :func:`scores`), t = T_MIN + (1 - T_MIN) u."""
    t = T_MIN + (1 - T_MIN) * u
    m = mask_independently(x0, noise.masked(t), generator=generator)
    return dse_integrand(s_theta(corrupt(x0, m, mask), noise.total(t)), x0, m, t, noise)


def t_dce(
    c_theta: Conditionals,
    x0: Tensor,
    u: Tensor,
    *,
    noise: Noise,
    mask: int,
    generator: torch.Generator,
) -> Tensor:
    """t-DCE. Its term in log a cancels only on average: to score a model, use another loss."""
    t = T_MIN + (1 - T_MIN) * u
    m = mask_independently(x0, noise.masked(t), generator=generator)
    return t_dce_integrand(c_theta(corrupt(x0, m, mask)), x0, m, t, noise)


def lambda_dce(
    c_theta: Conditionals, x0: Tensor, u: Tensor, *, mask: int, generator: torch.Generator
) -> Tensor:
    """lambda-DCE with lambda = u. A draw without any mask counts, as 0."""
    lam = u.clamp(min=torch.finfo(u.dtype).tiny)
    m = mask_independently(x0, lam, generator=generator)
    return lambda_dce_integrand(c_theta(corrupt(x0, m, mask)), x0, m, lam)


def ao(
    c_theta: Conditionals, x0: Tensor, u: Tensor, *, mask: int, generator: torch.Generator
) -> Tensor:
    """AO with k = 1 + floor(d u) masks, a uniformly random set of them."""
    d = x0.shape[1]
    k = (1 + torch.floor(d * u)).clamp(max=d)
    m = mask_exactly(x0, k, generator=generator)
    return ao_integrand(c_theta(corrupt(x0, m, mask)), x0, m)


def nll_in_order(c_theta: Conditionals, x0: Tensor, order: Tensor, *, mask: int) -> Tensor:
    """Exact -log q(x0) when the positions are generated in one order, (B,); d network rows each.

    order: (d,) or (B, d), order[l] is the position generated l-th. Its mean over random orders is
    the AO loss. All prefixes of all rows go through the network together.
    """
    b, d = x0.shape
    rank = order.expand(b, d).argsort(dim=-1)
    m = rank[:, None, :] >= torch.arange(d, device=x0.device)[:, None]
    x = x0[:, None, :].expand(b, d, d)
    now = order.expand(b, d)
    log_c = c_theta(corrupt(x, m, mask).reshape(b * d, d)).reshape(b, d, d, -1)
    log_c = log_c.take_along_dim(now[:, :, None, None], dim=2)[:, :, 0]
    return -log_c.gather(-1, x0.gather(1, now)[..., None]).sum(dim=(1, 2))


# Sampling


class Sampled(NamedTuple):
    """What a sampler returns.

    x: (B, d) tokens, no mask left. calls: (B,) network evaluations of each sequence. changes: (B,)
    steps in which it changed, which is what the closed form of the E-NFE counts.
    """

    x: Tensor
    calls: Tensor
    changes: Tensor


def categorical(p: Tensor, *, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    r"""Draw one index per row of p (..., N), which need not be normalised, by racing exponentials.

    $\arg\max_j p_j / E_j$ with $E_j \sim \mathrm{Exp}(1)$, the Gumbel-max trick. In float32 a
    uniform number is a multiple of 2^-24, so that an $E_j$ below 6e-8 never occurs and rare tokens
    lose against the mask: the entropy of samples falls as steps are added. The paper's Table 3
    draws in float64, its Table 4 in float32.

    An entry below 0, as SEDD's learned scores leave for the mask, counts as 0. Raises ReproError
    where a row of p holds NaN or infinity or nothing above 0.
    """
    u = torch.rand(p.shape, generator=generator, dtype=dtype, device=generator.device)
    return argmax(p.to(dtype) / -torch.log(u).to(p.device), -1, "probabilities", above=0.0)


def truncate(log_c: Tensor, *, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Set to -inf all but the top_k largest entries, or the fewest that hold a mass of top_p.

    log_c: (..., N), the real tokens alone: the mask must not compete. Raises ReproError unless
    top_k >= 1 and 0 < top_p <= 1.
    """
    if not (top_k is None or top_k >= 1) or not (top_p is None or 0 < top_p <= 1):
        raise ReproError(
            f"top_k = {top_k} and top_p = {top_p} leave no tokens to draw; give 1 or more, and a "
            "mass in (0, 1]"
        )
    if top_k is not None:
        least = log_c.topk(min(top_k, log_c.shape[-1]), dim=-1).values[..., -1:]
        log_c = log_c.masked_fill(log_c < least, -math.inf)
    if top_p is not None:
        ordered, index = log_c.sort(dim=-1, descending=True)
        p = ordered.softmax(dim=-1)
        ordered = ordered.masked_fill(p.cumsum(dim=-1) - p >= top_p, -math.inf)
        log_c = torch.empty_like(ordered).scatter_(-1, index, ordered)
    return log_c


def unmask(
    x: Tensor,
    log_c: Tensor,
    psi: float,
    *,
    mask: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """One reverse step: a masked position becomes j with chance psi c[i, j], else stays masked."""
    m = x == mask
    p = log_c[m].to(dtype).exp() * psi
    stay = p.new_full((*p.shape[:-1], 1), 1 - psi)
    x = x.clone()
    x[m] = categorical(torch.cat([p, stay], dim=-1), generator=generator, dtype=dtype)
    return x


def unmask_truncated(
    x: Tensor,
    log_c: Tensor,
    psi: float,
    *,
    mask: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """The step in two stages: choose positions with chance psi, then draw their tokens, truncated.

    Without truncation its law is that of :func:`unmask`.
    """
    u = torch.rand(x.shape, generator=generator, dtype=dtype, device=generator.device)
    now = (x == mask) & (u.to(x.device) < psi)
    p = truncate(log_c[now].to(dtype), top_k=top_k, top_p=top_p).exp()
    x = x.clone()
    x[now] = categorical(p, generator=generator, dtype=dtype)
    return x


@torch.no_grad()
def tau_leaping(
    c_theta: Conditionals,
    x: Tensor,
    psi: Tensor,
    *,
    mask: int,
    generator: torch.Generator,
    cache: bool = True,
    dtype: torch.dtype = torch.float64,
    two_stage: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Sampled:
    """Sample by tau-leaping, reusing c_theta of every sequence until one of its tokens changes.

    x: (B, d), masked where a token is to be generated; a prompt is a token that is not masked.
    psi: from repro.diffusion.absorbing.step_probabilities, Tweedie or Euler. cache=False evaluates
    the network on all sequences in all steps. dtype: precision of the categorical draw. top_k and
    top_p imply two_stage. Raises ReproError where psi is no probability.
    """
    check_probabilities(psi, "psi, the chances to unmask,")
    c, changed = None, torch.ones(len(x), dtype=torch.bool, device=x.device)
    calls = changes = torch.zeros_like(changed, dtype=torch.long)
    two_stage = two_stage or top_k is not None or top_p is not None
    cut = {"top_k": top_k, "top_p": top_p} if two_stage else {}
    step = unmask_truncated if two_stage else unmask
    for psi_k in psi.tolist():
        if c is None or not cache:
            c = c_theta(x)
            calls = calls + 1
        elif changed.any():
            c[changed] = c_theta(x[changed])
            calls = calls + changed
        old = x
        x = step(x, c, psi_k, mask=mask, generator=generator, dtype=dtype, **cut)
        changed = (x != old).any(dim=1)
        changes = changes + changed.long()
    return Sampled(x, calls, changes)


@torch.no_grad()
def any_order(
    c_theta: Conditionals,
    x: Tensor,
    order: Tensor,
    *,
    mask: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Sampled:
    """Sample as an autoregressive model, one position at a time (Section 3.3): l network calls.

    order: (l,) or (B, l), the masked positions in the order of generation.
    """
    x, rows = x.clone(), torch.arange(len(x), device=x.device)
    order = order.expand(len(x), -1)
    for i in order.unbind(dim=1):
        log_c = truncate(c_theta(x)[rows, i].to(dtype), top_k=top_k, top_p=top_p)
        x[rows, i] = categorical(log_c.exp(), generator=generator, dtype=dtype)
    calls = torch.full_like(rows, order.shape[1])
    return Sampled(x, calls, calls)


# Sampling from SEDD, the baseline: its network sees the time, so nothing can be cached


def tweedie_transition(s: Tensor, sbar_t: Tensor, sbar_s: Tensor) -> tuple[Tensor, Tensor]:
    """SEDD's "analytic" step for a masked position, from the scores s (..., N).

    The score staggered by dsbar = sbar_t - sbar_s times the transposed transition over dsbar: token
    j has (e^dsbar - 1) s_j, the mask what is left. Returns (..., N) and (...,).
    """
    p = torch.expm1(sbar_t - sbar_s) * s
    return p, 1 - p.sum(dim=-1)


def euler_transition(s: Tensor, rate: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """SEDD's Euler step for a masked position: token j has dt sigma s_j, the mask what is left."""
    p = dt * rate * s
    return p, 1 - p.sum(dim=-1)


@torch.no_grad()
def sedd(
    s_theta: Scores,
    x: Tensor,
    t: Tensor,
    *,
    noise: Noise,
    mask: int,
    generator: torch.Generator,
    predictor: str = "analytic",
    dtype: torch.dtype = torch.float64,
) -> Sampled:
    """Sample from SEDD over the times t (n + 1,), descending, e.g. repro.diffusion.absorbing.grid.

    predictor: "analytic" (Tweedie) or "euler". After the last time one more evaluation removes what
    noise is left, so the network is called n + 1 times.
    """
    if predictor not in ("analytic", "euler"):
        raise ValueError(f"no predictor {predictor!r}; choose analytic or euler")
    changes = torch.zeros(len(x), dtype=torch.long, device=x.device)
    sbar, rate = noise.total(t), noise.rate(t)

    def evaluate(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        m = x == mask
        level = sbar[k].to(x.device, torch.float32).expand(len(x))
        return m, s_theta(x, level)[m].to(dtype).exp()

    for k in range(len(t) - 1):
        m, s = evaluate(x, k)
        if predictor == "analytic":
            p, stay = tweedie_transition(s, sbar[k], sbar[k + 1])
        else:
            p, stay = euler_transition(s, rate[k], t[k] - t[k + 1])
        old, x = x, x.clone()
        p = torch.cat([p, stay[..., None]], dim=-1)
        x[m] = categorical(p, generator=generator, dtype=dtype)
        changes = changes + (x != old).any(dim=1)
    m, s = evaluate(x, len(t) - 1)
    changes = changes + m.any(dim=1)
    x = x.clone()
    x[m] = categorical(s, generator=generator, dtype=dtype)
    return Sampled(x, torch.full_like(changes, len(t)), changes)
