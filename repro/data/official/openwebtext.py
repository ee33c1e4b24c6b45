"""OpenWebText: rows are documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.data.corpora import Corpus, json_texts, lines
from repro.data.foreign import visible_files
from repro.errors import ReproError


def read(folder: Path, split: str) -> Iterator[str]:
    """Yield the documents of the one split, file by file in the order of their names.

    Raises:
        ReproError: a file is damaged, without text, or there packed and unpacked.
    """
    paths = visible_files(folder, ".jsonl", ".jsonl.gz", ".txt")
    names = {path.name.lower() for path in paths}
    for path in paths:
        if f"{path.name.lower()}.gz" in names:
            raise ReproError(f"{path} is there twice, packed and unpacked; remove one of them")
    for path in paths:
        if path.name.lower().endswith(".txt"):
            text = "".join(lines(path))
            if not text.strip():
                raise ReproError(f"{path} holds a blank text; fetch it again or remove it")
            yield text
        else:
            yield from json_texts(path)


LAYOUT = Corpus(
    name="openwebtext",
    title="OpenWebText",
    files=("*.jsonl|*.jsonl.gz|*.txt",),
    obtain="A. Gokaslan, V. Cohen, OpenWebText Corpus (documents as JSON lines with a key "
    "'text', or one plain text file a document)",
    licence="CC0 for the packaging; the texts keep their owners' terms",
    splits=("train",),
    read=read,
)
