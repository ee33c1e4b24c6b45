"""One file from an address, continued where an earlier attempt was broken off.

What has arrived lies in a part file; beside it ``<part>.of`` says of which address and version
(ETag or date) it is. A request for the rest names that version, so that a file that was replaced
meanwhile is fetched anew and not patched together. What comes in the file's place (a web page, a
pointer, nothing) is refused before it is kept.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from repro.data import cache
from repro.data.foreign import mistaken, reason

READ_TIMEOUT_S = 60
PASSING = (408, 416, 425, 429, 500, 502, 503, 504)
"""Answers after which another attempt may succeed."""

Tell = Callable[[int, int | None], None]
"""Takes the bytes that are here and those of the whole file, where they are known."""


class Unavailable(Exception):
    """A source cannot give its files here and now; the message is one short line."""


class Interrupted(Unavailable):
    """A transfer that may go on at another attempt."""


class Refused(Unavailable):
    """A server that will not give the file. ``code``: its answer, 0 for something else."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def _silent(done: int, total: int | None) -> None:
    return


def download(
    address: str,
    partial: Path,
    *,
    headers: Mapping[str, str] | None = None,
    tell: Tell = _silent,
) -> None:
    """Bring a part file up to the whole file.

    Args:
        partial: where it grows; it may hold what an earlier attempt fetched.
        headers: for this address alone; a server that it redirects to does not see them.
        tell: called as it grows.

    Raises:
        Interrupted: the network or the server failed; what has arrived stays.
        Refused: the server does not give it, or gives something else.
        repro.data.cache.CacheError: the disk is full or refuses.
    """
    with cache.explained(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
    request = _request(address, partial, have, headers or {})
    try:
        _receive(request, partial, have, tell)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it had arrived
            forget(partial)  # it is longer than the file: start anew next time
        message = f"{address} answered {error.code} {error.reason}".rstrip()
        if error.code in PASSING:
            raise Interrupted(message) from error
        raise Refused(message, error.code) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (*cache.FULL, *cache.REFUSED):
            raise cache.explain(partial, error) from error  # of our file, not of the network
        why = getattr(error, "reason", None) or reason(error)
        raise Interrupted(f"{address} cannot be reached ({why})") from error


def _receive(request: urllib.request.Request, partial: Path, have: int, tell: Tell) -> None:
    """Write what a server answers behind what is here, or in its place."""
    address = request.full_url
    with urllib.request.urlopen(request, timeout=READ_TIMEOUT_S) as reply:
        resumed = have > 0 and reply.status == 206
        start = have if resumed else 0
        expected = reply.headers.get("Content-Length")
        total = None if expected is None else start + int(expected)
        source = _Counted(reply, start, total, tell)
        if not resumed:
            source.begin(address)
        _note(partial, address, reply.headers)
        _room(partial, total, start)
        with open(partial, "ab" if resumed else "wb") as stream:
            shutil.copyfileobj(source, stream, cache.CHUNK)
    done = partial.stat().st_size - start
    if expected is not None and done < int(expected):
        raise Interrupted(f"{address} was cut short at {done} of {expected} bytes")


def forget(partial: Path) -> None:
    """Remove what an attempt left."""
    with cache.explained(partial):
        partial.unlink(missing_ok=True)
        _note_of(partial).unlink(missing_ok=True)


def finish(partial: Path, target: Path) -> None:
    """Give a whole file its place."""
    with cache.explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, target)
        _note_of(partial).unlink(missing_ok=True)


def _request(
    address: str, partial: Path, have: int, headers: Mapping[str, str]
) -> urllib.request.Request:
    request = urllib.request.Request(
        address, headers={"User-Agent": "repro-data", "Accept-Encoding": "identity"}
    )
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version := _version(partial, address):
            request.add_header("If-Range", version)
    return request


class _Counted:
    """A reply that tells how much of it was read."""

    def __init__(self, reply: IO[bytes], done: int, total: int | None, tell: Tell) -> None:
        self.reply, self.done, self.total, self.tell = reply, done, total, tell
        self.first = b""

    def begin(self, address: str) -> None:
        """Read the first bytes.

        Raises:
            Refused: they are of something else.
        """
        self.first = self.reply.read(4096)
        if wrong := mistaken(self.first[:512]):
            raise Refused(f"what {address} gives {wrong}")

    def read(self, size: int = -1) -> bytes:
        if self.first:
            cut = len(self.first) if size < 0 else size
            data, self.first = self.first[:cut], self.first[cut:]
        else:
            data = self.reply.read(size)
        if data:
            self.done += len(data)
            self.tell(self.done, self.total)
        return data


def _room(partial: Path, total: int | None, start: int) -> None:
    """Raises OSError where the disk has no room for the rest."""
    if total is not None:
        free = shutil.disk_usage(partial.parent).free
        if total - start > free:
            needs = f"{(total - start) / 1e6:,.0f} MB are to come, {free / 1e6:,.0f} MB are free"
            raise OSError(cache.FULL[0], needs, str(partial))


def _note_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.of")


def _note(partial: Path, address: str, headers: Any) -> None:
    """Keep which version of which address a part is of; without one nothing can be said."""
    tag = headers.get("ETag") or ""
    version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified") or ""
    content = json.dumps({"address": address.partition("?")[0], "version": version})
    _note_of(partial).write_text(content, encoding="utf-8")


def _version(partial: Path, address: str) -> str:
    """The version that a part is of; ``""`` where it is not known."""
    try:
        note = json.loads(_note_of(partial).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    known = isinstance(note, dict) and note.get("address") == address.partition("?")[0]
    version = note.get("version") if known else ""
    return version if isinstance(version, str) and version.isprintable() else ""
