"""The data sets by name, with fixed splits, checksums and licences.

    from repro.data import catalogue
    fashion = catalogue.load("fashion-mnist")  # fetched, verified and cached if need be
    fashion.train.images                       # uint8 (60000, 28, 28)

A data set is one module of `repro.data.sets`, found by its file: ``fashion_mnist.py`` holds
``fashion-mnist``. Nothing here names one, and only those that are asked for are imported.
Environment: ``REPRO_DATA`` names the cache folder, ``REPRO_OFFLINE=1`` forbids the network.
Nothing here imports torch; nothing is unpickled.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import pkgutil
import time
from pathlib import Path
from typing import Any

from repro.data import cache, sets
from repro.data.dataset import Dataset
from repro.data.sources import obtain_content
from repro.errors import ReproError

log = logging.getLogger("repro.data")


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
    """Fetch, verify, decode and cache a data set unless that is done already.

    Safe to call from several processes at once and to kill at any instant.

    Returns:
        its manifest: name, content checksum, source used, licence, seconds taken.

    Raises:
        ReproError: no source gave the data; the message lists which file to put where.
    """
    dataset, folder = info(name), _folder(name)
    if not cache.is_whole(folder):
        with cache.lock(f"dataset-{name}"):
            if not cache.is_whole(folder):
                start = time.monotonic()
                content, source = obtain_content(name, dataset.sources, dataset.checksum)
                seconds = round(time.monotonic() - start, 2)
                facts = {
                    "name": name,
                    "content_sha256": dataset.checksum,
                    "source": source,
                    "licence": dataset.licence,
                    "citation": dataset.citation,
                    "members": sorted(content),
                    "seconds": seconds,
                }
                cache.publish(folder, content, facts)
                log.info("prepared %s from %s in %.1f s", name, source, seconds)
    return cache.manifest(folder)


def load(name: str) -> Any:
    """Return a data set, preparing it first if necessary.

    Returns:
        what the data set's ``build`` returns, mostly a class of `repro.data.containers`.

    Raises:
        ReproError: it cannot be obtained, or its cached copy is damaged.
    """
    prepare(name)
    folder = _folder(name)
    try:
        return info(name).build(name, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReproError(
            f"{folder} is damaged ({error}); delete it and run `repro data {name}`"
        ) from error


def verify(name: str) -> bool:
    """Tell whether a cached data set still has the content that it must have (reads all of it)."""
    return cache.content_sha256(cache.read_content(_folder(name))) == info(name).checksum
