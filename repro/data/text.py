"""English text: cleaning, a split by document, the stored form.

**Cleaning** (`tidy`), the same for every source: Unicode NFC; curly quotes become straight ones, an
en dash ``-``, an em dash ``--``, an ellipsis ``...``; control and zero-width characters go; spaces
collapse; a paragraph is one line and blank lines vanish. Case, punctuation and digits stay.

**Splits** are by document, so that no test text is the neighbour of a training text. A document out
of ten gives an in-domain test set that covers the whole span of each source; holding out the last
ones instead would measure a drift of style that no claim is about.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from repro.data.containers import OOD, TEST, TRAIN, Document, Text
from repro.data.foreign import read_bytes, reason
from repro.errors import ReproError

DOCUMENTS = "documents.jsonl"

_CHARACTERS = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2212": "-",
        "\u2014": "--", "\u2015": "--", "\u2026": "...",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "\t": " ",
        "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\u200e": "", "\u200f": "",
        "\ufeff": "", "\r": "",
    }
)  # fmt: skip


def tidy(text: str, *, wrapped: bool = False) -> str:
    """Clean running text as the module's docstring says; applying it twice changes nothing more.

    Args:
        wrapped: lines were broken to a width, so only blank lines separate paragraphs.
    """
    text = unicodedata.normalize("NFC", text.translate(_CHARACTERS))
    if wrapped:
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"\n[ \t]+(?=\n)", "\n", text))
    lines = []
    for line in text.split("\n"):
        line = re.sub(r"[ \x00-\x1f\x7f-\x9f]+", " ", line).strip()
        if line:
            lines.append(line)
    return "\n".join(lines)


def every_tenth(index: int) -> str:
    """Return the split of the ``index``-th document of a source (from 0)."""
    return TEST if index % 10 == 9 else TRAIN


def pack(documents: Iterable[Document]) -> dict[str, bytes]:
    """Return documents in their stored form: one JSON object a line."""
    lines = (json.dumps(asdict(d), ensure_ascii=False, sort_keys=True) + "\n" for d in documents)
    return {DOCUMENTS: "".join(lines).encode("utf-8")}


def unpack(data: bytes, where: str = DOCUMENTS) -> list[Document]:
    """Read documents back from their stored form.

    Raises:
        ReproError: a row is no document, with text and a split that there is.
    """
    documents = []
    try:
        rows = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ReproError(f"{where} is not UTF-8 ({reason(error)}); delete it") from error
    for number, row in enumerate(rows, 1):
        if row:
            documents.append(_document(row, f"{where}:{number}"))
    if not documents:
        raise ReproError(f"{where} holds no document; delete it and make it again")
    return documents


def _document(row: str, where: str) -> Document:
    try:
        document = Document(**json.loads(row))
    except (ValueError, TypeError, RecursionError) as error:
        raise ReproError(f"{where} is no document ({reason(error)}); make it again") from error
    if any(not isinstance(value, str) for value in asdict(document).values()):
        raise ReproError(f"{where} holds a value that is no text; make it again")
    if document.split not in (TRAIN, TEST, OOD):
        raise ReproError(f"{where} has the split {document.split!r:.40}; make it again")
    return document


def read_text(name: str, folder: Path) -> Text:
    """Return a corpus from the folder of its decoded content."""
    path = folder / DOCUMENTS
    return Text(name, tuple(unpack(read_bytes(path), str(path))))
