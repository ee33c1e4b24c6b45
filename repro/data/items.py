"""Which items of the data sets a job reads, and what for.

An item is an image, a document, or a slice of 1 mm of a volume, known by the hash of its content.
While a job runs, `catalogue.load` gives data sets that note which of their parts (a split, a
volume) are opened; whoever then takes some items of a part alone says so with `only`, else all of
it counts. What a job reads has one purpose, that of the job (a model is *trained*, an arm is
*measured*), unless its card says otherwise of a part.

Nothing here changes a number: `only`, `made` and `glance` are remarks (`repro.suite.definitions`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from repro.data.containers import OOD, TEST, TRAIN, Images, Text, Volumes
from repro.errors import ReproError

Purpose = Literal["trained", "tuned", "calibrated", "measured"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
FITTED: tuple[Purpose, ...] = ("trained", "tuned")
"""What is fitted to items may not be measured on them."""

Part = tuple[str, str]
"""A data set and its part: ``("fashion-mnist", "test")``, ``("mni152", "t1")``."""
Found = dict[Part, set[int]]
"""Part → numbers of its items."""

MADE = "made"
"""The part of items that are made up; their numbers are hashes of their streams."""

DIGEST = 8
"""Bytes of the hash of an item."""


def hashes(part: Part) -> list[bytes]:
    """The hash of every item of a part, in its order; computed once a process.

    Raises:
        ReproError: the data set cannot be obtained, or has no such part.
    """
    if part not in _hashes:
        from repro.data import catalogue

        name, which = part
        with paused():
            rows = _rows(catalogue.load(name))
        if which not in rows:
            raise ReproError(f"data set {name!r} has no part {which!r}; it has {', '.join(rows)}")
        _hashes[part] = [hashlib.blake2b(row, digest_size=DIGEST).digest() for row in rows[which]()]
    return _hashes[part]


_hashes: dict[Part, list[bytes]] = {}


def _rows(dataset: Any) -> dict[str, Callable[[], Iterator[bytes]]]:
    """Part → the content of its items."""
    if isinstance(dataset, Images):
        splits = {TRAIN: dataset.train, TEST: dataset.test}
        return {name: partial(_of_array, split.images) for name, split in splits.items()}
    if isinstance(dataset, Text):
        return {name: partial(_of_texts, dataset, name) for name in (TRAIN, TEST, OOD)}
    if isinstance(dataset, Volumes):
        volumes = {"t1": dataset.t1, "gm": dataset.gm, "wm": dataset.wm}
        return {name: partial(_of_array, volume, True) for name, volume in volumes.items()}
    return {}


def _of_array(rows: np.ndarray, placed: bool = False) -> Iterator[bytes]:
    """The bytes of each row; with its place where rows may be alike, as empty slices are."""
    return ((b"%d " % n if placed else b"") + row.tobytes() for n, row in enumerate(rows))


def _of_texts(dataset: Text, name: str) -> Iterator[bytes]:
    return (text.encode() for text in dataset.split(name))


# What one job reads ---------------------------------------------------------------------------


@dataclass
class Reading:
    """The items that a job has read so far.

    Attributes:
        purpose: of what it reads.
        other: purpose of a part, where the card gives it another.
        unknown: models whose items nobody recorded.
    """

    purpose: Purpose
    other: Mapping[Part, Purpose] = field(default_factory=dict)
    found: dict[Purpose, Found] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    _opened: list[tuple[Part, int]] = field(default_factory=list)
    _glances: list[str] = field(default_factory=list)

    def open(self, part: Part, count: int) -> None:
        """A part of so many items was opened; all of them count unless `only` follows."""
        if part[0] in self._glances:
            self._glances.remove(part[0])
        else:
            self._opened.append((part, count))

    def glance(self, dataset: str) -> None:
        """The next opening of a data set looks at no item, only at their shape or number."""
        self._glances.append(dataset)

    def only(self, dataset: str, numbers: Iterable[int]) -> None:
        """What was opened last of a data set gave these items and no others."""
        for at in reversed(range(len(self._opened))):
            if self._opened[at][0][0] == dataset:
                part, count = self._opened.pop(at)
                self._add(part, (n for n in map(int, numbers) if 0 <= n < count))
                return

    def make(self, dataset: str, streams: Iterable[Sequence[str | int]]) -> None:
        """Items were made up from these streams."""
        texts = ("/".join(map(str, stream)).encode() for stream in streams)
        digests = (hashlib.blake2b(text, digest_size=6).digest() for text in texts)
        self._add((dataset, MADE), (int.from_bytes(digest, "big") for digest in digests))

    def close(self) -> dict[Purpose, Found]:
        """All that was read, by purpose."""
        while self._opened:
            part, count = self._opened.pop()
            self._add(part, range(count))
        return self.found

    def _add(self, part: Part, numbers: Iterable[int]) -> None:
        purpose = self.other.get(part, self.purpose)
        chosen = set(numbers)
        if chosen:
            self.found.setdefault(purpose, {}).setdefault(part, set()).update(chosen)


_reading: list[Reading] = []


@contextmanager
def reading(job: Reading) -> Iterator[Reading]:
    """Note in it what is read inside the block."""
    _reading.append(job)
    try:
        yield job
    finally:
        _reading.pop()
        job.close()


@contextmanager
def paused() -> Iterator[None]:
    """Note nothing inside the block."""
    kept = _reading[:]
    _reading.clear()
    try:
        yield
    finally:
        _reading[:] = kept


def only(dataset: str, numbers: Iterable[int]) -> None:
    """A remark: what was opened last of a data set gave these items alone, numbered in their part.

    Args:
        numbers: may be empty, where only the shape of the items was looked at.
    """
    if _reading:
        _reading[-1].only(dataset, numbers)


def made(dataset: str, streams: Iterable[Sequence[str | int]]) -> None:
    """A remark: items were made up, each from the random stream of these names and its seed.

    A made-up item has no stored content; it is known by its stream.
    """
    if _reading:
        _reading[-1].make(dataset, streams)


def glance(dataset: str) -> None:
    """A remark: the next opening of a data set is for the shape of its items."""
    if _reading:
        _reading[-1].glance(dataset)


def watched(dataset: Any) -> Any:
    """A data set that notes what is opened of it, while a job runs."""
    kind = {Images: _Images, Text: _Text, Volumes: _Volumes}.get(type(dataset))
    if not _reading or kind is None:
        return dataset
    values = {f.name: getattr(dataset, f.name) for f in dataclasses.fields(dataset)}
    return kind(**values)


def _open(name: str, part: str, count: int) -> None:
    if _reading:
        _reading[-1].open((name, part), count)


class _Images(Images):
    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in (TRAIN, TEST):
            _open(self.name, name, len(value))
        return value


class _Text(Text):
    def split(self, name: str, source: str | None = None) -> list[str]:
        own = [d for d in self.__dict__["documents"] if d.split == name]
        _open(self.name, name, len(own))
        if source is not None:
            only(self.name, (n for n, d in enumerate(own) if d.source == source))
        return [d.text for d in own if source is None or d.source == source]

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "documents":  # past the splits: all of it
            for part in (TRAIN, TEST, OOD):
                _open(self.name, part, sum(d.split == part for d in value))
        return value


class _Volumes(Volumes):
    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in ("t1", "gm", "wm"):
            _open(self.name, name, len(value))
        return value


# As it is recorded ----------------------------------------------------------------------------


def recorded(found: Mapping[Purpose, Found], unknown: Sequence[str] = ()) -> dict[str, Any]:
    """What a record holds: for each purpose its parts, their items' numbers and one hash of them.

    ``{"measured": [{"data": "digits", "part": "test", "items": "0-296", "sha256": …}]}``, and under
    ``not recorded`` the models whose items nobody knows.
    """
    content: dict[str, Any] = {}
    for purpose in PURPOSES:
        for part, numbers in sorted(found.get(purpose, {}).items()):
            known = hashes(part) if part[1] != MADE else None
            rows = _keys(part, numbers) if known is None else [known[n] for n in sorted(numbers)]
            digest = hashlib.sha256(b"".join(rows)).hexdigest()
            row = {"data": part[0], "part": part[1], "items": ranges(numbers), "sha256": digest}
            content.setdefault(purpose, []).append(row)
    if unknown:
        content["not recorded"] = sorted(set(unknown))
    return content


def restored(content: Mapping[str, Any]) -> tuple[dict[Purpose, Found], list[str]]:
    """What `recorded` made: items by purpose, and models whose items nobody knows.

    Raises:
        ReproError: it is not of that form.
    """
    found: dict[Purpose, Found] = {}
    try:
        for purpose in PURPOSES:
            for row in content.get(purpose, []):
                part = (str(row["data"]), str(row["part"]))
                found.setdefault(purpose, {})[part] = numbers_of(row["items"])
        return found, [str(name) for name in content.get("not recorded", [])]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ReproError(f"the items of a record are not readable ({error!r})") from error


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as text: ``0-4,7``."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


MOST = 10_000_000
"""Most items of a range."""


def numbers_of(text: str) -> set[int]:
    """The numbers of `ranges`.

    Raises:
        ValueError: the text is no list of ranges.
    """
    found: set[int] = set()
    for run in text.split(",") if text else []:
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", run)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, MOST)
        if last - first >= MOST:
            raise ValueError(f"{run!r:.40} is no range of items")
        found.update(range(first, last + 1))
    return found


def union(*several: Mapping[Purpose, Found]) -> dict[Purpose, Found]:
    """Items of several jobs together."""
    found: dict[Purpose, Found] = {}
    for one in several:
        for purpose, parts in one.items():
            for part, numbers in parts.items():
                found.setdefault(purpose, {}).setdefault(part, set()).update(numbers)
    return found


def shared(measured: Found, fitted: Found) -> Found:
    """The measured items whose content is among the fitted ones, of whatever part or data set.

    Volumes of one head (``t1``, ``gm``, ``wm``) share their places.
    """
    if not measured or not fitted:
        return {}
    seen = {h for part, numbers in fitted.items() for h in _keys(part, numbers)}
    found: Found = {}
    for part, numbers in measured.items():
        keys = dict(zip(sorted(numbers), _keys(part, numbers), strict=True))
        if both := {n for n, key in keys.items() if key in seen}:
            found[part] = both
    return found


def _keys(part: Part, numbers: Iterable[int]) -> list[bytes]:
    """What identifies items: the hash of their content; of a volume, the place in the head."""
    if part[1] in ("t1", "gm", "wm", MADE):
        return [f"{part[0]} {n}".encode() for n in sorted(numbers)]
    known = hashes(part)
    return [known[n] for n in sorted(numbers)]
