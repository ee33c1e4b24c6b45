"""`official.yaml`: where the official files of a paper are published, and under which terms.

A card beside the others declares what belongs to one paper; `repro/official/official.yaml` what
several share. A name is unique in all of them: it is the folder under ``REPRO_DATA/official`` and
what arms list under ``official``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from repro import places
from repro.documents import quoted
from repro.errors import ReproError, nearest
from repro.official import published
from repro.places import short
from repro.suite.cards.base import Name, Params, Slug, Strict, Url
from repro.suite.cards.loading import read

CARD = "official.yaml"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


LONGEST_PART = 200
"""Most bytes of a file's name; while it is fetched it gets an ending."""


def _inside(path: str) -> str:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise ValueError(f"{quoted(path)} leaves its folder")
    if any(len(os.fsencode(part)) > LONGEST_PART for part in parts):
        raise ValueError(f"{quoted(path)} has a name of more than {LONGEST_PART} bytes")
    return path


Inside = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_inside)]
"""A path that stays in its folder."""


class Hub(Strict):
    """A repository of the Hugging Face hub.

    Attributes:
        revision: a commit. Without one the first fetch takes the newest and records it.
        dataset: whether it is one of data, not of models.
    """

    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    dataset: bool = False


class File(Strict):
    """A published file.

    Attributes:
        name: its path in the folder of the publication; by hand a pattern, ``a|b`` for either.
        at: where it lies at the source, if not under its name.
        size: bytes, where they are known exactly.
        megabytes: about how many, where they are not.
        sha256, md5: where they are known; else the first fetch records a SHA-256 and later ones
            hold the file against that.
        unpack: of an archive: pattern of members → folder that they go to, by their own names.
    """

    name: Inside
    at: str = ""
    size: Annotated[int, Field(gt=0)] | None = None
    megabytes: Annotated[float, Field(gt=0)] | None = None
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    unpack: Annotated[dict[str, Inside], Field(min_length=1)] | None = None


class Official(Strict):
    """Files that are published together: one source, one licence, one folder.

    Attributes:
        asks: what a person has to agree to first; without it they are fetched unasked.
        place: their folder under ``REPRO_DATA``, if not ``official/<name>``.
        papers: of what several papers share: which.
        hub, url, by_hand: where it is published; one of the three. ``url`` is the address of the
            folder; ``by_hand`` says why no program fetches it, and where to click.
        note: what else is known of it, and what is not.
    """

    title: str
    licence: Annotated[str, Field(min_length=1)]
    asks: str = ""
    place: Inside | None = None
    papers: list[Slug] = []
    hub: Hub | None = None
    url: Url | None = None
    by_hand: Annotated[str, Field(min_length=1)] | None = None
    files: Annotated[list[File], Field(min_length=1)]
    note: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.hub, self.url, self.by_hand)) != 1:
            raise ValueError("needs one of `hub`, `url` and `by_hand`")
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("a file stands twice")
        return self

    def published(self, name: str, papers: tuple[str, ...]) -> published.Published:
        hub = None if self.hub is None else published.Hub(**self.hub.model_dump())
        return published.Published(
            name=name,
            title=self.title,
            licence=self.licence,
            place=self.place or f"official/{name}",
            papers=papers,
            files=tuple(published.File(**file.model_dump()) for file in self.files),
            asks=self.asks,
            hub=hub,
            url=self.url,
            by_hand=self.by_hand,
        )


class OfficialFiles(Strict):
    """What is published, by name. ``none``: why there is nothing, where there is nothing."""

    official: dict[Name, Official] = {}
    none: str = ""


def everything(root: Path | None = None) -> dict[str, published.Published]:
    """All that the cards of a tree declare, by name.

    Raises:
        ReproError: a mistake in a card; a name that two cards declare.
    """
    return _everything(root or places.ROOT)


@functools.cache
def _everything(root: Path) -> dict[str, published.Published]:
    shared = root / "repro" / "official" / CARD
    found: dict[str, published.Published] = {}
    for path in [shared, *sorted((root / "methods").glob(f"*/{CARD}"))]:
        if not path.is_file():
            continue
        own = () if path == shared else (path.parent.name.replace("_", "-"),)
        for name, official in read(path, OfficialFiles).official.items():
            if name in found:
                raise ReproError(f"{short(path)}: official.{name}: another card declares it too")
            papers = tuple(dict.fromkeys((*own, *official.papers)))
            if not papers:
                raise ReproError(f"{short(path)}: official.{name}.papers: name those that share it")
            found[name] = official.published(name, papers)
    return found


def resolved(names: Iterable[str], params: Params) -> list[str]:
    """Names as a card lists them, with those of parameters in the place of ``$parameter``.

    Raises:
        ReproError: there is no such parameter, or it holds no names.
    """
    found: list[str] = []
    for name in names:
        if not name.startswith("$"):
            found.append(name)
            continue
        if name[1:] not in params:
            raise ReproError(f"`{name}` is no parameter{nearest(name[1:], params)}")
        value = params[name[1:]]
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise ReproError(f"`{name}` needs a name or a list of names, found {value!r}")
        found += values
    return list(dict.fromkeys(found))


def forget() -> None:
    """Let the cards be read again."""
    _everything.cache_clear()
