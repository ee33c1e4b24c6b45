"""LAMBADA's test set in OpenAI's version: rows are passages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.data.corpora import ZeroShotCorpus, json_texts


def read(folder: Path, split: str) -> Iterator[str]:
    """Yield the passages of the one split."""
    return json_texts(folder / f"lambada_{split}.jsonl")


def detokenise(row: str) -> str:
    """Straighten double quotes, strip, and begin with a line break."""
    return "\n" + row.replace("\u201c", '"').replace("\u201d", '"').strip()


LAYOUT = ZeroShotCorpus(
    name="lambada",
    title="LAMBADA test set, OpenAI's version",
    files=("lambada_test.jsonl",),
    obtain="https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
    licence="CC BY 4.0 (LAMBADA)",
    splits=("test",),
    read=read,
    evaluated="test",
    detokenise=detokenise,
)
