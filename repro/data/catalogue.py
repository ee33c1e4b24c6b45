"""The data sets by name, with fixed splits, checksums and licences.

    from repro.data import catalogue
    fashion = catalogue.load("fashion-mnist")  # fetched, verified and cached if need be
    fashion.train.images                       # uint8 (60000, 28, 28)

A data set is one module of `repro.data.sets`, found by its file: ``fashion_mnist.py`` holds
``fashion-mnist``. Nothing here names one, and only those that are asked for are imported.
A cached copy is held against the checksum when a process first reads it; one that is damaged is
prepared again.
Environment: ``REPRO_DATA`` names the cache folder, ``REPRO_OFFLINE=1`` forbids the network.
Nothing here imports torch; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import pkgutil
import time
from pathlib import Path
from typing import Any

from repro.data import cache, items, sets
from repro.data.dataset import Dataset
from repro.data.foreign import reason
from repro.data.sources import obtain_content
from repro.errors import ReproError

log = logging.getLogger("repro.data")

_known: dict[Path, tuple[object, str]] = {}
"""Of the copies that this process has read in full: their files' stamp, and what is wrong."""


def names() -> list[str]:
    """Return the names of all data sets in alphabetical order; imports none of them."""
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(sets.__path__))


def module_of(name: str) -> str:
    """Return the module that holds a data set: its `DATASET` and its ``build``; imports nothing.

    Raises:
        ReproError: no data set has that name.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(known)}"
        raise ReproError(f"there is no data set {name!r}; {hint}")
    return f"{sets.__name__}.{name.replace('-', '_')}"


def info(name: str) -> Dataset:
    """Return what is known about a data set: title, licence, citation, sources, checksum, size.

    Raises:
        ReproError: no data set has that name.
    """
    dataset: Dataset = importlib.import_module(module_of(name)).DATASET
    return dataset


def fingerprint(name: str) -> str:
    """Return the content checksum of a data set; touches neither cache nor network."""
    return info(name).checksum


def _folder(name: str) -> Path:
    return cache.dataset_folder(name, info(name).checksum)


def is_cached(name: str) -> bool:
    """Tell whether `load` can answer without fetching anything."""
    return cache.is_whole(_folder(name))


def prepare(name: str) -> dict[str, object]:
    """Fetch, verify, decode and cache a data set unless its right content is there already.

    Safe to call from several processes at once and to kill at any instant. A copy that is damaged
    is replaced.

    Returns:
        its manifest: name, content checksum, source used, licence, seconds taken.

    Raises:
        ReproError: no source gave the data; the message lists which file to put where.
    """
    dataset, folder = info(name), _folder(name)
    if not _is_right(dataset, folder):
        with cache.lock(f"dataset-{name}"):
            if not _is_right(dataset, folder):  # another process may have been faster
                _make(dataset, folder)
    return _manifest(dataset, folder)


def _is_right(dataset: Dataset, folder: Path) -> bool:
    """Tell whether the cached copy has its content; all of it is read once a process."""
    stamp = cache.stamp(folder)
    if stamp is None:
        _known.pop(folder, None)
        return False
    if folder not in _known or _known[folder][0] != stamp:
        fault = cache.fault(folder, dataset.checksum)
        _known[folder] = stamp, fault
        if fault:
            log.warning("%s: %s; it is prepared again", dataset.name, fault)
    return not _known[folder][1]


def _make(dataset: Dataset, folder: Path) -> None:
    start = time.monotonic()
    try:
        content, source = obtain_content(dataset.name, dataset.sources, dataset.checksum)
    except ReproError as error:
        fault = _known.get(folder, (None, ""))[1]
        if not fault or isinstance(error, cache.CacheError):
            raise
        raise ReproError(f"{fault}; it cannot be prepared again: {error}") from error
    seconds = round(time.monotonic() - start, 2)
    cache.publish(folder, content, _facts(dataset, source, sorted(content), seconds))
    _known[folder] = cache.stamp(folder), ""
    log.info("prepared %s from %s in %.1f s", dataset.name, source, seconds)


def _facts(
    dataset: Dataset, source: object, members: list[str], seconds: object
) -> dict[str, object]:
    return {
        "name": dataset.name,
        "content_sha256": dataset.checksum,
        "source": source,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "members": members,
        "seconds": seconds,
    }


def _manifest(dataset: Dataset, folder: Path) -> dict[str, object]:
    """The manifest of a copy whose content is right; one that says anything else is rewritten."""
    try:
        stored = cache.manifest(folder)
    except ReproError:
        stored = {}
    source, seconds = stored.get("source"), stored.get("seconds")
    if source not in [known.title for known in dataset.sources]:
        source = "a copy in the cache"
    if not isinstance(seconds, int | float):
        seconds = 0.0
    facts = _facts(dataset, source, cache.members(folder), seconds)
    if facts != stored:
        with contextlib.suppress(cache.CacheError):  # a read-only cache keeps what it has
            cache.rewrite_manifest(folder, facts)
    return facts


def load(name: str) -> Any:
    """Return a data set, preparing it first if necessary.

    Returns:
        what the data set's ``build`` returns, mostly a class of `repro.data.containers`.

    Raises:
        ReproError: it cannot be obtained, or cannot be read.
    """
    prepare(name)
    folder = _folder(name)
    try:
        return items.watched(info(name).build(name, folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReproError(
            f"{folder} cannot be read ({reason(error)}); delete it and run `repro data {name}`"
        ) from error


def verify(name: str) -> bool:
    """Tell whether a data set is cached with the content that it must have; reads all of it."""
    return not cache.fault(_folder(name), info(name).checksum)
