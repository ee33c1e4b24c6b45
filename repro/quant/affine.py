"""Uniform affine fake quantisation.

A grid of evenly spaced points is a step δ > 0, an integer zero-point z and a span of integer codes
lo..hi:

    q = clamp(round(x / δ) + z, lo, hi)        the code that hardware would store
    x̂ = (q - z) · δ                            the value that the simulated network computes with

Rounding is half-to-even. Gradients pass straight through the rounding and truly through the clamp,
so inside the span ∂x̂/∂x = 1 and ∂x̂/∂δ = (q - z) - x/δ; outside it ∂x̂/∂x = 0 and ∂x̂/∂δ = lo - z
or hi - z. No gradient is rescaled.

Sources: "Q-Diffusion", Li et al., ICCV 2023 (arXiv 2302.04304) and "Post-training Quantization on
Diffusion Models", Shang et al., CVPR 2023 (arXiv 2211.15736), with the conventions of their
released code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError

SMALLEST_STEP = 1e-8

Rounding = Callable[[Tensor], Tensor]
"""Maps x/δ to integers (a learned rounding may return soft ones while it is being optimised)."""


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, u: Tensor) -> Tensor:
        return torch.round(u)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def nearest(u: Tensor) -> Tensor:
    """Round half-to-even with the gradient of the identity. `u`: any shape."""
    return _RoundStraightThrough.apply(u)


def code_span(bits: int, signed: bool = False) -> tuple[int, int]:
    """Smallest and largest code of `bits` bits: (0, 2^n - 1), or (-2^(n-1), 2^(n-1) - 1) if
    signed.
    """
    if not 1 <= bits <= 24:
        raise ReproError(f"a quantiser of {bits} bits is not representable; choose 1 to 24 bits")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


@dataclass(frozen=True)
class Grid:
    """The points of a uniform quantiser.

    `delta` (step, positive) and `zero_point` (integer-valued) are tensors that broadcast against
    the tensor to quantise: scalars per tensor, (C, 1, ..., 1) per channel. `lo` and `hi` are the
    smallest and the largest code.
    """

    delta: Tensor
    zero_point: Tensor
    lo: int
    hi: int

    def codes(self, x: Tensor, rounding: Rounding = nearest) -> Tensor:
        """Integer codes q of `x`, as floats of the same shape."""
        return torch.clamp(rounding(x / self.delta) + self.zero_point, self.lo, self.hi)

    def __call__(self, x: Tensor, rounding: Rounding = nearest) -> Tensor:
        """x̂, of the shape of `x`; differentiable in `x`, in δ and in whatever `rounding`
        learns.
        """
        return (self.codes(x, rounding) - self.zero_point) * self.delta

    def apply_(self, x: Tensor) -> Tensor:
        """x̂ without gradients, overwriting `x`: four passes over memory.

        z is an integer, so clamp(round(x/δ) + z, lo, hi) - z = clamp(round(x/δ), lo - z, hi - z)
        exactly.
        """
        low, high = self._shifted
        rounded = x.div_(self.delta).round_()
        return rounded.clamp_(low, high).mul_(self.delta)  # type: ignore[arg-type]  # of one type

    @functools.cached_property
    def _shifted(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        low, high = self.lo - self.zero_point, self.hi - self.zero_point
        return (float(low), float(high)) if low.numel() == 1 else (low, high)

    @property
    def span(self) -> tuple[Tensor, Tensor]:
        """Values of the lowest and of the highest code, each of the shape of `delta`."""
        return (self.lo - self.zero_point) * self.delta, (self.hi - self.zero_point) * self.delta

    def to(self, device: torch.device | str) -> Grid:
        """The same grid on another device."""
        return Grid(self.delta.to(device), self.zero_point.to(device), self.lo, self.hi)


def grid_from_range(low: Tensor, high: Tensor, bits: int) -> Grid:
    """Grid of 2^n unsigned codes that spans [low, high], widened to hold 0 if it does not.

        δ = max((high - low)/(2^n - 1), 1e-8),   z = clamp(-round(low/δ), 0, 2^n - 1)

    `low`, `high`: equal shapes, float32; the arithmetic stays in that type on purpose, because
    low/δ is often a tie (7.5, 127.5) that the type's rounding decides. Source: PTQ4DM's released
    quantiser.
    """
    lo, hi = code_span(bits)
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    delta = torch.clamp((high - low) / float(hi), min=SMALLEST_STEP)
    return Grid(delta, torch.clamp(-torch.round(low / delta), lo, hi) + 0.0, lo, hi)
