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


def smallest_step(dtype: torch.dtype) -> float:
    """`SMALLEST_STEP`, or the smallest number that float16 holds in all its digits."""
    return max(SMALLEST_STEP, torch.finfo(dtype).tiny)


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
    signed. Raises ReproError outside of 1 to 24 bits, and for 1 signed bit, which has no code
    above 0.
    """
    if bits != int(bits) or not 1 + signed <= bits <= 24:
        raise ReproError(
            f"a {'signed ' if signed else ''}quantiser of {bits} bits is not representable; choose "
            f"{1 + signed} to 24 bits"
        )
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


def usable(grid: Grid) -> Grid:
    """`grid` itself. Raises ReproError unless its type holds its steps, zero-points and codes."""
    dtype = grid.delta.dtype
    if grid.hi - grid.lo > 2 / torch.finfo(dtype).eps:
        raise ReproError(
            f"{dtype} does not tell {grid.hi - grid.lo + 1} codes apart; quantise in float32"
        )
    good = (grid.delta > 0) & grid.delta.isfinite() & grid.zero_point.isfinite()
    if not bool(good.all()):
        raise ReproError(
            f"a range is NaN, infinite or too wide for {dtype}; check the network, or calibrate in "
            "float32"
        )
    return grid


def holding_zero(grid: Grid, bits: int) -> Grid:
    """`grid`, widened to hold 0 where the zero-point of its 2^n unsigned codes lies outside them.

    A range [5, 6] at 8 bits has z = -1275: no hardware stores it, 0 is no point of the grid, and a
    learned δ moves the window by z δ.
    """
    inside = (grid.zero_point >= grid.lo) & (grid.zero_point <= grid.hi)
    wide = grid_from_range(*grid.span, bits)
    return Grid(
        torch.where(inside, grid.delta, wide.delta),
        torch.where(inside, grid.zero_point, wide.zero_point),
        grid.lo,
        grid.hi,
    )


def grid_from_range(low: Tensor, high: Tensor, bits: int) -> Grid:
    """Grid of 2^n unsigned codes that spans [low, high], widened to hold 0 if it does not.

        δ = max((high - low)/(2^n - 1), 1e-8),   z = clamp(-round(low/δ), 0, 2^n - 1)

    `low`, `high`: equal shapes, float32; the arithmetic stays in that type on purpose, because
    low/δ is often a tie (7.5, 127.5) that the type's rounding decides. Source: PTQ4DM's released
    quantiser. Raises ReproError for a range that is none, or that the type does not hold.
    """
    lo, hi = code_span(bits)
    if low.shape != high.shape or not low.is_floating_point() or not bool((low <= high).all()):
        raise ReproError("the ends of a range are NaN, swapped, or of different shapes")
    low, high = torch.clamp(low, max=0.0), torch.clamp(high, min=0.0)
    delta = torch.clamp((high - low) / float(hi), min=smallest_step(low.dtype))
    return usable(Grid(delta, torch.clamp(-torch.round(low / delta), lo, hi) + 0.0, lo, hi))
