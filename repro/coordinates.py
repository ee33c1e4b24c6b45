"""Coordinates of a measurement: what tells apart numbers of one name, as in ``steps=64``.

A *point* gives each coordinate a value. A *grid* gives each coordinate its possible values, and
holds every point that takes one of them for each. What an arm may measure under a name is the
union of some grids.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from repro.errors import ReproError, nearest

MOST_POINTS = 100_000
"""Most points of a grid that a reference with wildcards may run through."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)

Grid = Mapping[str, Collection[str]]
"""Coordinate → the canonical texts of its values. No coordinates: the one point that has none."""


def at_key(at: Mapping[str, object]) -> str:
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
    parts: list[tuple[str, object]] = []
    for part in key.split(",") if key else ():
        name, equals, text = part.partition("=")
        if not name or not equals:
            raise ValueError(f"`{key[:80]}` is not of the form name=value,name=value")
        if any(name == earlier for earlier, _ in parts):
            raise ValueError(f"`{key[:80]}` has the coordinate {name} twice")
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
    if not _NUMBER.fullmatch(text):  # float() also takes 1_000, other scripts' digits and blanks
        return text
    number = float(text)
    return canonical(number) if math.isfinite(number) else text


def holds(grid: Grid, point: Mapping[str, str]) -> bool:
    """Whether a grid holds a point of canonical values."""
    return grid.keys() == point.keys() and all(point[key] in grid[key] for key in point)


def matching(grid: Grid, at: Mapping[str, str]) -> list[str]:
    """Keys of the points of a grid that match one whose values may hold `*` for any text.

    Raises:
        ReproError: there are more than `MOST_POINTS` to look at.
    """
    if at.keys() != grid.keys():
        return []
    keys = sorted(at)
    values = [
        [v for v in grid[key] if fnmatchcase(v, at[key])]
        if "*" in at[key]
        else [at[key]] * (at[key] in grid[key])
        for key in keys
    ]
    if math.prod(map(len, values)) > MOST_POINTS:
        raise ReproError(f"`{at_key(at)}` means more than {MOST_POINTS} points of a grid")
    return [
        ",".join(f"{key}={value}" for key, value in zip(keys, point, strict=True))
        for point in itertools.product(*values)
    ]


def outside(at: Mapping[str, object], grids: Sequence[Grid]) -> str:
    """Why a point lies in none of the grids, with the nearest valid name; empty if it lies in one.

    Args:
        at: the point.
        grids: at least one.
    """
    point = {key: canonical(value) for key, value in at.items()}
    if any(holds(grid, point) for grid in grids):
        return ""
    return _other_keys(point, grids) or _other_values(point, grids)


def _other_keys(point: Mapping[str, str], grids: Sequence[Grid]) -> str:
    known = dict.fromkeys(key for grid in grids for key in grid)
    for key in point:
        if key not in known:
            return f"unknown coordinate `{key}`{nearest(key, known)}"
    if any(grid.keys() == point.keys() for grid in grids):
        return ""
    given = ", ".join(point) or "none"
    valid = dict.fromkeys(", ".join(grid) or "none" for grid in grids)
    return f"has the coordinates {' or '.join(valid)}, not {given}"


def _other_values(point: Mapping[str, str], grids: Sequence[Grid]) -> str:
    near = [grid for grid in grids if grid.keys() == point.keys()]
    for key, value in point.items():
        values = dict.fromkeys(v for grid in near for v in grid[key])
        if value not in values:
            return f"unknown {key} `{value}`{nearest(value, values)}"
    return f"no combination {at_key(point).replace(',', ', ')}"
