"""Real data sets by name, with fixed splits, checksums and licences.

    from repro import data
    fashion = data.load("fashion-mnist")   # fetched, verified and cached when it is not there yet
    fashion.train.images                   # uint8 (60000, 28, 28)

Environment: ``REPRO_DATA`` names the cache folder, ``REPRO_OFFLINE=1`` forbids the network.
Nothing here imports torch; nothing is unpickled.
"""

from __future__ import annotations

import difflib
import logging
import time
from typing import TYPE_CHECKING, Any

from repro.data import cache
from repro.data.cache import root as cache_root
from repro.data.registry import REGISTRY, Entry, Images, Split, Text, Vocabulary, Volumes
from repro.data.sources import obtain_content
from repro.data.text import Document
from repro.data.tokens import (
    CHAR_ALPHABET,
    GPT2_EOS,
    GPT2_VOCABULARY,
    build_gpt2,
    char_corpus,
    char_decode,
    clean_chars,
    token_blocks,
)
from repro.errors import ReproError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "CHAR_ALPHABET",
    "GPT2_EOS",
    "GPT2_VOCABULARY",
    "REGISTRY",
    "Document",
    "Entry",
    "Images",
    "Split",
    "Text",
    "Vocabulary",
    "Volumes",
    "cache_root",
    "char_corpus",
    "char_decode",
    "clean_chars",
    "fingerprint",
    "gpt2_tokenizer",
    "info",
    "is_cached",
    "load",
    "prepare",
    "token_blocks",
    "verify",
]

log = logging.getLogger("repro.data")


def info(name: str) -> Entry:
    """Return what is known about a data set: title, licence, citation, sources, checksum, size.

    Raises:
        ReproError: no data set has that name.
    """
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(REGISTRY)}"
        raise ReproError(f"there is no data set {name!r}; {hint}")
    return REGISTRY[name]


def fingerprint(name: str) -> str:
    """Return the content checksum of a data set; touches neither disk nor network."""
    return info(name).checksum


def _folder(name: str) -> cache.Path:
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
    entry, folder = info(name), _folder(name)
    if not cache.is_whole(folder):
        with cache.lock(f"dataset-{name}"):
            if not cache.is_whole(folder):
                start = time.monotonic()
                content, source = obtain_content(name, entry.sources, entry.checksum)
                seconds = round(time.monotonic() - start, 2)
                facts = {
                    "name": name,
                    "content_sha256": entry.checksum,
                    "source": source,
                    "licence": entry.licence,
                    "citation": entry.citation,
                    "members": sorted(content),
                    "seconds": seconds,
                }
                cache.publish(folder, content, facts)
                log.info("prepared %s from %s in %.1f s", name, source, seconds)
    return cache.manifest(folder)


def load(name: str) -> Any:
    """Return a data set, preparing it first if necessary.

    Returns:
        `Images` (digits, fashion-mnist, mnist, cifar10), `Volumes` (mni152), `Text` (english-text,
        wikipedia-excerpt), `Vocabulary` (gpt2-bpe) or a ``Path`` (mobilenetv2-imagenet).

    Raises:
        ReproError: it cannot be obtained, or its cached copy is damaged.
    """
    prepare(name)
    folder = _folder(name)
    try:
        return info(name).build(name, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReproError(f"{folder} is damaged ({error}); delete it and prepare again") from error


def verify(name: str) -> bool:
    """Tell whether a cached data set still has the content that it must have (reads all of it)."""
    return cache.content_sha256(cache.read_content(_folder(name))) == info(name).checksum


def gpt2_tokenizer() -> Tokenizer:
    """Return GPT-2's tokeniser: ``encode("Hello world").ids == [15496, 995]``."""
    vocabulary = load("gpt2-bpe")
    return build_gpt2(vocabulary.encoder, vocabulary.merges)
