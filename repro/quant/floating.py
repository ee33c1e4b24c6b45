"""Low-bit floating-point fake quantisation with a real-valued exponent bias.

A format ExMy has y = M mantissa and x = E exponent bits, and no codes for NaN or infinity. With a
bias b, which need not be an integer, its values are

    ± 2^(1-b) m/2^M             m = 0 .. 2^M - 1                               (subnormal)
    ± 2^(e-b) (1 + m/2^M)       e = 1 .. 2^E - 1                               (normal)

so the largest is maxval = (2 - 2^-M) 2^(2^E - 1 - b), the smallest positive one δ = 2^(1-b-M), and
every value is an integer multiple of δ:  maxval/δ = (2^(M+1) - 1) 2^(2^E - 2),  the dynamic range.
Hence, with u = x/δ cut off at ± maxval/δ,

    p = max(floor(log2|x| + b), 1),   s = 2^(p-M-b) = δ 2^(p-1),   Q(x) = s round(x/s)

needs no logarithm: 2^(p-1) = clamp(2^floor(log2|u|) / 2^M, 1, 2^(2^E-2)), and the power of two is u
without its mantissa bits. All scalings but the division by δ are exact, so Q(x) is a grid point to
the last bit, for any rounding to a neighbouring integer.

p is constant for the gradient, which passes straight through the rounding and truly through the
cut: ∂Q/∂maxval = (round(x/s) - x/s) s/maxval inside the range and ± 1 outside.

Source: "FP8 Quantization: The Power of the Exponent", Kuzmin et al., NeurIPS 2022
(arXiv 2208.09225), on which "Low-Bitwidth Floating Point Quantization for Efficient High-Quality
Diffusion Models", Chen et al., 2024 (arXiv 2408.06995) builds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.numbers import finite
from repro.quant.affine import Grid, Rounding, nearest, smallest_step
from repro.quant.ranges import per_channel, rows

_EXPONENT_BITS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}


def dynamic_range(exponent: int, mantissa: int) -> float:
    """Largest over smallest positive value, (2 - 2^-M) 2^(2^E - 2 + M). Raises ReproError on a
    format without exponent or with a range beyond float32.
    """
    if not 1 <= exponent <= 6 or not 0 <= mantissa <= 10:
        raise ReproError(
            f"E{exponent}M{mantissa} cannot be simulated in float32; choose 1 to 6 exponent and 0 "
            "to 10 mantissa bits"
        )
    return (2.0 ** (mantissa + 1) - 1) * 2.0 ** (2**exponent - 2)


def maxval_of_bias(exponent: int, mantissa: int, bias: float) -> float:
    """Largest value, (2 - 2^-M) 2^(2^E - 1 - b)."""
    return dynamic_range(exponent, mantissa) * 2.0 ** (1 - bias - mantissa)


def bias_of_maxval(exponent: int, mantissa: int, maxval: float) -> float:
    """Real exponent bias, b = 2^E - 1 - log2(maxval) + log2(2 - 2^-M). Raises ReproError unless
    maxval is positive and finite.
    """
    if not 0 < maxval < math.inf:
        raise ReproError(f"a largest value of {maxval:g} has no exponent bias; give a positive one")
    return 1 - mantissa - math.log2(maxval / dynamic_range(exponent, mantissa))


def float_values(exponent: int, mantissa: int, bias: float) -> Tensor:
    """The 2^(E+M) values of a format that are not negative, ascending from 0, float64.

    Enumerates the codes by the definition above. With its sign the format has 2^(E+M+1) - 1 values.
    Raises ReproError on another format, and for a bias that leaves no finite values.
    """
    if not 0 < maxval_of_bias(exponent, mantissa, bias) < math.inf:
        raise ReproError(f"an exponent bias of {bias:g} leaves no values; give a smaller one")
    field, m = torch.meshgrid(
        torch.arange(2.0**exponent, dtype=torch.float64),
        torch.arange(2.0**mantissa, dtype=torch.float64) / 2**mantissa,
        indexing="ij",
    )
    subnormal = field == 0
    power = torch.exp2(torch.where(subnormal, torch.ones_like(field), field) - bias)
    return (power * (m + (~subnormal).double())).flatten()


def float_formats(
    bits: int, *, unsigned: bool = False, without_mantissa: bool = False
) -> list[tuple[int, int]]:
    """The (E, M) of `bits` bits that a search tries, most mantissa bits first.

    8 bits: E2M5, E3M4, E4M3, E5M2; fewer: M = n - 2, ..., 1, and M = 0 with `without_mantissa`
    (E3M0 at 4 bits, as in LLM-FP4). `unsigned` gives the sign bit to the exponent. Raises
    ReproError outside 3 to 8 bits.
    """
    if not 3 <= bits <= 8:
        raise ReproError(f"no float formats of {bits} bits; choose 3 to 8 bits")
    most, least = (5, 2) if bits == 8 else (bits - 2, 0 if without_mantissa else 1)
    pairs = [(bits - (not unsigned) - m, m) for m in range(most, least - 1, -1)]
    return [(e, m) for e, m in pairs if e <= 6]


def smallest_maxval(formats: Sequence[tuple[int, int]], dtype: torch.dtype) -> float:
    """Least max|x| for which `dtype` holds the steps of all (E, M) in all their digits.

    Raises ReproError where it does not hold the dynamic range of one of them: E4M3 spans 245,760,
    float16 ends at 65,504.
    """
    info = torch.finfo(dtype)
    for exponent, mantissa in formats:
        if dynamic_range(exponent, mantissa) > info.max:
            raise ReproError(
                f"E{exponent}M{mantissa} spans {dynamic_range(exponent, mantissa):g} steps, more "
                f"than {dtype} holds; quantise in float32"
            )
    return info.tiny * max(dynamic_range(*pair) for pair in formats)


@dataclass(frozen=True)
class FloatGrid:
    """The values of a floating-point format, scaled to `maxval`; stands in for `Grid`.

    `maxval` (positive) broadcasts against the tensor to quantise: a scalar per tensor, (C, 1, ...,
    1) per channel. `unsigned`: no sign bit, values below 0 become 0. A rounding is given x/s, the
    value in units of its own step s.
    """

    exponent: int
    mantissa: int
    maxval: Tensor
    unsigned: bool = False

    @property
    def bits(self) -> int:
        """E + M, plus the sign."""
        return self.exponent + self.mantissa + (not self.unsigned)

    @property
    def delta(self) -> Tensor:
        """Smallest positive value, of the shape of `maxval`; differentiable in it."""
        return self.maxval / self._range

    @property
    def bias(self) -> Tensor:
        """Exponent bias b, float64, of the shape of `maxval`."""
        return 1 - self.mantissa - torch.log2(self.maxval.double() / self._range)

    @property
    def span(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest value, each of the shape of `maxval`."""
        high = self.delta * self._range
        return torch.zeros_like(high) if self.unsigned else -high, high

    @property
    def _range(self) -> float:
        return dynamic_range(self.exponent, self.mantissa)

    def _ends(self, dtype: torch.dtype) -> tuple[float, float]:
        if dtype not in _EXPONENT_BITS or self._range > torch.finfo(dtype).max:
            raise ReproError(
                f"E{self.exponent}M{self.mantissa} cannot be simulated in {dtype}; use float32"
            )
        return 0.0 if self.unsigned else -self._range, self._range

    def _power(self, u: Tensor) -> Tensor:
        """2^(p-1), without gradient, for u = x/δ inside the range."""
        integer, mask = _EXPONENT_BITS[u.dtype]
        binade = (u.detach().view(integer) & mask).view(u.dtype)
        least, most = 2.0**self.mantissa, 2.0 ** (2**self.exponent - 2 + self.mantissa)
        return binade.clamp_(least, most).mul_(1 / least)

    def _units(self, x: Tensor) -> Tensor:
        u = x / self.delta
        return torch.clamp(u, *self._ends(u.dtype))

    def step(self, x: Tensor) -> Tensor:
        """s of every value, the distance of the grid points around it, of the shape of `x`;
        differentiable in maxval.
        """
        return self._power(self._units(x)) * self.delta

    def __call__(self, x: Tensor, rounding: Rounding = nearest) -> Tensor:
        """x̂, of the shape of `x`; differentiable in `x`, in maxval and in what `rounding`
        learns.
        """
        u = self._units(x)
        power = self._power(u)
        rounded = rounding(u / power) * power
        if rounding is not nearest:  # rounding up from maxval would leave the range
            rounded = torch.clamp(rounded, *self._ends(u.dtype))
        return rounded * self.delta

    def apply_(self, x: Tensor) -> Tensor:
        """x̂ without gradients, overwriting `x`."""
        u = x.div_(self.delta).clamp_(*self._ends(x.dtype))
        power = self._power(u)
        return u.div_(power).round_().mul_(power).mul_(self.delta)

    def to(self, device: torch.device | str) -> FloatGrid:
        """The same grid on another device."""
        return FloatGrid(self.exponent, self.mantissa, self.maxval.to(device), self.unsigned)


AnyGrid = Grid | FloatGrid


def float_grid(
    x: Tensor, exponent: int, mantissa: int, *, unsigned: bool = False, channel_wise: bool = False
) -> FloatGrid:
    """Grid with maxval = max|x|, of the whole tensor or of each slice of dimension 0.

    Raises ReproError on empty or non-finite tensors, and where the type of `x` does not hold the
    format (see `smallest_maxval`).
    """
    reach = rows(x, channel_wise).abs().amax(-1)
    held = reach.clamp(min=smallest_maxval([(exponent, mantissa)], x.dtype))
    smallest = smallest_step(x.dtype) * dynamic_range(exponent, mantissa)
    maxval = torch.where(reach > 0, held, torch.full_like(reach, smallest))
    return FloatGrid(exponent, mantissa, per_channel(maxval, x, channel_wise), unsigned)


def step_of(grid: AnyGrid, x: Tensor) -> Tensor:
    """Distance of the grid points around each value, broadcastable to `x`: δ, or s of a float."""
    return grid.step(x) if isinstance(grid, FloatGrid) else grid.delta


def scaled(grid: AnyGrid, x: Tensor) -> Tensor:
    """What the grid hands to its rounding: x/δ, or x/s inside the range of a float."""
    if not isinstance(grid, FloatGrid):
        return x / grid.delta
    u = grid._units(x)
    return u / grid._power(u)


def zero_share(x: Tensor, grid: AnyGrid) -> float:
    """Share of the values of `x` that the grid maps to 0. Raises ReproError for NaN or none."""
    if not x.numel():
        raise ReproError("a share of no values is undefined; give a tensor that holds some")
    finite(x, "values to quantise")
    with torch.no_grad():
        return float((grid(x) == 0).double().mean())


def released_float_quantiser(x: Tensor, exponent: int, mantissa: int, maxval: Tensor) -> Tensor:
    """x̂ by the formula of the released code, with its logarithms in the type of `x`; for parity.

    Rounding errors of the logarithm move ties and values next to a power of two to the other
    neighbour: .75 becomes .5 in E2M1 with maxval 6, where half-to-even gives 1.
    """
    bias = 2**exponent - torch.log2(maxval) + math.log2(2 - 2.0**-mantissa) - 1
    cut = torch.minimum(torch.maximum(x, -maxval), maxval)
    p = torch.clamp(torch.floor(torch.log2(cut.abs()) + bias), min=1.0)
    scale = 2.0 ** (p - mantissa - bias)
    return torch.round(cut / scale) * scale
