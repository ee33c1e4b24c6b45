"""Where data sets live on disk, and how they get there whole or not at all.

The cache folder is ``$REPRO_DATA``, else ``$XDG_CACHE_HOME/repro-data``, else
``~/.cache/repro-data``. Inside it::

    downloads/<file>                 packages and official files, as they were fetched or put there
    datasets/<name>-<content>/       one decoded data set; <content> starts its content checksum
    datasets/<name>-<content>/manifest.json
    locks/                           one lock file per data set and per download
    tmp/                             work in progress; anything in it may be deleted

A data set's folder is written under ``tmp`` and renamed into place when it is whole, so a process
may be killed at any instant. Two processes that prepare the same data set wait for one another.
Modes of files and folders follow the umask. A folder that is filled may be read-only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from repro import environment
from repro.data.foreign import check_numpy, reason
from repro.errors import ReproError

log = logging.getLogger("repro.data")

Content = Mapping[str, "np.ndarray | bytes"]
"""A decoded data set: arrays, and files that are kept byte by byte, by name."""

ARRAYS = "arrays.npz"
MANIFEST = "manifest.json"
CHUNK = 1 << 20
STALE_S = 24 * 3600
PATIENCE_S = 5
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY,
)  # fmt: skip


class CacheError(ReproError):
    """The cache folder itself cannot be read or written; no source of data is at fault."""


def root() -> Path:
    """Return the cache folder (it need not exist yet).

    Raises:
        ReproError: no variable names it and there is no home folder.
    """
    return environment.data().absolute()  # package clients run in folders of their own


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Let what the system refuses about ``path`` be said in one line, with the remedy.

    Raises:
        CacheError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise explain(path, error) from error


def explain(path: Path, error: OSError) -> CacheError:
    """The error for what the system refuses about ``path``."""
    said = error.strerror or reason(error)
    path = Path(error.filename) if isinstance(error.filename, str) else path
    if error.errno in FULL:
        return CacheError(
            f"{path}: the disk is full ({said}); free some space and run the same command again, "
            "what is fetched stays"
        )
    if error.errno in REFUSED:
        return CacheError(
            f"the data folder {root()} cannot be used ({path}: {said}); make it readable and "
            "writable or set REPRO_DATA to a folder of your own"
        )
    return CacheError(
        f"{path}: {said}; check the disk of the data folder or set REPRO_DATA to another one"
    )


def offline() -> bool:
    """Tell whether ``REPRO_OFFLINE`` forbids every network access."""
    return environment.offline()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_sha256(content: Content) -> str:
    """Return one SHA-256 for a decoded data set, whatever archive it came from.

    The names are hashed in sorted order, each followed by its kind (an array's dtype and shape, or
    a file's length) and its bytes; arrays are taken little-endian and in C order.
    """
    digest = hashlib.sha256()
    for name in sorted(content):
        value = content[name]
        if isinstance(value, bytes):
            digest.update(f"{name}\nfile {len(value)}\n".encode())
            digest.update(value)
        else:
            array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
            digest.update(f"{name}\n{array.dtype.str} {array.shape}\n".encode())
            digest.update(array.data)
    return digest.hexdigest()


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock ``name`` against all other processes (released when a holder is killed).

    Raises:
        CacheError: the cache folder cannot be written, or its file system has no locks.
    """
    path = root() / "locks" / (re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".lock")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        try:
            held.acquire(timeout=PATIENCE_S)
        except Timeout:
            log.warning("waiting for another process that holds %s", path)
            held.acquire()
        except NotImplementedError as error:
            raise CacheError(
                f"{path}: the file system has no locks; set REPRO_DATA to a folder on another one"
            ) from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a private folder on the cache's own file system; it is deleted on leaving.

    What killed processes left there is deleted when it is `STALE_S` old.

    Raises:
        CacheError: the cache folder cannot be written.
    """
    folder = root() / "tmp" / uuid.uuid4().hex
    with explained(folder):
        folder.mkdir(parents=True)
        for other in folder.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # its owner may just be deleting it
                if time.time() - other.stat().st_mtime > STALE_S:
                    shutil.rmtree(other, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def dataset_folder(name: str, content: str) -> Path:
    """Return the folder of data set ``name`` whose content checksum is ``content``."""
    return root() / "datasets" / f"{name}-{content[:12]}"


def of_umask(path: Path, work: Path) -> None:
    """Give a file that a package client made the mode of a file of our own, by the umask."""
    model = work / "mode"
    with explained(path):
        model.touch()
        path.chmod(stat.S_IMODE(model.stat().st_mode))


def is_whole(folder: Path) -> bool:
    """Tell whether ``folder`` holds a complete data set; whether it is damaged, `fault` tells."""
    with explained(folder):
        return (folder / MANIFEST).is_file()


def stamp(folder: Path) -> tuple[tuple[str, int, int, int], ...] | None:
    """Name, size, time and number of every file of a data set but the manifest.

    Returns:
        None if there is no such folder.

    Raises:
        CacheError: it cannot be read.
    """
    facts = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name != MANIFEST and not entry.name.startswith("."):
                    status = entry.stat(follow_symlinks=True)
                    facts.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ino))
    except (FileNotFoundError, NotADirectoryError):
        return () if os.path.lexists(folder) else None
    except OSError as error:
        raise explain(folder, error) from error
    return tuple(sorted(facts))


def fault(folder: Path, checksum: str) -> str:
    """What is wrong with a stored data set, in one line; ``""`` if its content is right.

    Reads all of it.
    """
    try:
        found = content_sha256(read_content(folder))
    except ReproError as error:
        return str(error)
    if found == checksum:
        return ""
    return (
        f"{folder} is damaged or edited (its content has SHA-256 {found[:16]}… instead of "
        f"{checksum[:16]}…)"
    )


def publish(folder: Path, content: Content, manifest: Mapping[str, object]) -> None:
    """Write a decoded data set and rename it into place; the caller holds the data set's lock.

    Raises:
        CacheError: the disk is full or refuses; what was there before stays or is prepared again.
    """
    with scratch() as work, explained(folder):
        stage = work / "dataset"
        stage.mkdir()
        arrays = {k: v for k, v in content.items() if not isinstance(v, bytes)}
        if arrays:
            np.savez(stage / ARRAYS, allow_pickle=False, **arrays)
        for name, value in content.items():
            if isinstance(value, bytes):
                (stage / name).write_bytes(value)
        _write_manifest(stage / MANIFEST, manifest)
        for path in stage.iterdir():
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            os.rename(folder, work / "replaced")
        os.rename(stage, folder)


def _write_manifest(path: Path, manifest: Mapping[str, object]) -> None:
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def rewrite_manifest(folder: Path, manifest: Mapping[str, object]) -> None:
    """Replace the manifest of a data set whose content is right.

    Raises:
        CacheError: the cache folder cannot be written.
    """
    with scratch() as work, explained(folder / MANIFEST):
        _write_manifest(work / MANIFEST, manifest)
        os.replace(work / MANIFEST, folder / MANIFEST)


def manifest(folder: Path) -> dict[str, object]:
    """Return the manifest of a complete data set.

    Raises:
        ReproError: it is not readable.
    """
    path = folder / MANIFEST
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReproError(f"{path} is not readable ({reason(error)}); delete {folder}") from error
    if not isinstance(facts, dict):
        raise ReproError(f"{path} is no JSON object; delete {folder}")
    return facts


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a complete data set.

    Raises:
        ReproError: the file is damaged or cannot be read.
    """
    try:
        return _arrays(folder)
    except ReproError as error:
        raise ReproError(f"{error}; delete {folder} and load it again") from error


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    path = folder / ARRAYS
    try:
        with open(path, "rb") as stream:
            check_numpy(stream.read(512))
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ReproError(f"{path} is damaged or cannot be read ({reason(error)})") from error


def members(folder: Path) -> list[str]:
    """Names of the arrays and files of a complete data set, without reading them."""
    with explained(folder):
        found = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
        if ARRAYS in found:
            with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
                found += arrays.files
    return sorted(set(found) - {ARRAYS, MANIFEST})


def read_content(folder: Path) -> dict[str, np.ndarray | bytes]:
    """Read a whole data set back in the form that `content_sha256` takes.

    Hidden files, which file managers leave behind, are none of it.

    Raises:
        ReproError: a file is damaged or cannot be read.
    """
    content: dict[str, np.ndarray | bytes] = {}
    with explained(folder):
        for path in sorted(folder.iterdir()):
            if path.name == ARRAYS:
                content.update(_arrays(folder))
            elif path.name != MANIFEST and not path.name.startswith("."):
                content[path.name] = path.read_bytes()
    return content
