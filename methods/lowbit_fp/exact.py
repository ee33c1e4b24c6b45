"""Identities, tables and printed values that the quantisers have to meet, each as an error.

Numbers with a source: the released quantiser of Kuzmin et al. (NeurIPS 2022), the casts of torch to
8-bit floats, enumeration, and quadrature.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Laplace, StudentT

from methods.lowbit_fp.method import Form, grid
from repro.quant.affine import Grid
from repro.quant.floating import (
    FloatGrid,
    float_values,
    maxval_of_bias,
    released_float_quantiser,
    zero_share,
)
from repro.quant.rounding import hard_rounding

if TYPE_CHECKING:
    from repro.job import Job

X = torch.tensor([-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5])
FOUR = ((2, 1), (1, 2), (3, 0))
EIGHT = ((2, 5), (3, 4), (4, 3), (5, 2))

GRIDS = {
    ("E2M1", 1): [0, 0.5, 1, 1.5, 2, 3, 4, 6],
    ("E2M1", 2): [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3],
    ("E1M2", 1): [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75],
    ("E3M0", 3): [0, 0.25, 0.5, 1, 2, 4, 8, 16],
}
EXTREMES = {
    ("E4M3", 7): (480, 2**-9, 2**-6),
    ("E4M3", 8): (240, 2**-10, 2**-7),
    ("E5M2", 15): (114688, 2**-16, 2**-14),
    ("E5M2", 16): (57344, 2**-17, 2**-15),
    ("E3M4", 4): (15.5, 2**-7, 2**-3),
    ("E2M5", 2): (3.9375, 2**-6, 0.5),
}
RELEASED = {
    0.3: 0.5, 0.74: 0.5, 0.76: 1, 1.2: 1, 1.3: 1.5, 1.7: 1.5, 2.4: 2, 2.6: 3, 3.4: 3, 3.6: 4,
    4.9: 4, 5.1: 6, 7.0: 6,
}  # fmt: skip
NINE = {
    "E2M1": [-1, -0.5, -0.25, -0.125, 0, 0, 0.25, 0.75, 1.5],
    "E1M2": [-1.071428, -0.642857, -0.214286, 0, 0, 0, 0.214286, 0.642857, 1.5],
    "E5M2": [-1.071428, -0.642857, -0.267857, -0.09375, 0, 0.046875, 0.321428, 0.75, 1.5],
    "E4M3": [-1, -0.6, -0.25, -0.1, 0, 0.05, 0.3, 0.7, 1.5],
    "E3M4": [-1.016129, -0.604839, -0.254032, -0.102823, 0, 0.051411, 0.302419, 0.701613, 1.5],
    "E2M5": [-1, -0.595238, -0.25, -0.10119, 0, 0.047619, 0.297619, 0.702381, 1.5],
}
FORMATS = ("INT8", "E2M5", "E3M4", "E4M3", "E5M2", "INT4", "E1M2", "E2M1", "E3M0")
SQNR = {
    "uniform": [48.10, 44.44, 38.40, 32.40, 26.26, 23.52, 23.51, 20.06, 15.97],
    "gaussian": [40.57, 42.66, 37.56, 31.56, 25.58, 19.26, 18.90, 18.97, 14.23],
    "laplace": [35.21, 39.45, 37.54, 31.54, 25.56, 15.98, 15.62, 17.33, 14.17],
    "student-t": [34.41, 38.43, 37.42, 31.51, 25.55, 16.75, 16.41, 17.76, 14.17],
}
BEST_RANGES = {
    ("gaussian", "INT8"): 3.9,
    ("gaussian", "E2M5"): 4.4,
    ("gaussian", "INT4"): 2.39,
    ("gaussian", "E2M1"): 2.89,
    ("laplace", "INT4"): 3.27,
    ("laplace", "E2M1"): 4.15,
}
ZEROS = {
    "INT4": (26.6, 63.6),
    "E1M2": (26.6, 63.6),
    "E2M1": (15.8, 44.5),
    "E3M0": (3.0, 10.4),
    "INT8": (1.5, 5.4),
    "E2M5": (0.76, 2.8),
    "E3M4": (0.10, 0.36),
    "E4M3": (0.0, 0.0),
}
WEIGHTS = 1_000_000


def fixed(exponent: int, mantissa: int, bias: float) -> FloatGrid:
    """The format with a given bias, in float64."""
    largest = maxval_of_bias(exponent, mantissa, bias)
    return FloatGrid(exponent, mantissa, torch.tensor(largest, dtype=torch.float64))


def signed(values: Tensor) -> Tensor:
    """Values and their negatives, ascending; `values` ascend from 0."""
    return torch.cat([-values[1:].flip(0), values])


def _gap(value: Tensor, expected: Tensor | list[float]) -> float:
    return float((value.double() - torch.as_tensor(expected, dtype=torch.float64)).abs().max())


def errors(generator: torch.Generator) -> dict[str, float]:
    """Deviations of the quantisers, and counts of values that break a law, by item."""
    found = {
        "grids-4bit": max(
            _gap(float_values(int(f[1]), int(f[3]), b), v) for (f, b), v in GRIDS.items()
        ),
        "extremes-8bit": max(_extremes(f, b, v) for (f, b), v in EXTREMES.items()),
        "image": max(_image(e, m) for e, m in FOUR + EIGHT),
        "e1m2-is-integer": _even(),
        "nine-values": max(_gap(grid(X, f, span="max")(X), v) for f, v in NINE.items()),
    }
    x, expected = torch.tensor(list(RELEASED)), list(RELEASED.values())
    six = torch.tensor(6.0)
    found["released-function"] = _gap(released_float_quantiser(x, 2, 1, six), expected)
    found["released-values"] = _gap(FloatGrid(2, 1, six)(x), expected)
    tie = torch.tensor([0.75])
    found["released-tie"] = _gap(released_float_quantiser(tie, 2, 1, six), [0.5])
    found["half-to-even-tie"] = _gap(FloatGrid(2, 1, six)(tie), [1.0])
    found["cast-e4m3"] = _casts(4, 3, 7, torch.float8_e4m3fn, 448, generator)
    found["cast-e5m2"] = _casts(5, 2, 15, torch.float8_e5m2, 57344, generator)
    found["saturation"] = max(
        _gap(fixed(4, 3, 7)(torch.tensor([1e6], dtype=torch.float64)), [480.0]),
        _gap(fixed(5, 2, 15)(torch.tensor([1e6], dtype=torch.float64)), [114688.0]),
    )
    found["floor-and-ceiling"] = max(_directions(e, m, generator) for e, m in (*FOUR, (4, 3)))
    laws = [_laws(e, m, generator) for e, m in FOUR + EIGHT]
    return found | {law: max(each[law] for each in laws) for law in laws[0]}


def _extremes(form: str, bias: float, expected: tuple[float, float, float]) -> float:
    """Relative deviation of the largest, smallest subnormal and smallest normal value."""
    mantissa = int(form[3])
    values = float_values(int(form[1]), mantissa, bias)
    got = torch.stack([values[-1], values[1], values[2**mantissa]])
    return _gap(got / torch.tensor(expected, dtype=torch.float64), [1.0, 1.0, 1.0])


def _image(exponent: int, mantissa: int) -> float:
    """Relative distance between the enumerated values and what Q makes of a dense input."""
    worst = 0.0
    for bias in (3, 0.37):
        values = float_values(exponent, mantissa, bias)
        middles = (values[1:] + values[:-1]) / 2
        dense = torch.cat([values, middles * (1 - 1e-9), middles * (1 + 1e-9), 2 * values[-1:]])
        image = fixed(exponent, mantissa, bias)(signed(dense)).unique()
        expected = signed(values)
        if len(image) != len(expected):
            return math.inf
        scale = expected.abs().clamp(min=float(values[1]))
        worst = max(worst, float(((image - expected) / scale).abs().max()))
    return worst


def _even() -> float:
    """E1M2 with maxval 7 against rounding to -7..7."""
    x = torch.linspace(-9, 9, 4001)
    ours = FloatGrid(1, 2, torch.tensor(7.0))(x)
    integer = Grid(torch.tensor(1.0), torch.tensor(0.0), -7, 7)(x)
    return max(_gap(ours, x.clamp(-7, 7).round()), _gap(ours, integer))


def _casts(
    e: int, m: int, bias: int, dtype: torch.dtype, largest: float, generator: torch.Generator
) -> float:
    """Number of values in range that a cast to an 8-bit float type maps elsewhere."""
    decades = 10 ** (6 * torch.rand(1_200_000, generator=generator) - 4)
    signs = torch.randint(0, 2, decades.shape, generator=generator) * 2 - 1
    x = torch.cat([decades * signs, torch.arange(-64 * 448, 64 * 448 + 1) / 64])
    x = x[x.abs() <= largest]
    ours = FloatGrid(e, m, torch.tensor(maxval_of_bias(e, m, bias)))(x)
    return float((ours != x.to(dtype).float()).sum())


def _directions(exponent: int, mantissa: int, generator: torch.Generator) -> float:
    """Distance to the grid of 20,000 normal weights rounded down and up."""
    w = torch.randn(20_000, dtype=torch.float64, generator=generator)
    quantiser = FloatGrid(exponent, mantissa, torch.tensor(2.0, dtype=torch.float64))
    values = quantiser(signed(float_values(exponent, mantissa, float(quantiser.bias))))
    worst = 0.0
    for up in (-torch.ones_like(w), torch.ones_like(w)):
        rounded = quantiser(w, hard_rounding(up))
        nearby = values[torch.searchsorted(values, rounded).clamp(max=len(values) - 1)]
        worst = max(worst, float((rounded - nearby).abs().max()))
    return worst


def _laws(exponent: int, mantissa: int, generator: torch.Generator) -> dict[str, float]:
    """Counts of 20,000 values that break a law of the quantiser."""
    x = torch.randn(20_000, generator=generator) ** 3
    maxval = torch.tensor(2.9)
    quantiser = FloatGrid(exponent, mantissa, maxval)
    y = quantiser(x)
    normal = (x.abs() >= quantiser.delta * 2**mantissa) & (x.abs() <= maxval)
    relative = (y - x).abs() > x.abs() * 2.0 ** -(mantissa + 1) * (1 + 1e-5)
    scaled = [
        FloatGrid(exponent, mantissa, 2.0**k * maxval)(2.0**k * x) != 2.0**k * y for k in (-5, 3)
    ]
    return {
        "power-of-two": float(sum(s.sum() for s in scaled)),
        "odd": float((quantiser(-x) != -y).sum()),
        "idempotent": float((quantiser(y) != y).sum()),
        "monotone": float((quantiser(x.sort().values).diff() < 0).sum()),
        "relative-error": float((relative & normal).sum()),
    }


# Accuracy of the formats --------------------------------------------------------------------------

_LAPLACE = Laplace(0.0, math.sqrt(0.5))
_DENSITIES = {
    "uniform": (lambda x: (x <= 1).double() / 2, 1.0, 1 / 3),
    "gaussian": (lambda x: torch.exp(-x * x / 2) / math.sqrt(2 * math.pi), 12.0, 1.0),
    "laplace": (lambda x: _LAPLACE.log_prob(x).exp(), 40.0, 1.0),
    "student-t": (lambda x: StudentT(8.0).log_prob(x).exp(), 60 * math.sqrt(8 / 6), 8 / 6),
}


def points(form: str) -> Tensor:
    """Ascending values of a format, float64, with the largest at 1."""
    if form.startswith("INT"):
        half = 2 ** (Form.of(form).bits - 1)
        return torch.arange(-half, half, dtype=torch.float64) / (half - 1)
    values = float_values(int(form[1]), int(form[3]), 0.0)
    return signed(values / values[-1])


@functools.cache
def ratios() -> dict[tuple[str, str], tuple[float, float]]:
    """(distribution, format) -> (best ratio of signal to noise in dB, its range in standard
    deviations), by quadrature on 400,002 points and a search over 400 ranges.

    Uniform: on [-1, 1], with ranges inside the data. Otherwise ranges end at 14 (8 bits) and 9 (4
    bits) standard deviations.
    """
    found = {}
    for name, (density, reach, variance) in _DENSITIES.items():
        x = torch.linspace(0, reach, 200_001, dtype=torch.float64)
        mass = density(x) * (x[1] - x[0])
        mass[[0, -1]] /= 2
        x, mass = torch.cat([-x.flip(0), x]), torch.cat([mass.flip(0), mass])
        sums = [torch.nn.functional.pad((mass * x**k).cumsum(0), (1, 0)) for k in (0, 1, 2)]
        for form in FORMATS:
            unit = points(form)
            widest = 14 if Form.of(form).bits == 8 else 9
            least, largest = (0.5, 1.0) if name == "uniform" else (0.3, widest)
            spans = torch.linspace(least, largest, 400, dtype=torch.float64)
            values = spans[:, None] * unit
            inner = torch.searchsorted(x, ((values[:, 1:] + values[:, :-1]) / 2).contiguous())
            edges = torch.nn.functional.pad(inner, (1, 0))
            edges = torch.cat([edges, torch.full_like(edges[:, :1], len(x))], 1)
            m0, m1, m2 = (s[edges].diff(dim=1) for s in sums)
            noise = (m2 - 2 * values * m1 + values.square() * m0).sum(1)
            best = int(noise.argmin())
            found[name, form] = (
                10 * math.log10(variance / float(noise[best])),
                float(spans[best]) / math.sqrt(variance),
            )
    return found


def ratio_errors() -> dict[str, float]:
    """Largest deviation from the table of ratios, in dB, for each distribution."""
    return {
        name: max(
            abs(ratios()[name, form][0] - value)
            for form, value in zip(FORMATS, expected, strict=True)
        )
        for name, expected in SQNR.items()
    }


def range_error() -> float:
    """Largest relative deviation from the tabulated best ranges."""
    return max(abs(ratios()[at][1] / value - 1) for at, value in BEST_RANGES.items())


def zeros(generator: torch.Generator) -> dict[tuple[str, str], float]:
    """(distribution, format) -> share of a million weights that become 0, range = max|w|."""
    draws = {
        "gaussian": torch.randn(WEIGHTS, generator=generator),
        "laplace": _LAPLACE.icdf(torch.rand(WEIGHTS, generator=generator).clamp(1e-7, 1 - 1e-7)),
    }
    return {
        (name, form): zero_share(w, grid(w, form, span="max"))
        for name, w in draws.items()
        for form in ZEROS
    }


def zero_errors(generator: torch.Generator) -> dict[str, float]:
    """Largest deviation from the tabulated shares in units of the tolerance, 12 % of the value and
    0.01 %: the range is the largest of a million draws, which differs from seed to seed.
    """
    shares = zeros(generator)
    return {
        name: max(
            abs(100 * shares[name, form] - values[place]) / (0.12 * values[place] + 0.01)
            for form, values in ZEROS.items()
        )
        for place, name in enumerate(("gaussian", "laplace"))
    }


def measure(job: Job) -> None:
    """Grids, printed values, casts of hardware, properties, signal-to-noise ratios, zeros."""
    for item, error in errors(job.rng("draws")).items():
        job.measure("error", error, item=item)
    for (distribution, form), (ratio, reach) in ratios().items():
        at = {"distribution": distribution, "format": form}
        job.measure("sqnr", ratio, **at)
        job.measure("best_range", reach, **at)
    for distribution, deviation in ratio_errors().items():
        job.measure("sqnr_error", deviation, distribution=distribution)
    job.measure("range_error", range_error())
    for (distribution, form), share in zeros(job.rng("zeros")).items():
        job.measure("zero_share", share, distribution=distribution, format=form)
    for distribution, deviation in zero_errors(job.rng("zeros")).items():
        job.measure("zero_error", deviation, distribution=distribution)
