"""What all cards share: strict, frozen models and the types of their keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Value = float | int | str | None
NAME = r"[a-z0-9][a-z0-9.-]*"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Dotted = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Params = dict[str, Any]

WEB_ADDRESS = re.compile(r"https?://[^\s<>\"'`\\]+")
"""An address that a page may link to."""
Url = Annotated[str, Field(pattern=f"^{WEB_ADDRESS.pattern}$")]


class Strict(BaseModel):
    """A card or a part of one: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
