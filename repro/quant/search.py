"""Range searches that integer and floating-point grids share, and QuEST's ranges.

Both families get the same budget, so that comparisons of formats are fair: 111 candidates f in
linspace(0.1, 1.2), each scaling the range of the data,

    float               maxval = f max|x|, for every split of the bits into exponent and mantissa
    integer, symmetric  δ = f max|x| / (2^(n-1) - 1), codes -2^(n-1) .. 2^(n-1) - 1
    integer, asymmetric δ = f (max - min) / (2^n - 1), z = round(-f min / δ)

and the smallest squared error wins, the first one on ties. Long rows are sorted once; the error of
a candidate is then exact from sums over the values between neighbouring decision thresholds.

Sources: Kuzmin et al., NeurIPS 2022 (arXiv 2208.09225), released code, for the candidates;
"QuEST: Low-bit Diffusion Model Quantization via Efficient Selective Finetuning", Wang et al., ICCV
2025 (arXiv 2402.03666), released code, for percentiles and for grids per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.numbers import argmin, finite
from repro.quant.affine import Grid, code_span, holding_zero, smallest_step, usable
from repro.quant.floating import (
    AnyGrid,
    FloatGrid,
    dynamic_range,
    float_formats,
    float_values,
    smallest_maxval,
)
from repro.quant.ranges import check_above_zero, per_channel, pick, rows

CANDIDATES = 111
PERCENTILES = (0.999, 0.9999, 0.99999)
_BLOCK = 1 << 18
_LOOKUP_COST = 25  # elementwise quantisations that cost as much as one look-up in a sorted row

Rule = Callable[..., AnyGrid]


def squared_errors(
    x: Tensor, make: Callable[[Tensor], AnyGrid], points: Tensor, count: int
) -> Tensor:
    """Mean squared error (K, C) of K candidate grids on the rows of `x` (C, M), float64.

    `make(k)`: the grids of the candidates k (n,), with parameters (n, C, 1). `points`: the values
    of each grid in ascending order, (K, C, G). `count`: K.
    """
    if x.shape[-1] > _LOOKUP_COST * points.shape[-1]:
        return _errors_by_sorting(x, points)
    size = max(1, _BLOCK // x.numel())
    blocks = []
    for chosen in torch.arange(count, device=x.device).split(size):
        error = make(chosen).apply_(x.repeat(len(chosen), 1, 1)).sub_(x)
        blocks.append(error.square_().mean(-1, dtype=torch.float64))
    return torch.cat(blocks)


def _errors_by_sorting(x: Tensor, points: Tensor) -> Tensor:
    """Σ (x - g)² = Σx² - 2 Σ g S1(g) + Σ g² n(g), S1 and n summed over the values nearest to g."""
    points = points.double()
    count, channels, size = points.shape
    x = x.sort(-1).values.double()
    sums = torch.nn.functional.pad(x.cumsum(-1), (1, 0))
    middles = ((points[..., 1:] + points[..., :-1]) / 2).transpose(0, 1).reshape(channels, -1)
    index = torch.searchsorted(x, middles.contiguous())
    first = sums.gather(1, index).reshape(channels, count, -1)
    index = index.reshape(channels, count, -1)
    zero, last = torch.zeros_like(index[..., :1]), torch.full_like(index[..., :1], x.shape[-1])
    n = torch.cat([zero, index, last], -1).diff(dim=-1).double()
    total = sums[:, -1:, None].expand(channels, count, 1)
    s1 = torch.cat([torch.zeros_like(first[..., :1]), first, total], -1).diff(dim=-1)
    g = points.transpose(0, 1)
    error = x.square().sum(-1)[:, None] - 2 * (g * s1).sum(-1) + (g.square() * n).sum(-1)
    return (error / x.shape[-1]).clamp_(min=0).T


def _factors(x: Tensor, candidates: int) -> Tensor:
    if candidates < 1:
        raise ReproError(f"{candidates} candidates are no search; ask for 1 or more")
    return torch.linspace(0.1, 1.2, candidates, dtype=torch.float64, device=x.device).to(x)[:, None]


def search_float_grid(
    x: Tensor,
    bits: int,
    *,
    formats: Sequence[tuple[int, int]] | None = None,
    unsigned: bool = False,
    channel_wise: bool = False,
    candidates: int = CANDIDATES,
) -> FloatGrid:
    """Floating-point grid of least squared error: range, and split of the bits.

    formats: (E, M) pairs to choose from, else `float_formats(bits)`. Per channel every channel
    votes for its best format, the plurality (the earlier format on ties) holds for the tensor, and
    each channel takes its best range for it. Raises ReproError on empty or non-finite tensors.
    """
    flat = rows(x, channel_wise)
    formats = list(formats or float_formats(bits, unsigned=unsigned))
    reach = flat.abs().amax(-1)
    least = smallest_maxval(formats, flat.dtype)
    held = reach.clamp(min=10 * least)  # of which the smallest candidate takes a tenth
    maxval = _factors(flat, candidates) * torch.where(reach > 0, held, torch.ones_like(reach))
    errors = []
    for exponent, mantissa in formats:

        def make(k: Tensor, e: int = exponent, m: int = mantissa) -> FloatGrid:
            return FloatGrid(e, m, maxval[k][..., None], unsigned)

        units = float_values(exponent, mantissa, 0.0).to(flat.device)
        units = units / units[-1]
        units = units if unsigned else torch.cat([-units[1:].flip(0), units])
        errors.append(squared_errors(flat, make, maxval.double()[..., None] * units, candidates))
    error, best = torch.stack(errors).min(1)  # (F, C)
    finite(error, f"errors of {flat.dtype}, whose squares may be too large for it,")
    winner = int(error.argmin(0).bincount(minlength=len(formats)).argmax())
    chosen = maxval.gather(0, best[winner][None])[0]
    smallest = smallest_step(flat.dtype) * dynamic_range(*formats[winner])
    chosen = torch.where(reach > 0, chosen, smallest)
    return FloatGrid(*formats[winner], per_channel(chosen, x, channel_wise), unsigned)


def search_integer_grid(
    x: Tensor,
    bits: int,
    *,
    symmetric: bool = False,
    always_zero: bool = False,
    channel_wise: bool = False,
    candidates: int = CANDIDATES,
) -> Grid:
    """Integer grid of least squared error among as many ranges as `search_float_grid` tries.

    symmetric: signed codes, z = 0. always_zero: unsigned codes, z = 0, range f [0, max]. Otherwise
    the range is f [min, max], widened to hold 0. Raises ReproError on empty or non-finite tensors.
    """
    flat = rows(x, channel_wise)
    lo, hi = code_span(bits, signed=symmetric)
    low, high = flat.amin(-1).clamp(max=0.0), flat.amax(-1).clamp(min=0.0)
    if symmetric:
        low, high = torch.zeros_like(low), torch.maximum(-low, high)
    elif always_zero:
        check_above_zero(flat.amax(-1))
        low = torch.zeros_like(low)
    factor = _factors(flat, candidates)
    delta = (factor * ((high - low) / hi)).clamp(min=smallest_step(flat.dtype))
    zero_point = torch.round(-factor * low / delta).clamp(0, hi) + 0.0
    return _best_integer(flat, Grid(delta, zero_point, lo, hi), x, channel_wise)


def _best_integer(flat: Tensor, grids: Grid, x: Tensor, channel_wise: bool) -> Grid:
    """The grid of least squared error for each row, out of candidates with δ and z (K, C)."""

    def make(k: Tensor) -> Grid:
        return Grid(grids.delta[k][..., None], grids.zero_point[k][..., None], grids.lo, grids.hi)

    codes = torch.arange(grids.lo, grids.hi + 1, device=flat.device, dtype=torch.float64)
    points = (codes - grids.zero_point.double()[..., None]) * grids.delta.double()[..., None]
    best = argmin(squared_errors(flat, make, points, len(grids.delta)), 0, "errors of ranges")
    return pick(grids, best, x, channel_wise)


def percentile_grid(
    x: Tensor,
    bits: int,
    *,
    channel_wise: bool = False,
    percentiles: Sequence[float] = PERCENTILES,
) -> Grid:
    """Grid over [quantile(1 - p), quantile(p)], p of least squared error; QuEST's percentiles.

        δ = (hi - lo)/(2^n - 1),   z = round(-lo/δ)

    Quantiles interpolate linearly. A range that does not hold 0 is widened in the end
    (`holding_zero`): a channel of the time embedding is constant at a given step, so that its range
    has no width; widened, the value lies at an end of the grid and is still met exactly. Raises
    ReproError on empty or non-finite tensors, and for percentiles outside of [0.5, 1].
    """
    if not percentiles or not all(0.5 <= p <= 1 for p in percentiles):
        raise ReproError(f"{tuple(percentiles)} are no upper percentiles; give some of [0.5, 1]")
    flat = rows(x, channel_wise)
    lo, hi = code_span(bits)
    p = torch.tensor(percentiles, dtype=torch.float64, device=flat.device)[:, None]
    ordered = flat.sort(-1).values
    low, high = _quantile(ordered, 1 - p), _quantile(ordered, p)
    delta = ((high - low) / hi).clamp(min=smallest_step(flat.dtype))
    zero_point = torch.round(-low / delta) + 0.0
    best = _best_integer(flat, Grid(delta, zero_point, lo, hi), x, channel_wise)
    return holding_zero(best, bits)


def _quantile(ordered: Tensor, p: Tensor) -> Tensor:
    """Quantiles p (K, 1) of sorted rows (C, M), as (K, C)."""
    position = (p * (ordered.shape[-1] - 1)).expand(-1, len(ordered))
    below = position.floor().long()
    above = (below + 1).clamp(max=ordered.shape[-1] - 1)
    columns = ordered.T.double()
    lower, upper = columns.gather(0, below), columns.gather(0, above)
    return (lower + (upper - lower) * (position - below)).to(ordered.dtype)


def released_edge_grid(x: Tensor) -> Grid:
    """QuEST's 8-bit grid of the first and last activations as released, per tensor.

    Its code sets N = 256 for a symmetric quantiser too: δ = max|x|/256, codes -257 .. 256, which is
    more than 9 bits.
    """
    delta = (rows(x, False).abs().amax() / 256).clamp(min=smallest_step(x.dtype))
    return usable(Grid(delta, torch.zeros_like(delta), -257, 256))


def dimension_grid(x: Tensor, bits: int, rule: Rule, dim: int, **options: object) -> AnyGrid:
    """Grid with parameters of its own for each index of dimension `dim`.

    For activations per channel: dim 1 of a convolution's input gives δ (1, C, 1, 1), dim -1 of a
    linear layer's (1, 1, C). `rule`: any rule with a `channel_wise` option. Source: QuEST's
    quantisers at 4 activation bits.
    """
    dim %= x.ndim
    grid = rule(x.movedim(dim, 0), bits, channel_wise=True, **options)
    shape = [-1 if i == dim else 1 for i in range(x.ndim)]
    if isinstance(grid, FloatGrid):
        maxval = grid.maxval.reshape(shape)
        return FloatGrid(grid.exponent, grid.mantissa, maxval, grid.unsigned)
    return Grid(grid.delta.reshape(shape), grid.zero_point.reshape(shape), grid.lo, grid.hi)


class Sampled:
    """Observer that keeps a thinned copy of each batch and gives it to a rule.

    `rule`: (x, bits) -> grid; any rule of this package, or a partial of it. `limit`: values kept of
    each batch, at an even stride, which may miss the extremes: `RunningRange` is the observer for
    rules by extremes. `dim`: parameters for each index of this dimension, which is not the batch
    (see `dimension_grid`), else one grid per tensor.
    """

    def __init__(self, rule: Rule, limit: int = 1 << 14, dim: int | None = None):
        self.rule, self.limit, self.dim = rule, limit, dim
        self.kept: list[Tensor] = []
        self.ndim = 0

    def update(self, x: Tensor) -> None:
        self.ndim = x.ndim
        flat = rows(x if self.dim is None else x.movedim(self.dim, 0), self.dim is not None)
        stride = (flat.numel() // self.limit) | 1  # odd: no resonance with the image's width
        self.kept.append(flat[:, ::stride].clone())

    def grid(self, bits: int) -> AnyGrid:
        """Raises ReproError before the first batch."""
        if not self.kept:
            raise ReproError("an observer has seen no batch; call update() before grid()")
        x = torch.cat(self.kept, -1)
        if self.dim is None:
            return self.rule(x.flatten(), bits)
        dim = self.dim % self.ndim
        shape = [len(x) if i == dim else 1 for i in range(self.ndim)]
        shape[0] = x.shape[-1]
        return dimension_grid(x.T.reshape(shape), bits, self.rule, dim)
