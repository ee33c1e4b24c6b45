"""Official files as cards declare them, where they lie, and what is here of them.

A publication is a folder under ``REPRO_DATA`` (its ``place``) and the files in it, all from one
source: a repository of the Hugging Face hub at a revision, an address, or a person who clicks.
What was fetched is kept in a receipt, ``official/.receipts/<name>.json``: SHA-256, size and origin
of every file, and the revision. A checksum that no card could know is recorded there at the first
fetch and holds from then on.

A file whose size and time are those of the receipt is not read again; `verify` reads all of it.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from repro import store
from repro.data import cache
from repro.data.foreign import check_file
from repro.errors import ReproError

Here = Literal["have", "part", "wrong", "none"]
"""Whole; broken off; something else in its place; nothing."""
RECEIPTS = "official/.receipts"


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub. Without a revision the first fetch takes the newest."""

    repository: str
    revision: str | None = None
    dataset: bool = False

    @property
    def page(self) -> str:
        """Its page, for people."""
        return f"https://huggingface.co/{'datasets/' if self.dataset else ''}{self.repository}"


@dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
        name: its path under the publication's folder; of what a person brings a pattern, ``a|b``
            for either.
        at: where it lies at the source, if not under its name.
        size: bytes, where they are known exactly; else ``megabytes`` says about how many.
        unpack: of an archive: pattern of members → folder that they go to, by their own names.
    """

    name: str
    at: str = ""
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    megabytes: float | None = None
    unpack: Mapping[str, str] | None = None

    @property
    def about(self) -> float | None:
        """Megabytes, as well as they are known."""
        return self.megabytes if self.size is None else self.size / 1e6


@dataclass(frozen=True)
class Published:
    """A publication: some files of one source, in one folder, under one licence.

    Attributes:
        asks: what a person has to agree to before it is fetched; ``""``: it is fetched unasked.
        papers: the papers that it belongs to.
        by_hand: for what no program may or can fetch: why, and where to click.
    """

    name: str
    title: str
    licence: str
    place: str
    papers: tuple[str, ...]
    files: tuple[File, ...]
    asks: str = ""
    hub: Hub | None = None
    url: str | None = None
    by_hand: str | None = None

    @property
    def folder(self) -> Path:
        return cache.root() / self.place

    @property
    def source(self) -> str:
        """Where it is published, in one line."""
        if self.hub is not None:
            at = f" at {self.hub.revision[:12]}" if self.hub.revision else ""
            return f"{self.hub.page}{at}"
        return self.url or self.by_hand or ""

    @property
    def identity(self) -> list[Any]:
        """What a result that reads it depends on, as far as the card says it."""
        hub = None if self.hub is None else [self.hub.repository, self.hub.revision]
        files = [[f.name, f.at, f.sha256, f.md5, f.size] for f in self.files]
        return [self.name, hub, self.url, files]

    def path(self, file: File) -> Path:
        return self.folder / file.name


def receipt_path(published: Published) -> Path:
    return cache.root() / RECEIPTS / f"{published.name}.json"


def receipt(published: Published) -> dict[str, Any]:
    """What was recorded of a publication; empty before its first fetch.

    Raises:
        ReproError: it was edited or is damaged.
    """
    path = receipt_path(published)
    if not path.is_file():
        return {}
    try:
        return store.read_sealed(path)
    except ReproError as error:
        raise ReproError(
            f"{str(error).partition(';')[0]}; delete it, and the next fetch records the files that "
            "are here"
        ) from error


def partial(path: Path) -> Path:
    """Where a file grows while it is fetched; readers of folders leave hidden files alone."""
    return path.with_name(f".{path.name}.part")


@dataclass(frozen=True)
class Found:
    """What is here of a file. ``note``: what is wrong with it, or who recorded it."""

    file: File
    here: Here
    note: str = ""
    done: int = 0
    """Bytes of a part."""


def look(published: Published, deep: bool = False) -> list[Found]:
    """What is here of each file.

    deep: read every file in full, instead of those alone that changed since they were recorded.
    """
    try:
        known = receipt(published)
    except ReproError as error:
        return [Found(file, "wrong", str(error)) for file in published.files]
    return [_look(published, file, known, deep) for file in published.files]


def _look(published: Published, file: File, known: Mapping[str, Any], deep: bool) -> Found:
    try:
        if published.by_hand is not None:
            return _look_by_hand(published, file, known, deep)
        if file.unpack is not None:
            return _look_unpacked(published, file, known, deep)
        path = published.path(file)
        if not path.exists():
            part = partial(path)
            return Found(file, "part", done=part.stat().st_size) if part.exists() else _none(file)
        wrong = fault(file, path, known.get("files", {}).get(file.name), deep)
        return Found(file, "wrong" if wrong else "have", wrong)
    except OSError as error:
        return Found(file, "wrong", f"cannot be read ({error.strerror or error})")


def _none(file: File) -> Found:
    return Found(file, "none")


def _look_by_hand(published: Published, file: File, known: Mapping[str, Any], deep: bool) -> Found:
    found = sorted(
        path
        for either in file.name.split("|")
        for path in published.folder.glob(either)
        if path.is_file() and not path.name.startswith(".")
    )
    recorded = known.get("files", {})
    for path in found:
        name = path.relative_to(published.folder).as_posix()
        if wrong := fault(file, path, recorded.get(name), deep):
            return Found(file, "wrong", f"{name} {wrong}")
    return Found(file, "have" if found else "none")


def _look_unpacked(published: Published, file: File, known: Mapping[str, Any], deep: bool) -> Found:
    recorded = {n: r for n, r in known.get("files", {}).items() if r.get("of") == file.name}
    if not recorded:
        return Found(file, "have") if all(unpacked(published, file)) else _archive(published, file)
    for name, record in recorded.items():
        path = published.folder / name
        if not path.exists():
            return _archive(published, file)
        if wrong := fault(File(name), path, record, deep):
            return Found(file, "wrong", f"{name} {wrong}")
    return Found(file, "have")


def _archive(published: Published, file: File) -> Found:
    part = partial(published.path(file))
    return Found(file, "part", done=part.stat().st_size) if part.exists() else _none(file)


def unpacked(published: Published, file: File) -> Iterator[list[Path]]:
    """For each pattern of an archive the files that are where its members go."""
    for pattern, folder in (file.unpack or {}).items():
        last = PurePosixPath(pattern).name
        inside = published.folder / folder
        yield sorted(
            path
            for path in (inside.iterdir() if inside.is_dir() else ())
            if fnmatch.fnmatchcase(path.name, last) and not path.name.startswith(".")
        )


def fault(file: File, path: Path, record: Mapping[str, Any] | None, deep: bool) -> str:
    """What is wrong with a file, as its card and its receipt have it; ``""`` for nothing.

    Raises:
        OSError: it cannot be read.
    """
    try:
        check_file(path)
    except ReproError as error:
        return str(error).removeprefix(f"{path} ").partition(";")[0]
    status = path.stat()
    size = file.size if file.size is not None else (record or {}).get("size")
    if size is not None and status.st_size != size:
        return f"has {status.st_size:,} bytes, not {size:,}"
    if record and not deep and status.st_mtime_ns == record.get("mtime_ns"):
        return ""
    if record is None and not deep:
        return ""  # it is verified and recorded by the next fetch
    return wrong_checksum(file, path, record)


def wrong_checksum(file: File, path: Path, record: Mapping[str, Any] | None) -> str:
    """How a file's checksum differs from what is known of it; ``""`` if it does not.

    Raises:
        OSError: it cannot be read.
    """
    expected = {
        "sha256": (file.sha256, "of the card"),
        "md5": (file.md5, "of the card"),
    }
    if record and file.sha256 is None:
        expected["sha256"] = (record.get("sha256"), f"recorded on {record.get('on', 'its fetch')}")
    for kind, (wanted, whose) in expected.items():
        if wanted:
            found = digest(path, kind)
            if found != wanted:
                name = {"sha256": "SHA-256", "md5": "MD5"}[kind]
                return f"has {name} {found[:16]}… and not {wanted[:16]}… ({whose})"
    return ""


def digest(path: Path, kind: str = "sha256") -> str:
    """A checksum of a file as hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
