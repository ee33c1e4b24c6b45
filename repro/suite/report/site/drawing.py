"""Forest plots as SVG: effects on one axis, in units of the least effect that matters.

The axis is linear near 0 and logarithmic beyond (an inverse hyperbolic sine), the same in every
plot of the site, so that lengths compare. Verdicts have shapes of their own beside their colours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from repro.suite.report.formatting import number
from repro.suite.report.site.effects import Effect

ENDS = (-30.0, 100.0)
"""The axis; what lies beyond ends in an arrow."""

TICKS = (-10, -1, 0, 1, 10, 100)


@dataclass(frozen=True)
class Mark:
    """An effect as it is drawn."""

    effect: Effect
    verdict: str


def place(value: float, width: float) -> float:
    """Position of an effect on an axis of a width."""
    low, high = map(math.asinh, ENDS)
    share = (math.asinh(min(max(value, ENDS[0]), ENDS[1])) - low) / (high - low)
    return round(2 + share * (width - 4), 1)


def words(effect: Effect) -> str:
    """`2.3 times the least that matters [1.1, 3.5]`."""
    ends = f" [{number(effect.low, '.2g')}, {number(effect.high, '.2g')}]"
    own = "" if effect.low == effect.high else ends
    return f"{number(effect.value, '.2g')} times the least that matters{own}"


def axis(width: int, height: float) -> str:
    """The lines at no effect and at the least that matters, and the side beyond that."""
    least, none, loss = (place(v, width) for v in (1, 0, -1))
    return (
        f'<path class="ok" d="M{least:g} 0H{width}V{height:g}H{least:g}z"/>'
        f'<path class="gl" d="M{least:g} 0V{height:g}M{loss:g} 0V{height:g}"/>'
        f'<path class="g0" d="M{none:g} 0V{height:g}"/>'
    )


def small(mark: Mark, width: int = 170, height: int = 20) -> Markup:
    """One effect for a row of the index; the axis is drawn by the row's own `use`."""
    label = f"{mark.verdict}: {words(mark.effect)}"
    if mark.effect.paper is not None:
        label += f"; paper {number(mark.effect.paper, '.2g')}"
    return Markup(
        f'<svg class="fx {escape(mark.verdict)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(label)}"><use href="#axis"/>'
        f"{_bar(mark, width, height / 2)}</svg>"
    )


def large(mark: Mark, width: int = 300) -> Markup:
    """One effect with its seeds, the paper's effect and the numbers of the axis."""
    height, y = 46, 15.0
    effect = mark.effect
    seeds = "".join(
        f'<circle class="seed" cx="{place(v, width):g}" cy="28" r="1.7"/>'
        for v in (effect.seeds if len(effect.seeds) > 1 else ())
    )
    return Markup(
        f'<svg class="fx {escape(mark.verdict)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(_label(mark))}">'
        f"{axis(width, 33)}{_bar(mark, width, y, 5)}{seeds}{_numbers(width, height - 3)}</svg>"
    )


def _label(mark: Mark) -> str:
    text = f"{mark.verdict}: {words(mark.effect)}; the claim holds beyond {mark.effect.threshold:g}"
    if mark.effect.paper is not None:
        text += f"; the paper's own effect is {number(mark.effect.paper, '.2g')}"
    return text


def _numbers(width: int, y: float) -> str:
    return "".join(
        f'<text x="{place(tick, width):g}" y="{y:g}">{number(tick)}</text>' for tick in TICKS
    )


def strip(marks: Sequence[Mark], width: int = 520, lane: int = 8, least: int = 52) -> Markup:
    """All effects of a paper below each other, largest first, with intervals."""
    ordered = sorted(marks, key=lambda mark: -mark.effect.value)
    height = max(least, len(ordered) * lane + 10)
    top = (height - len(ordered) * lane) / 2
    counts = Counter(mark.verdict for mark in ordered)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none"
    bars = "".join(
        f'<g class="{escape(mark.verdict)}">{_bar(mark, width, top + lane * (i + 0.5), 3)}</g>'
        for i, mark in enumerate(ordered)
    )
    return Markup(
        f'<svg class="fx strip" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{len(ordered)} effects: {escape(said)}">'
        f"{axis(width, height)}{bars}</svg>"
    )


def scale(width: int = 520) -> Markup:
    """The numbers of the axis on their own, for the head of a column."""
    return Markup(
        f'<svg class="fx scale" viewBox="0 0 {width} 14" aria-hidden="true">'
        f"{_numbers(width, 11)}</svg>"
    )


def _bar(mark: Mark, width: int, y: float, r: float = 4) -> str:
    """Interval, threshold, the paper's effect and the mean, in this order upwards."""
    effect = mark.effect
    low, high, mean = (place(v, width) for v in (effect.low, effect.high, effect.value))
    parts = []
    if effect.threshold < 0:
        parts.append(f'<path class="th" d="M{place(-1, width):g} {y - r:g}v{2 * r:g}"/>')
    if high > low:
        parts.append(f'<path class="iv" d="M{low:g} {y:g}H{high:g}"/>')
    for end, way in ((effect.low < ENDS[0], -1), (effect.high > ENDS[1], 1)):
        if end:
            x = place(ENDS[0] if way < 0 else ENDS[1], width)
            parts.append(
                f'<path class="ar" d="M{x - 3 * way:g} {y - 3:g}l{3 * way} 3l{-3 * way} 3"/>'
            )
    if effect.paper is not None:
        x, d = place(effect.paper, width), r + 0.5
        parts.append(
            f'<path class="pp" d="M{x:g} {y - d:g}l{d:g} {d:g}l-{d:g} {d:g}l-{d:g} -{d:g}z"/>'
        )
    parts.append(f'<path class="mk" d="{_shape(mark.verdict, mean, y, r)}"/>')
    return "".join(parts)


def _shape(verdict: str, x: float, y: float, r: float) -> str:
    """A disc, a cross or a square: verdicts are told apart without colours."""
    if verdict == "contradicted":
        d = r * 0.9
        return f"M{x - d:g} {y - d:g}l{2 * d:g} {2 * d:g}m0 -{2 * d:g}l-{2 * d:g} {2 * d:g}"
    if verdict == "reproduced":
        return f"M{x - r:g} {y:g}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 -{2 * r:g} 0z"
    d = r * 0.85
    return f"M{x - d:g} {y - d:g}h{2 * d:g}v{2 * d:g}h-{2 * d:g}z"
