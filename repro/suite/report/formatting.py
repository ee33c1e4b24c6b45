"""How numbers are written, the same in Markdown, CSV and HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with the half-width of its 95 % interval (None for a single seed)."""

    n: int
    mean: float
    half: float | None

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


def summarise(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean and t-interval of values over seeds.

    The half-width is t_{0.975, n-1} · s / √n (Student 1908), which assumes that seeds are
    independent and roughly normal; with two or three seeds it is wide, as it should be.

    Raises:
        ValueError: no values.
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        raise ValueError("no values to summarise")
    if len(x) == 1:
        return Summary(1, float(x[0]), None)
    if x.min() == x.max():
        return Summary(len(x), float(x[0]), 0.0)
    from scipy.special import stdtrit

    spread = float(np.std(x, ddof=1))
    return Summary(
        len(x), float(np.mean(x)), float(stdtrit(len(x) - 1, 0.975)) * spread / math.sqrt(len(x))
    )


def number(value: float | int | None, spec: str = ".4g") -> str:
    """A number as people write it: 162,265,682 rather than 1.623e+08, and "–" for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    value = float(value)
    if value == 0:
        return "0" if spec[-1:] in "ge" else f"{0:{spec}}"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    whole = value.is_integer() and 1000 <= abs(value) < 1e15
    text = f"{int(value):,}" if whole and spec.endswith(("g", "d")) else _format(value, spec)
    if text.startswith("-"):
        text = "−" + text[1:]
    return text.replace("e-0", "e-").replace("e+0", "e+").replace("e-", "e−")


def _format(value: float, spec: str) -> str:
    if spec.endswith("d"):
        return f"{round(value):{spec}}"
    text = f"{value:{spec}}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def with_interval(summary: Summary, spec: str = ".4g") -> str:
    """`0.631 ± 0.004`: the half-width has the decimals of the mean, or one digit if finer."""
    text = number(summary.mean, spec)
    if not summary.half:
        return text
    plain = f"{summary.mean:{spec}}"
    half = None
    if "e" not in plain:
        decimals = len(plain.partition(".")[2])
        half = f"{summary.half:.{decimals}f}"
        if float(half) == 0:
            half = None
    return f"{text} ± {half or number(summary.half, '.1g')}"


def interval(low: float | None, high: float | None, spec: str = ".3g") -> str:
    """`[0.1, 0.3]`."""
    return f"[{number(low, spec)}, {number(high, spec)}]"


def seconds(value: float | None) -> str:
    """A duration: `0.03 s`, `0.8 s`, `42 s`, `3 min 20 s`, `2 h 5 min`."""
    if value is None:
        return "–"
    if value < 0.1:
        return f"{value:.1g} s"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
