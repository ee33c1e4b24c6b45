"""OpenWebText: rows are documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.data.corpora import Corpus, json_texts, lines


def read(folder: Path, split: str) -> Iterator[str]:
    """Yield the documents of the one split, file by file in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from json_texts(path)
        elif path.suffix == ".txt":
            yield "".join(lines(path))


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
