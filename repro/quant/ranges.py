"""From a tensor to the grid that quantises it.

`minmax_grid` takes the extremes, `shrink_grid` searches 80 shrunken ranges (Q-Diffusion's two
initialisations), and `best_candidate` is the search itself, for any list of candidate grids and any
score. Nothing loops over channels: candidates are evaluated in blocks that fit a cache, all
channels at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.numbers import argmin, finite
from repro.quant.affine import Grid, code_span, holding_zero, smallest_step, usable
from repro.quant.scores import L24, Score

HISTOGRAM_ABOVE = 1 << 13
HISTOGRAM_BINS = 1 << 12
_BLOCK = 1 << 16


def rows(x: Tensor, channel_wise: bool) -> Tensor:
    """`x` as (C, M): one row per slice of dimension 0, or one row in all. Raises ReproError on
    empty or non-finite tensors, and where they hold no floats.
    """
    if not x.is_floating_point():
        raise ReproError(f"cannot calibrate a quantiser on {x.dtype}; give floats")
    if x.numel() == 0:
        raise ReproError(
            "cannot calibrate a quantiser on an empty tensor; give it at least one sample"
        )
    flat = (
        x.detach().reshape(x.shape[0], -1)
        if channel_wise and x.ndim > 0
        else x.detach().reshape(1, -1)
    )
    if not torch.isfinite(flat.sum()) and not torch.isfinite(flat).all():
        raise ReproError(
            "cannot calibrate a quantiser on NaN or infinite values; check the network"
        )
    return flat


def per_channel(values: Tensor, x: Tensor, channel_wise: bool) -> Tensor:
    """(C,) values shaped to broadcast against `x`: (C, 1, ..., 1), or a scalar per tensor."""
    return values.reshape(-1, *[1] * (x.ndim - 1)) if channel_wise else values.reshape(())


def check_above_zero(high: Tensor) -> None:
    """Raises ReproError where a range [0, max] holds nothing, its largest value below 0."""
    if bool((high < 0).any()):
        raise ReproError(
            "a tensor of negative values has nothing in [0, max]; calibrate without always_zero"
        )


def minmax_grid(
    x: Tensor,
    bits: int,
    *,
    symmetric: bool = False,
    always_zero: bool = False,
    channel_wise: bool = False,
    faithful: bool = False,
) -> Grid:
    """Grid that spans the extremes of `x`; Q-Diffusion's `max` scale.

    symmetric: signed codes, z = 0, δ = max|x|/(2^(n-1) - 1). Otherwise δ = (max - min)/(2^n - 1), z
    = round(-min/δ), both in float64 before the cast to the type of `x`; `always_zero` puts z = 0
    (for one-sided tensors such as a softmax).
    `faithful`: reproduce the released code where all values share a sign: the range then does not
    reach 0 although the zero-point assumes it, and the top is clipped. By default the range is
    widened to hold 0.
    """
    flat = rows(x, channel_wise)
    low, high = flat.amin(-1), flat.amax(-1)
    return _grid_from_extremes(low, high, x, bits, symmetric, always_zero, channel_wise, faithful)


def _grid_from_extremes(
    low: Tensor,
    high: Tensor,
    x: Tensor,
    bits: int,
    symmetric: bool,
    always_zero: bool,
    channel_wise: bool,
    faithful: bool,
) -> Grid:
    low, high = low.double(), high.double()
    below, above = low.clamp(max=0.0), high.clamp(min=0.0)
    lo, hi = code_span(bits, signed=symmetric)
    if symmetric:
        delta = torch.maximum(below.abs(), above) / hi
    else:
        delta = ((high - low) if faithful else (above - below)) / hi
    if always_zero and not symmetric:
        check_above_zero(high)
    delta = delta.clamp(min=smallest_step(x.dtype))
    zero_point = (
        torch.zeros_like(delta) if symmetric or always_zero else torch.round(-below / delta)
    )
    return usable(
        Grid(
            per_channel(delta.to(x.dtype), x, channel_wise),
            per_channel(zero_point.to(x.dtype), x, channel_wise),
            lo,
            hi,
        )
    )


class RunningRange:
    """Extremes averaged over batches, m <- (1 - rate) m + rate min(x) (max likewise); per tensor.

    The first batch initialises both ends. The grid follows the rules of `minmax_grid`, but
    `always_zero` has δ = max/(2^n - 1). Q-Diffusion's `running_stat` has rate 0.05.
    """

    def __init__(
        self,
        rate: float = 0.05,
        *,
        symmetric: bool = False,
        always_zero: bool = False,
        faithful: bool = False,
    ):
        if not 0 < rate <= 1:
            raise ReproError(f"a running range of rate {rate:g} does not run; choose (0, 1]")
        self.rate = rate
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.symmetric, self.always_zero, self.faithful = symmetric, always_zero, faithful

    def update(self, x: Tensor) -> None:
        flat = rows(x, channel_wise=False)
        low, high = flat.amin(), flat.amax()
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        else:
            self.low = (1 - self.rate) * self.low + self.rate * low
            self.high = (1 - self.rate) * self.high + self.rate * high

    def grid(self, bits: int) -> Grid:
        if self.low is None or self.high is None:
            raise ReproError("a running range has seen no batch; call update() before grid()")
        from_zero = self.always_zero and not self.symmetric
        low = torch.zeros_like(self.low) if from_zero else self.low
        return _grid_from_extremes(
            low[None],
            self.high[None],
            self.low,
            bits,
            self.symmetric,
            self.always_zero,
            False,
            self.faithful,
        )


def shrink_grid(
    x: Tensor,
    bits: int,
    *,
    symmetric: bool = False,
    always_zero: bool = False,
    channel_wise: bool = False,
    faithful: bool = False,
    score: Score = L24,
    steps: int = 80,
) -> Grid:
    """Best of `steps` shrunken ranges (1 - i/100)·[min, max]; Q-Diffusion's `mse` scale with its
    |.|^2.4 score.

    A range that does not hold 0 is widened in the end (`holding_zero`). `faithful`: it is left, as
    in the released code, with a zero-point outside of the codes. `always_zero`: the range is
    [0, max], z = 0. Raises ReproError for `symmetric`, which the released code combines into a
    quantiser that searches unsigned codes and saturates; `minmax_grid` is the symmetric rule.
    """
    if not 1 <= steps <= 100:
        raise ReproError(f"{steps} ranges shrunken by a hundredth each are not there; 1 to 100 are")
    if symmetric:
        raise ReproError(
            "the shrink search has asymmetric codes; use minmax_grid for a symmetric grid"
        )
    flat = rows(x, channel_wise)
    lo, hi = code_span(bits)
    shrink = torch.tensor([1.0 - 0.01 * i for i in range(steps)], dtype=torch.float64)
    factor = shrink.to(flat)[:, None]
    high, low = flat.amax(-1) * factor, flat.amin(-1) * factor
    if always_zero:
        check_above_zero(high)
    delta = ((high if always_zero else high - low) / hi).clamp(min=smallest_step(flat.dtype))
    zero_point = torch.zeros_like(delta) if always_zero else torch.round(-low / delta)
    best = best_candidate(flat, Grid(delta, zero_point, lo, hi), score)
    grid = pick(Grid(delta, zero_point, lo, hi), best, x, channel_wise)
    return grid if faithful else holding_zero(grid, bits)


def pick(candidates: Grid, index: Tensor, x: Tensor, channel_wise: bool) -> Grid:
    """The grid of candidate `index` (C,) for each channel, out of candidates whose δ and z are (K,
    C).
    """
    delta = candidates.delta.gather(0, index[None])[0]
    zero_point = candidates.zero_point.gather(0, index[None])[0]
    return usable(
        Grid(
            per_channel(delta, x, channel_wise),
            per_channel(zero_point, x, channel_wise),
            candidates.lo,
            candidates.hi,
        )
    )


def histogram(
    x: Tensor, bins: int, low: Tensor | None = None, high: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Equal bins of each row of `x` (C, M): centres and counts, both (C, bins). Range: [low, high]
    (C,), else the extremes. Raises ReproError for NaN and infinity, which would join a bin.
    """
    if x.ndim != 2 or not x.numel() or bins < 1:
        raise ReproError(f"{bins} bins of values of shape {tuple(x.shape)} are no histogram")
    finite(x, "values of a histogram")
    low = x.amin(-1) if low is None else low
    high = x.amax(-1) if high is None else high
    width = ((high - low) / bins).clamp(min=torch.finfo(x.dtype).tiny)
    index = (x - low[:, None]).div_(width[:, None]).to(torch.int64).clamp_(0, bins - 1)
    if len(x) > 1:
        index += bins * torch.arange(len(x), device=x.device)[:, None]
    counts = (
        torch.bincount(index.flatten(), minlength=bins * len(x)).reshape(len(x), bins).to(x.dtype)
    )
    centres = low[:, None] + width[:, None] * (
        torch.arange(bins, device=x.device, dtype=x.dtype) + 0.5
    )
    return centres, counts


def best_candidate(x: Tensor, candidates: Grid, score: Score, *, exact: bool = False) -> Tensor:
    """Index (C,) of the candidate with the smallest score for each row of `x` (C, M); the first one
    on ties.

    `candidates`: δ and z of shape (K, C). A row of more than 8,192 values is summarised by a
    histogram of 4,096 equal bins (16 of them to a step at 8 bits) unless `exact`; scores defined on
    histograms use their own bins. Raises ReproError where the best score is NaN or infinite.
    """
    device = x.device
    if score.bins is not None:
        reach = x.abs().amax(-1)
        low = torch.where(x.amin(-1) < 0, -reach, torch.zeros_like(reach))
        high = torch.where(x.amax(-1) > 0, reach, torch.zeros_like(reach))
        x, mass = (v.cpu() for v in histogram(x, score.bins, low, high))  # small, and scattered
        candidates = candidates.to("cpu")
    elif x.shape[-1] > HISTOGRAM_ABOVE and not exact:
        x, mass = histogram(x, HISTOGRAM_BINS)
    else:
        mass = None
    block = max(1, _BLOCK // x.numel())
    scores = []
    for start in range(0, len(candidates.delta), block):
        delta = candidates.delta[start : start + block, :, None]
        zero_point = candidates.zero_point[start : start + block, :, None]
        grids = Grid(delta, zero_point, candidates.lo, candidates.hi)
        codes = torch.div(x, delta).round_().add_(zero_point).clamp_(candidates.lo, candidates.hi)
        scores.append(score(x, codes.sub_(zero_point).mul_(delta), mass, grids))
    return argmin(torch.cat(scores), 0, "scores of ranges").to(device)
