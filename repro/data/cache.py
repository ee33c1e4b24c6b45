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
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

from repro import environment
from repro.errors import ReproError

Content = Mapping[str, "np.ndarray | bytes"]
"""A decoded data set: arrays, and files that are kept byte by byte, by name."""

ARRAYS = "arrays.npz"
MANIFEST = "manifest.json"
CHUNK = 1 << 20
STALE_S = 24 * 3600


def root() -> Path:
    """Return the cache folder (it need not exist yet)."""
    return environment.data()


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
        ReproError: the cache folder cannot be written.
    """
    path = root() / "locks" / (re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        held.acquire()
    except OSError as error:
        raise ReproError(
            f"the data folder {root()} cannot be written ({error.strerror or error}); "
            "set REPRO_DATA to a folder of your own"
        ) from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a private folder on the cache's own file system; it is deleted on leaving.

    What killed processes left there is deleted when it is `STALE_S` old.
    """
    folder = root() / "tmp" / uuid.uuid4().hex
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


def is_whole(folder: Path) -> bool:
    """Tell whether ``folder`` holds a complete data set."""
    return (folder / MANIFEST).is_file()


def publish(folder: Path, content: Content, manifest: Mapping[str, object]) -> None:
    """Write a decoded data set and rename it into place; the caller holds the data set's lock."""
    with scratch() as work:
        stage = work / "dataset"
        stage.mkdir()
        arrays = {k: v for k, v in content.items() if not isinstance(v, bytes)}
        if arrays:
            np.savez(stage / ARRAYS, allow_pickle=False, **arrays)
        for name, value in content.items():
            if isinstance(value, bytes):
                (stage / name).write_bytes(value)
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (stage / MANIFEST).write_text(text, encoding="utf-8")
        for path in stage.iterdir():
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            os.rename(folder, work / "replaced")
        os.rename(stage, folder)


def manifest(folder: Path) -> dict[str, object]:
    """Return the manifest of a complete data set.

    Raises:
        ReproError: it is not readable.
    """
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproError(f"{path} is not readable ({error}); delete {folder}") from error


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a complete data set (zip's CRC-32 notices damaged bytes).

    Raises:
        ReproError: the file is damaged.
    """
    path = folder / ARRAYS
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ReproError(f"{path} is damaged ({error}); delete {folder} and load it again") from (
            error
        )


def read_content(folder: Path) -> dict[str, np.ndarray | bytes]:
    """Read a whole data set back in the form that `content_sha256` takes."""
    content: dict[str, np.ndarray | bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.name == ARRAYS:
            content.update(read_arrays(folder))
        elif path.name != MANIFEST:
            content[path.name] = path.read_bytes()
    return content
