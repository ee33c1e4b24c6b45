"""Coordinates of a measurement: what tells apart numbers of one name, as in ``steps=64``."""

from __future__ import annotations

import functools
import math


def at_key(at: dict[str, object]) -> str:
    """Canonical text of a measurement's coordinates, e.g. ``"batch=8,steps=64"``."""
    return ",".join(f"{k}={canonical(at[k])}" for k in sorted(at))


def from_key(key: str) -> dict[str, object]:
    """The coordinates that :func:`at_key` wrote, as numbers and words.

    Raises:
        ValueError: the text is not of that form.
    """
    return dict(_parts(key))


@functools.cache
def _parts(key: str) -> tuple[tuple[str, object], ...]:
    parts = []
    for part in key.split(",") if key else ():
        name, equals, text = part.partition("=")
        if not name or not equals:
            raise ValueError(f"`{key}` is not of the form name=value,name=value")
        parts.append((name, _value(text)))
    return tuple(parts)


def _value(text: str) -> object:
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number) or canonical(number) != text:
        return text
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def canonical(value: object) -> str:
    """One text for equal values: ``True``, ``64.0`` and ``"64"`` become true, 64 and 64."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    try:
        number = float(text)
    except ValueError:
        return text
    return canonical(number) if math.isfinite(number) else text
