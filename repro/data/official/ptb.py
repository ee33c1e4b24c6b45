"""Penn Treebank in Mikolov's preparation: rows are stripped lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.data.corpora import ZeroShotCorpus, substituter, whole_lines

_BEFORE = substituter(
    [(r" 's", "'s"), (r"s ' ", "s' "), (r" n't", "n't"), (r" \n ", "\n"), (r"\\/", "/")]
)
_AFTER = substituter([(r"\$ 1", "$1"), (r"# 1", "#1"), (r"<unk>", "?")])


def read(folder: Path, split: str) -> Iterator[str]:
    """Yield the rows of a split."""
    for line in whole_lines(folder / f"ptb.{split}.txt"):
        yield line.strip()


def detokenise(row: str) -> str:
    """Undo the tokenisation; ``N`` becomes 1 and ``<unk>`` becomes a ``?``."""
    row = _BEFORE(row)
    while (numbered := row.replace(" N ", " 1 ")) != row:  # neighbouring N share a space
        row = numbered
    return _AFTER(row)


LAYOUT = ZeroShotCorpus(
    name="ptb",
    title="Penn Treebank, Mikolov's preparation",
    files=("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    obtain="T. Mikolov's simple-examples, folder data",
    licence="Linguistic Data Consortium user agreement",
    splits=("train", "valid", "test"),
    read=read,
    evaluated="test",
    detokenise=detokenise,
)
