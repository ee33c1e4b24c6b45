"""Rounding rules for weights beyond round-to-nearest: the formulas of AdaRound.

    ŵ = (clamp(floor(w/δ) + h(α) + z, lo, hi) - z)·δ,    h(α) = clamp(1.2·sigmoid(α) - 0.1, 0, 1)

`soft_rounding(α)`, `hard_rounding(α)` and `fixed_rounding(α)` are rounding arguments for `Grid` and
`FloatGrid`: h(α) while α is learned, 1[α ≥ 0] after, and that with a gradient for w.

While α is learned, λ Σ (1 - |2h(α) - 1|^β) drives every h to 0 or 1; β falls from 20, where only an
h close to 0 or 1 is driven, to 2.

Source: "Up or Down? Adaptive Rounding for Post-Training Quantization", Nagel et al., ICML 2020,
eqs. 21-24; β as in the released code of Q-Diffusion, Li et al., ICCV 2023 (arXiv 2302.04304).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

from repro.numbers import finite
from repro.quant.affine import Rounding

_ZETA, _GAMMA = 1.1, -0.1


class _FloorStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, u: Tensor) -> Tensor:
        return torch.floor(u)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class _AbsPower(torch.autograd.Function):
    """|x|^p for p ≥ 1, with one power for value and gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, p: float) -> Tensor:
        size = x.abs()
        power = size.log2().mul_(p - 1).exp2_() if p > 1 else torch.ones_like(size)
        ctx.save_for_backward(torch.copysign(power, x).mul_(p))
        return size.mul_(power)

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * gradient, None


def abs_power(x: Tensor, p: float) -> Tensor:
    """|x|^p of any shape, p ≥ 1; differentiable in `x`. Faster than `x.abs().pow(p)`."""
    return _AbsPower.apply(x, p)


def straight_through_floor(u: Tensor) -> Tensor:
    """Round down with the gradient of the identity. `u`: any shape."""
    return _FloorStraightThrough.apply(u)


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """h(α) in [0, 1], of the shape of `alpha`; reaches 0 and 1 at α = ∓ln 11."""
    return torch.clamp(torch.sigmoid(alpha) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)


def initial_alpha(u: Tensor, scale: Tensor | None = None) -> Tensor:
    """α with h(α) = u - floor(u) for u = w/δ: soft rounding then leaves every unclipped weight as
    it is. `scale`: see `soft_rounding`.
    """
    remainder = u - torch.floor(u)
    alpha = -torch.log((_ZETA - _GAMMA) / (remainder - _GAMMA) - 1)
    return alpha if scale is None else alpha * scale


def soft_rounding(alpha: Tensor, scale: Tensor | None = None) -> Rounding:
    """Rounding by floor(u) + h(α); differentiable in α.

    scale: positive, of the shape of α; the rounding is then floor(u) + h(α/scale). With the step of
    each weight, in units of the largest, every α feels the loss alike although the steps of a
    floating-point grid differ (FP4DiT's scale-aware rounding).
    """
    return lambda u: torch.floor(u) + rectified_sigmoid(alpha if scale is None else alpha / scale)


def hard_rounding(alpha: Tensor) -> Rounding:
    """Rounding by floor(u) + 1[α ≥ 0]. Raises ReproError for NaN, which would be rounded down."""
    finite(alpha, "rounding directions")
    return lambda u: torch.floor(u) + (alpha >= 0).to(u.dtype)


def fixed_rounding(alpha: Tensor) -> Rounding:
    """Rounding by floor(u) + 1[α ≥ 0] with the gradient of the identity in u: the directions stay,
    the weights may be tuned. Raises ReproError for NaN. Source: QuEST (arXiv 2402.03666), released
    code.
    """
    finite(alpha, "rounding directions")
    return lambda u: straight_through_floor(u) + (alpha >= 0).to(u.dtype)


def undecided(h: Tensor, beta: float) -> Tensor:
    """Σ (1 - |2h - 1|^β), a scalar: 0 where every h is 0 or 1, their number where h = 1/2."""
    return h.numel() - abs_power(2 * h - 1, beta).sum()


UNDECIDED = 0.05
"""A rounding whose h is further than this from 0 and from 1 is not decided."""


def undecided_share(h: Sequence[Tensor]) -> float:
    """Share of the values of some tensors that lie in (`UNDECIDED`, 1 - `UNDECIDED`)."""
    between = [((part > UNDECIDED) & (part < 1 - UNDECIDED)).sum() for part in h]
    return sum(int(n) for n in between) / sum(part.numel() for part in h)


def annealed_beta(
    iteration: int,
    iterations: int,
    *,
    start: float = 20.0,
    end: float = 2.0,
    warmup: float = 0.2,
) -> float:
    """β(k) = end + (start - end)(1 - (k - wI)/((1 - w)I)), and `start` before k = wI.

    Linear; the docstring of the released code says cosine.
    """
    begin = warmup * iterations
    progress = (iteration - begin) / max(iterations - begin, 1e-9)
    return end + (start - end) * (1 - min(max(progress, 0.0), 1.0))
