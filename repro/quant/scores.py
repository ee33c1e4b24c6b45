"""Scores that a range search minimises: how far a quantised tensor is from the original.

A score compares K candidate quantisations of C channels at once. Channels are rows, entries may
carry a mass (how many values of the tensor an entry stands for), and every score returns (K, C),
smaller is better:

    L_p       Σ m |x - x̂|^p / Σ m
    cosine    1 - ⟨x, x̂⟩ / (‖x‖ ‖x̂‖)           blind to a pure gain error: x̂ = c·x scores 0
    KL        D(P ‖ Q) of histograms, as in TensorRT's entropy calibration: P is the histogram
    clipped to the candidate's
              span (what lies outside joins the outermost bins), Q is the mass inside the span,
              merged code by code and spread evenly over the bins of P that each code covers

Sources: PTQ4DM, section 3.4 and Table 4 (the four metrics; "MSE" there is p = 2.4); "8-bit
inference with TensorRT", Migacz 2017, for KL, whose exact form the paper does not give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.quant.affine import Grid

_EMPTY = 1e-10


@dataclass(frozen=True)
class Score:
    """`function(x, x_hat, mass, grids) -> (K, C)` with x, mass (C, M), x_hat (K, C, M) and grids of
    δ, z (K, C, 1).

    `bins`: the score is defined on a histogram of that many equal bins (None: on the values
    themselves).
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor | None, Grid], Tensor]
    bins: int | None = None

    def __call__(self, x: Tensor, x_hat: Tensor, mass: Tensor | None, grids: Grid) -> Tensor:
        return self.function(x, x_hat, mass, grids)


def lp(p: float) -> Score:
    """Mean of |x - x̂|^p. Raises ReproError unless p is positive."""
    if not 0 < p < math.inf:
        raise ReproError(f"a mean of powers of {p:g} is no error; give a positive exponent")

    def function(x: Tensor, x_hat: Tensor, mass: Tensor | None, grids: Grid) -> Tensor:
        error = (x - x_hat).abs_()
        if p != 1.0:
            error.log2_().mul_(p).exp2_()  # twice as fast as pow
        if mass is None:
            return error.mean(-1)
        return torch.einsum("kcm,cm->kc", error, mass) / mass.sum(-1)

    return Score(f"l{p:g}", function)


def _cosine(x: Tensor, x_hat: Tensor, mass: Tensor | None, grids: Grid) -> Tensor:
    mass = torch.ones_like(x) if mass is None else mass
    dot = torch.einsum("kcm,cm->kc", x_hat, x * mass)
    norm_hat = torch.einsum("kcm,kcm,cm->kc", x_hat, x_hat, mass)
    norm = (x * x * mass).sum(-1)
    return 1 - dot / torch.sqrt(norm * norm_hat).clamp(min=_EMPTY)


def _kl(x: Tensor, x_hat: Tensor, mass: Tensor | None, grids: Grid) -> Tensor:
    assert mass is not None, "a score of histograms gets their masses"
    low, high = grids.span
    inside = (x >= low) & (x <= high)
    kept = mass * inside
    below, above = (
        (mass * (x < low)).sum(-1, keepdim=True),
        (mass * (x > high)).sum(-1, keepdim=True),
    )
    clipped = kept.clone()
    first = inside.int().argmax(-1, keepdim=True)
    last = inside.shape[-1] - 1 - inside.flip(-1).int().argmax(-1, keepdim=True)
    clipped.scatter_add_(-1, first, below)
    clipped.scatter_add_(-1, last, above)

    code = grids.codes(x).sub_(grids.lo).long()
    size = grids.hi - grids.lo + 1
    occupied = (clipped > 0).to(x.dtype)
    merged = x.new_zeros(*code.shape[:-1], size).scatter_add_(-1, code, kept)
    width = x.new_zeros(*code.shape[:-1], size).scatter_add_(-1, code, occupied)
    spread = (merged / width.clamp(min=1)).gather(-1, code) * occupied

    p = clipped / clipped.sum(-1, keepdim=True).clamp(min=_EMPTY)
    q = (spread / spread.sum(-1, keepdim=True).clamp(min=_EMPTY)).clamp(min=_EMPTY)
    return torch.where(p > 0, p * torch.log(p.clamp(min=_EMPTY) / q), torch.zeros_like(p)).sum(-1)


L1 = lp(1.0)
L24 = lp(2.4)
COSINE = Score("cosine", _cosine)
KL = Score("kl", _kl, bins=2048)
SCORES = {"l1": L1, "l2.4": L24, "cosine": COSINE, "kl": KL}
