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
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repro.data.foreign import check_file, reason
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

    A byte-order mark is no text. Where an editor has ended every line in CR LF, a line ends in LF
    again; a lone CR stays what it is, a character.

    Raises:
        ReproError: it is not readable UTF-8, holds a zero byte, or mixes both line ends.
    """
    number, converted = 0, False
    for number, line in enumerate(_decoded(path), 1):
        if number == 1:
            line = line.removeprefix("\ufeff")
            converted = line.endswith("\r\n")
        if "\x00" in line:
            raise ReproError(
                f"{path}:{number} holds a zero byte, which no text does; fetch it again"
            )
        if line.endswith("\r\n") != converted and line.endswith("\n"):
            raise ReproError(
                f"{path}:{number} ends in {'LF' if converted else 'CR LF'}, the lines before it do "
                "not; fetch it again"
            )
        yield line[:-2] + "\n" if converted and line.endswith("\n") else line
    if number == 0:
        raise ReproError(f"{path} is empty; fetch it again")


def _decoded(path: Path) -> Iterator[str]:
    """Lines as they are stored, cut at LF alone."""
    head = check_file(path)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ReproError(f"{path} is not readable UTF-8 text but UTF-16; save it as UTF-8")
    packed = path.name.lower().endswith(".gz")
    if head.startswith(b"\x1f\x8b") and not packed:
        raise ReproError(f"{path} is not readable UTF-8 text but packed with gzip; unpack it")
    opener = gzip.open if packed else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as stream:
            yield from stream
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ReproError(
            f"{path} is not readable UTF-8 text ({reason(error)}); fetch it again"
        ) from error


def whole_lines(path: Path) -> Iterator[str]:
    """`lines` of a file in which each is a row, so that the last one ends as all do.

    Raises:
        ReproError: as `lines`; or the file ends within a line.
    """
    line = ""
    for number, line in enumerate(lines(path), 1):
        if not line.endswith("\n"):
            raise ReproError(f"{path}:{number} is cut short, without a line end; fetch it again")
        yield line


def json_texts(path: Path) -> Iterator[str]:
    """Yield the value of ``text`` of every JSON line.

    Raises:
        ReproError: a line has none; the text is null, no string, blank or no Unicode.
    """
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise ReproError(
                f"{path}:{number} is not a JSON object with a key 'text'; fetch it again"
            ) from error
        if not isinstance(text, str) or not text.strip():
            held = (
                "a blank text" if isinstance(text, str) else f"{json.dumps(text)[:40]} as its text"
            )
            raise ReproError(f"{path}:{number} holds {held}; fetch it again or remove the row")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ReproError(
                f"{path}:{number} holds half a surrogate pair ({reason(error)}); fetch it again"
            ) from error
        yield text


def wikitext_rows(folder: Path, split: str) -> Iterator[str]:
    """Yield WikiText's lines with their line break, blank lines as empty rows."""
    for line in whole_lines(folder / f"wiki.{split}.raw"):
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
