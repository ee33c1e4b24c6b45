"""96 articles of the English Wikipedia as plain prose."""

from __future__ import annotations

from pathlib import Path

from repro.data import wikipedia
from repro.data.containers import Text
from repro.data.dataset import Dataset
from repro.data.sources import Installed, Source, as_bytes, as_path
from repro.data.text import pack, read_text


def build(name: str, folder: Path) -> Text:
    """Return the articles, each a document of the split ``train`` or ``test``."""
    return read_text(name, folder)


DATASET = Dataset(
    name="wikipedia-excerpt",
    title="Wikipedia excerpt, 96 articles",
    description="English articles of 2016 as plain prose, 400 000 words; every tenth article "
    "is the test split",
    licence="CC BY-SA 3.0 (Wikipedia contributors); the package LGPL-2.1",
    citation="Wikipedia contributors, English Wikipedia, dump of 2016; R. Rehurek, P. Sojka, "
    "Software Framework for Topic Modelling with Large Corpora, 2010",
    homepage="https://radimrehurek.com/gensim/",
    checksum="eb36c4047c715a95d6ce60ff1cd472923cbdabb459ebd7b50ecf0565eb5e6c96",
    sources=(
        Installed(
            "installed gensim",
            "gensim",
            (wikipedia.EXPORT,),
            lambda files: pack(wikipedia.articles(as_bytes(files[wikipedia.EXPORT]))),
        ),
        Source(
            "gensim wheel",
            (wikipedia.WHEEL,),
            lambda files: pack(wikipedia.articles_of_wheel(as_path(files[wikipedia.WHEEL.name]))),
        ),
    ),
    build=build,
    pip_only=True,
)
