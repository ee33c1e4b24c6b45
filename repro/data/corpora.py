"""Official text corpora: rows as the published loaders cut them, blocks as GPT-2 reads them.

The blocks follow the evaluation of SEDD and RADD (arXiv 2406.03736, official code): detokenise each
row, encode with GPT-2's BPE, append end-of-text after *every* row (also empty ones), concatenate,
cut blocks of 1024 and drop the remainder *within each batch of 1 000 rows*. The detokenisers
restate the substitutions of that code; its two that can never match real text are left out.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repro.data.layouts import Layout
from repro.data.tokens import token_blocks
from repro.errors import ReproError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Corpus(Layout):
    """An official corpus; its splits are read row by row."""

    splits: tuple[str, ...]
    read: Callable[[Path, str], Iterator[str]]
    """From the folder and a split to its rows."""

    def rows(self, split: str, folder: Path | None = None) -> Iterator[str]:
        """Yield the rows of a split as the published loader cuts them.

        Raises:
            ReproError: the files are missing or malformed, or there is no such split.
        """
        folder = self.locate(folder)
        if split not in self.splits:
            raise ReproError(
                f"{self.name} has no split {split!r}; choose among {', '.join(self.splits)}"
            )
        return self.read(folder, split)


@dataclass(frozen=True, kw_only=True)
class ZeroShotCorpus(Corpus):
    """A corpus on which SEDD and RADD evaluate models of another corpus."""

    evaluated: str
    """The split that they evaluate on."""
    detokenise: Callable[[str], str]
    """From a tokenised row to plain text."""

    def blocks(
        self, tokenizer: Tokenizer, folder: Path | None = None, *, length: int = 1024
    ) -> np.ndarray:
        """Return the evaluation blocks under the rule of SEDD and RADD.

        Returns:
            int64 (blocks, length).

        Raises:
            ReproError: as `rows`.
        """
        rows = map(self.detokenise, self.rows(self.evaluated, folder))
        return token_blocks(rows, length, tokenizer, rows_per_batch=1000)


# --- rows -----------------------------------------------------------------------------------------


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, gzipped or not, with their line break.

    Raises:
        ReproError: it is not readable UTF-8.
    """
    try:
        opened = (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8", newline="\n")
        )
        with opened as stream:
            yield from stream
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReproError(f"{path} is not readable UTF-8 text ({error}); fetch it again") from error


def json_texts(path: Path) -> Iterator[str]:
    """Yield the value of ``text`` of every JSON line.

    Raises:
        ReproError: a line has none.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ReproError(
                f"{path}:{number} is not a JSON object with a key 'text'; fetch it again"
            ) from error


def wikitext_rows(folder: Path, split: str) -> Iterator[str]:
    """Yield WikiText's lines with their line break, blank lines as empty rows."""
    for line in lines(folder / f"wiki.{split}.raw"):
        yield line if line.strip() else ""


# --- detokenisers ---------------------------------------------------------------------------------


def substituter(rules: list[tuple[str, str]]) -> Callable[[str], str]:
    """Return a function that applies regular substitutions one after another."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def apply(row: str) -> str:
        for pattern, replacement in compiled:
            row = pattern.sub(replacement, row)
        return row

    return apply


_WIKITEXT = substituter(
    [
        (r"s '", "s'"),
        (r" @([-,.])@ ", r"\1"),
        (r" : ", ": "),
        (r" ; ", "; "),
        (r" \. ", ". "),
        (r" ! ", "! "),
        (r" \? ", "? "),
        (r" , ", ", "),
        (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
        (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
        (r'"\s*([^"]*?)\s*"', r'"\1"'),
        (r"'\s*([^']*?)\s*'", r"'\1'"),
        (r"= = = =", "===="),
        (r"= = =", "==="),
        (r"= =", "=="),
        (r" \u00b0 ", "\u00b0"),
        (r" \n", "\n"),
        (r"\n ", "\n"),
        (r" N ", " 1 "),
        (r" 's", "'s"),
    ]
)


def detokenise_wikitext(row: str) -> str:
    """Undo WikiText's tokenisation: ``@-@``, spaces before punctuation, ``= =`` headings."""
    return _WIKITEXT(row)
