"""How numbers are written, the same in Markdown, CSV and HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.suite import inference


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with the half-width of its interval (None for a single seed)."""

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
    """Mean of values over seeds with the interval by which checks are judged.

    Its half-width is that of `repro.suite.inference`, which assumes that seeds are independent and
    roughly normal; with three seeds it is wide, as it should be.

    Raises:
        ValueError: no values.
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        raise ValueError("no values to summarise")
    if len(x) == 1 or x.min() == x.max():
        return Summary(len(x), float(x[0]), None if len(x) == 1 else 0.0)
    found = inference.evidence(x)
    return Summary(found.n, found.mean, found.half_width)


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


def margin(check: Mapping[str, Any]) -> str:
    """The margin of a check and, over several seeds, its interval: `×1.4 [×1.1, ×1.8]`."""
    value, low, high = (check.get(key) for key in ("margin", "margin_low", "margin_high"))
    text = _effect(check, value)
    if low is None or high is None or (low == high and check.get("n_seeds", 1) <= 1):
        return text
    return f"{text} [{_effect(check, low)}, {_effect(check, high)}]"


def detectable(check: Mapping[str, Any]) -> str:
    """The smallest margin that a check could have found, as the margin is written."""
    return _effect(check, check.get("smallest_detectable"), ".2g")


def _effect(check: Mapping[str, Any], value: float | None, spec: str = ".3g") -> str:
    if value is None or not check.get("by_ratio"):
        return number(value, spec)
    return f"×{number(math.exp(min(value, 700.0)), spec)}"


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
