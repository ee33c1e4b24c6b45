"""What all cards share: strict, frozen models and the types of their keys."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from repro.documents import quoted

LONGEST = 60
"""Most letters of a name: it becomes that of a file, with an ending."""
Value = float | int | str | None
NAME = r"[a-z0-9][a-z0-9.-]*"
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=LONGEST)]
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=LONGEST)]
"""Of a method; with underscores it is the name of a Python package."""
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=LONGEST)]
Dotted = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", max_length=200),
]
LARGEST = 2**63 - 1
"""Magnitude of the largest whole number of a card: what arrays hold."""

WEB_ADDRESS = re.compile(r"https?://[^\s<>\"'`\\]+")
"""An address that a page may link to."""
Url = Annotated[str, Field(pattern=f"^{WEB_ADDRESS.pattern}$")]


class Strict(BaseModel):
    """A card or a part of one.

    An unknown key is an error, and so is a value of another type: `yes`, "3" and 1.0 are no number
    of seeds. Numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _plain(value: Any) -> Any:
    """A value that a record can hold: text, finite numbers, and lists and mappings of such.

    Raises:
        ValueError: it is or holds something else.
    """
    if isinstance(value, list):
        for item in value:
            _plain(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {quoted(key)} is not text")
            _plain(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError("holds a whole number of more than 63 bits")
    elif not isinstance(value, str | float | int | None):
        raise ValueError(f"a {type(value).__name__} is neither a number nor text")
    return value


Params = dict[Identifier, Annotated[Any, AfterValidator(_plain)]]


def named(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is among those that a card lists, where `*` stands for any text."""
    return any(
        name == pattern or ("*" in pattern and fnmatchcase(name, pattern)) for pattern in patterns
    )


def unique_ids(kind: str, ids: list[str]) -> None:
    """Raises ValueError where an id stands twice."""
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    if repeated:
        raise ValueError(f"{kind} id `{repeated[0]}` stands twice")
