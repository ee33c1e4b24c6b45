"""Fetching official files: each whole, verified and recorded, or not at all.

A file grows in a hidden part beside its place; broken off, it goes on at the next attempt or the
next run. It gets its name when its size and checksum are right: those of the card, of the hub, or
those that the first fetch recorded. Archives are unpacked member by member with a path check.
One that cannot be had does not stop the others.
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import functools
import hashlib
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from repro import store
from repro.data import cache
from repro.data.archives import DAMAGE, safe_name
from repro.data.download import Interrupted, Refused, Tell, Unavailable, download, finish, forget
from repro.data.foreign import reason
from repro.errors import ReproError
from repro.official import hub
from repro.official.published import (
    File,
    Found,
    Published,
    digest,
    fault,
    look,
    partial,
    receipt,
    receipt_path,
    unpacked,
)

PAUSES_S: tuple[float, ...] = (1, 5, 20)
"""Pauses between the attempts at one file."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file. ``problem``: why it is not here; ``""`` where it is."""

    published: Published
    file: File
    problem: str = ""
    fetched: bool = False


Watch = Callable[[Published, File], contextlib.AbstractContextManager[Tell]]
"""Shows the transfer of a file."""


@contextlib.contextmanager
def unwatched(published: Published, file: File) -> Iterator[Tell]:
    """Shows nothing."""
    yield lambda done, total: None


def fetch(
    wanted: Iterable[Published], accepted: Collection[str] = (), watch: Watch = unwatched
) -> list[Outcome]:
    """Have every file of some publications, as far as they can be had.

    Args:
        accepted: the names of those whose terms the person agrees to.

    Raises:
        repro.data.cache.CacheError: the data folder cannot be written or is full.
    """
    return [outcome for one in wanted for outcome in _fetch(one, one.name in accepted, watch)]


def _fetch(published: Published, accepted: bool, watch: Watch) -> Iterator[Outcome]:
    if _is_settled(published):
        yield from (Outcome(published, file) for file in published.files)
        return
    with cache.lock(f"official-{published.name}"):
        try:
            moved = _has_moved(published)
        except ReproError as error:  # the receipt is damaged
            yield from (Outcome(published, file, str(error)) for file in published.files)
            return
        for found in look(published):
            try:
                yield _have(published, found, accepted, moved, watch)
            except (Unavailable, ReproError) as error:
                if isinstance(error, cache.CacheError):
                    raise
                yield Outcome(published, found.file, str(error))


def _is_settled(published: Published) -> bool:
    """Whether all files are here as they were recorded; a folder that is read-only may be so."""
    if any(found.here != "have" for found in look(published)) or _has_moved(published):
        return False
    records = receipt(published).get("files", {})
    return all(_is_recorded(published, path, records) for path in _all_paths(published))


def _is_recorded(published: Published, path: Path, records: Mapping[str, Any]) -> bool:
    record = records.get(path.relative_to(published.folder).as_posix())
    if not record:
        return False
    now = path.stat()
    return (record["mtime_ns"], record["size"]) == (now.st_mtime_ns, now.st_size)


def _has_moved(published: Published) -> bool:
    """Whether the card names another revision than that which was fetched."""
    known = receipt(published)
    return bool(known) and known.get("revision") != _revision(published, known)


def _revision(published: Published, known: Mapping[str, Any]) -> str | None:
    """The revision that counts: of the card, else that of the first fetch."""
    declared = published.hub.revision if published.hub else None
    return declared or known.get("revision")


def _have(published: Published, found: Found, accepted: bool, moved: bool, watch: Watch) -> Outcome:
    file = found.file
    if found.here == "have" and not moved:
        return _recorded(published, file, receipt(published))
    if published.by_hand is not None:
        wrong = f"{found.note}; " if found.note else ""
        raise Refused(f"{wrong}by hand: {published.by_hand} Put it into {published.folder}")
    if cache.offline():
        raise Refused("REPRO_OFFLINE forbids the network")
    if published.asks and not accepted:
        raise Refused(f"{published.asks}; agree with `--accept {published.name}`")
    _transfer(published, file, {} if moved else receipt(published), watch)
    return Outcome(published, file, fetched=True)


def _recorded(published: Published, file: File, known: Mapping[str, Any]) -> Outcome:
    """A file that is here; what is not recorded is verified as far as may be, and recorded."""
    have, fresh = known.get("files", {}), {}
    for path in _paths(published, file):
        if _is_recorded(published, path, have):
            continue
        name = path.relative_to(published.folder).as_posix()
        record = have.get(name)
        single = file if file.unpack is None and published.by_hand is None else File(name)
        if wrong := fault(single, path, record, deep=True):
            raise ReproError(f"{path} {wrong}; delete it and fetch it again")
        origin = record["from"] if record else "brought by hand"
        fresh[name] = _record(path, origin, file, digest(path))
    if fresh:
        _write(published, fresh, _revision(published, known))
    return Outcome(published, file)


def _all_paths(published: Published) -> Iterator[Path]:
    return (path for file in published.files for path in _paths(published, file))


def _paths(published: Published, file: File) -> list[Path]:
    if file.unpack is not None:
        return [path for group in unpacked(published, file) for path in group]
    if published.by_hand is None:
        return [published.path(file)]
    return [
        path
        for either in file.name.split("|")
        for path in sorted(published.folder.glob(either))
        if path.is_file() and not path.name.startswith(".")
    ]


# Transfer ---------------------------------------------------------------------------------------


def _located(published: Published, file: File, known: Mapping[str, Any]) -> hub.Located:
    if published.hub is not None:
        return hub.locate(published.hub, _revision(published, known), file.at or file.name)
    base = (published.url or "").rstrip("/")
    return hub.Located(f"{base}/{file.at or quote(file.name)}")


def _transfer(published: Published, file: File, known: Mapping[str, Any], watch: Watch) -> None:
    part = partial(published.path(file))
    kind = "files" if file.unpack is None else "archives"
    record = known.get(kind, {}).get(file.name)
    with watch(published, file) as tell:
        for pause in (*PAUSES_S, None):
            resumed, before = part.exists(), _size(part)
            try:
                found = _located(published, file, known)
                download(found.address, part, headers=found.headers, tell=tell)
            except Interrupted:
                fruitless = _size(part) <= before
                if pause is None or (fruitless and pause != PAUSES_S[0]):
                    raise
                time.sleep(pause)
                continue
            sha256 = digest(part)
            wrong = _wrong(file, found, part, sha256, record)
            if not wrong:
                _keep(published, file, found, part, sha256)
                return
            forget(part)
            if not resumed:  # else the part may have been of another file
                break
    raise Refused(f"{found.address.partition('?')[0]} gives a file that {wrong}")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _wrong(
    file: File, found: hub.Located, part: Path, sha256: str, record: Mapping[str, Any] | None
) -> str:
    """How what arrived differs from the card, the hub and the first fetch; ``""`` if not."""
    size = part.stat().st_size
    for expected, whose in ((file.size, "the card"), (found.size, "the hub")):
        if expected is not None and size != expected:
            return f"has {size:,} bytes, and by {whose} {expected:,}"
    first = record or {}
    for known, whose in (
        (file.sha256, "of the card"),
        (found.sha256, "that the hub names"),
        (first.get("sha256"), f"recorded at the first fetch, on {first.get('on')}"),
    ):
        if known and known != sha256:
            return f"has SHA-256 {sha256[:16]}… and not {known[:16]}… ({whose})"
    if file.md5 and digest(part, "md5") != file.md5:
        return f"has another MD5 than {file.md5[:16]}… (of the card)"
    if found.git_sha1 and _git_sha1(part) != found.git_sha1:
        return f"has another hash than {found.git_sha1[:16]}… (that the hub names)"
    return ""


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()  # the hub keeps what is large as LFS, by SHA-256
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _keep(published: Published, file: File, found: hub.Located, part: Path, sha256: str) -> None:
    """Give what arrived its place, and record it."""
    path, origin = published.path(file), found.address.partition("?")[0]
    if file.unpack is None:
        finish(part, path)
        _write(published, {file.name: _record(path, origin, file, sha256)}, found.revision)
        return
    archive = _record(part, origin, file, sha256)
    made = path.with_name(f".{path.name}.unpacked")
    with store.atomic_folder(made) as folder:
        names = unpack(part, file.unpack, folder)
    records = {}
    with cache.explained(published.folder):
        for name in names:
            target = published.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made / name, target)
            records[name] = _record(target, origin, file, digest(target))
        shutil.rmtree(made, ignore_errors=True)
    _write(published, records, found.revision, {file.name: archive})
    forget(part)


def _record(path: Path, origin: str, file: File, sha256: str) -> dict[str, Any]:
    status = path.stat()
    return {
        "sha256": sha256,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "from": origin,
        "of": file.name,
        "on": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _write(
    published: Published,
    files: Mapping[str, Any],
    revision: str | None,
    archives: Mapping[str, Any] | None = None,
) -> None:
    known = receipt(published)
    same = known.get("revision") == revision
    content = {
        "name": published.name,
        "source": published.source,
        "revision": revision,
        "files": {**(known.get("files", {}) if same else {}), **files},
        "archives": {**(known.get("archives", {}) if same else {}), **(archives or {})},
    }
    store.write_sealed(receipt_path(published), content)


# Archives ---------------------------------------------------------------------------------------


def unpack(archive: Path, where: Mapping[str, str], folder: Path) -> list[str]:
    """Unpack the members of a zip or tar that are wanted; returns their paths under the folder.

    where: pattern of members → folder that they go to, by their own names.

    Raises:
        ReproError: damaged, a member outside its folder, a link, two members of one name, or a
            pattern without a member.
    """
    written: list[str] = []
    met: set[str] = set()
    try:
        for name, reader in _members(archive):
            pattern = next((p for p in where if fnmatch.fnmatchcase(name, p)), None)
            if pattern is None:
                continue
            target = f"{where[pattern]}/{PurePosixPath(name).name}".removeprefix("./")
            if target in written:
                raise ReproError(f"{archive} holds {target} twice; delete it and fetch it again")
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with reader() as stream, open(path, "wb") as out:
                shutil.copyfileobj(stream, out, cache.CHUNK)
            written.append(target)
            met.add(pattern)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (*cache.FULL, *cache.REFUSED):
            raise cache.explain(folder, error) from error
        raise ReproError(f"{archive} is damaged ({reason(error)}); fetch it again") from error
    if lacking := [pattern for pattern in where if pattern not in met]:
        raise ReproError(f"{archive} has no member {lacking[0]}; the archive is another than meant")
    return written


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """The regular files of an archive by safe name, each with what opens it."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for item in bundle.infolist():
                name = safe_name(item.filename, archive.name)
                if not item.is_dir() and (item.external_attr >> 28) != 0xA:  # nor a link
                    yield name, functools.partial(bundle.open, item)
        return
    with tarfile.open(archive, mode="r:*") as tar:
        for member in tar:
            name = safe_name(member.name, archive.name)
            if member.isreg():
                yield name, functools.partial(_opened, tar, member)


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise ReproError(f"{member.name} is no file")
    return stream


# What is missing ----------------------------------------------------------------------------------


def missing(wanted: Iterable[Published], why: Mapping[str, str] | None = None) -> list[str]:
    """A phrase for each publication that is not whole here; nothing is fetched or read in full.

    why: by name, why one could not be fetched.
    """
    lines = []
    for published in wanted:
        lacking = [found for found in look(published) if found.here != "have"]
        if lacking:
            first = lacking[0]
            what = f"{first.file.name} {first.note}" if first.note else first.file.name
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            lines.append(f"{published.name}: {what}{more}{_how(published, why or {})}")
    return lines


def _how(published: Published, why: Mapping[str, str]) -> str:
    if published.by_hand is not None:
        return " (by hand)"
    if published.asks:
        return " (has terms to agree to)"
    return f" ({why[published.name]})" if published.name in why else ""


def ensure(
    wanted: Iterable[Published], who: str, command: str, why: Mapping[str, str] | None = None
) -> None:
    """See that all official files of a job are here, before it computes.

    Raises:
        ReproError: some are not; all of them are named.
    """
    if lines := missing(wanted, why):
        raise ReproError(
            f"{who} misses official files under {cache.root()}: {'; '.join(lines)}; "
            f"`{command}` says how to get them and fetches what may be fetched"
        )


def verify(wanted: Iterable[Published]) -> list[str]:
    """Read all files in full; a line for each that is not what its card or its receipt says."""
    return [
        f"{published.place}/{found.file.name}: {found.note}"
        for published in wanted
        for found in look(published, deep=True)
        if found.here == "wrong"
    ]
