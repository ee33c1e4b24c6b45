"""Read members of package archives: zip (wheels), tar (npm, official files), ar + tar (Debian).

Nothing is written to disk: the members that are asked for are read into memory, whatever the
operating system. An archive in which any member's name is absolute, climbs out by ``..``, or names
a drive is refused as a whole, and a member that is asked for must be a regular file, not a link.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from repro.data.foreign import check_file, reason
from repro.errors import ReproError

DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    IndexError,
    RuntimeError,  # an encrypted zip; a compression that zipfile lacks
    MemoryError,
)
"""What the libraries raise on archives that are damaged."""

LIMIT = 2 << 30
"""Most bytes that one call reads from an archive, against decompression bombs."""


def safe_name(name: str, archive: str) -> str:
    """Return a member's name without a leading ``./``.

    Raises:
        ReproError: the name would leave the folder that the archive is unpacked in.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"^[A-Za-z]:", name):
        raise ReproError(
            f"{archive} holds the unsafe path {name!r}; delete the archive and fetch it again"
        )
    return "/".join(part for part in parts if part not in ("", "."))


def gunzip(data: bytes, name: str) -> bytes:
    """Decompress gzip data; other data comes back as it is.

    Raises:
        ReproError: the data is cut short or damaged, or unpacks to more than `LIMIT` bytes.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            unpacked = stream.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ReproError(f"{name} is damaged ({reason(error)}); fetch it again") from error
    _check_size(len(unpacked), name)
    return unpacked


def read_members(path: Path, patterns: Iterable[str]) -> dict[str, bytes]:
    """Return the members of an archive whose names match a pattern (shell style).

    Args:
        path: a ``.whl``/``.zip``, ``.tgz``/``.tar.gz``/``.tar`` or ``.deb`` file.
        patterns: each must match one member at least.

    Returns:
        Their bytes by name, in the archive's order.

    Raises:
        ReproError: the archive is damaged or unsafe, or a pattern matches nothing.
    """
    patterns = list(patterns)
    check_file(path)
    try:
        with open(path, "rb") as stream:
            if path.suffix in (".whl", ".zip"):
                found = _read_zip(stream, patterns, path.name)
            elif path.suffix == ".deb":
                found = _read_tar(_data_member(stream, path.name), patterns, path.name)
            else:
                found = _read_tar(stream, patterns, path.name)
    except DAMAGE as error:
        raise ReproError(
            f"{path} is damaged ({reason(error)}); delete it and fetch it again"
        ) from error
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
            raise ReproError(f"{path} has no member {pattern}; fetch the version that is named")
    return found


def _wanted(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_size(total: int, archive: str) -> None:
    if total > LIMIT:
        raise ReproError(
            f"{archive} unpacks to more than {LIMIT} bytes; delete it and fetch it again"
        )


def _keep(found: dict[str, bytes], name: str, data: bytes, archive: str) -> None:
    if found.setdefault(name, data) != data:
        raise ReproError(
            f"{archive} holds two different files {name}; delete it and fetch it again"
        )


def _read_zip(stream: IO[bytes], patterns: list[str], archive: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    with zipfile.ZipFile(stream) as bundle:
        members = [(safe_name(i.filename, archive), i) for i in bundle.infolist()]
        for name, item in members:
            if item.is_dir() or not _wanted(name, patterns):
                continue
            if (item.external_attr >> 28) == 0xA:  # a symbolic link by its Unix mode
                raise ReproError(f"{archive} holds a link at {name}; a file is expected there")
            total += item.file_size
            _check_size(total, archive)
            _keep(found, name, bundle.read(item), archive)
    return found


def _read_tar(stream: IO[bytes], patterns: list[str], archive: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    with tarfile.open(fileobj=stream, mode="r:*") as bundle:
        for item in bundle:
            name = safe_name(item.name, archive)
            total += item.size  # of all members: what is not wanted is unpacked on the way
            _check_size(total, archive)
            if item.isdir() or not _wanted(name, patterns):
                continue
            reader = bundle.extractfile(item) if item.isreg() else None
            if reader is None:
                raise ReproError(f"{archive} holds a link at {name}; a file is expected there")
            _keep(found, name, reader.read(), archive)
        rest = bundle.fileobj
        while rest is not None and (data := rest.read(1 << 20)):  # to the checksum at the end
            total += len(data)
            _check_size(total, archive)
    return found


def _data_member(stream: IO[bytes], archive: str) -> IO[bytes]:
    """Return the ``data.tar.*`` of a Debian package (deb(5): an ar archive of three members)."""
    if stream.read(8) != b"!<arch>\n":
        raise ReproError(f"{archive} is not a Debian package; delete it and fetch it again")
    while header := stream.read(60):
        if len(header) < 60 or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise ReproError(f"{archive} is damaged; delete it and fetch it again")
        name, size = header[:16].decode("latin-1").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise ReproError(f"{archive} is zstandard-compressed; take the version named")
            data = stream.read(size)
            if len(data) < size:
                raise ReproError(f"{archive} is cut short; delete it and fetch it again")
            return io.BytesIO(data)
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise ReproError(f"{archive} holds no data.tar; delete it and fetch it again")
