"""Rounding rules for weights beyond round-to-nearest: the formulas of AdaRound.

    ŵ = (clamp(floor(w/δ) + h(α) + z, lo, hi) - z)·δ,    h(α) = clamp(1.2·sigmoid(α) - 0.1, 0, 1)

`soft_rounding(α)` and `hard_rounding(α)` are rounding arguments for `Grid`: h(α) while α is
learned, 1[α ≥ 0] after.
Source: "Up or Down? Adaptive Rounding for Post-Training Quantization", Nagel et al., ICML 2020,
eqs. 21-24.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.quant.affine import Rounding

_ZETA, _GAMMA = 1.1, -0.1


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """h(α) in [0, 1], of the shape of `alpha`; reaches 0 and 1 at α = ∓ln 11."""
    return torch.clamp(torch.sigmoid(alpha) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)


def initial_alpha(u: Tensor) -> Tensor:
    """α with h(α) = u - floor(u) for u = w/δ: soft rounding then leaves every unclipped weight as
    it is.
    """
    remainder = u - torch.floor(u)
    return -torch.log((_ZETA - _GAMMA) / (remainder - _GAMMA) - 1)


def soft_rounding(alpha: Tensor) -> Rounding:
    """Rounding by floor(u) + h(α); differentiable in α."""
    return lambda u: torch.floor(u) + rectified_sigmoid(alpha)


def hard_rounding(alpha: Tensor) -> Rounding:
    """Rounding by floor(u) + 1[α ≥ 0]."""
    return lambda u: torch.floor(u) + (alpha >= 0).to(u.dtype)
