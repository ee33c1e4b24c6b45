"""One Billion Word Benchmark: rows are stripped lines of the shards in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.data.corpora import ZeroShotCorpus, lines, substituter
from repro.errors import ReproError

SHARDS = {
    "train": "training-monolingual.tokenized.shuffled/news.en-*-of-*",
    "test": "heldout-monolingual.tokenized.shuffled/news.en.heldout-*-of-*",
}
_TOKENS = substituter(
    [
        (r"(https?) : / / ", r"\1://"),
        (r" '(\w+)", r"'\1"),
        (r" (\w+) \. ", r" \1. "),
        (r" (\w+) \.$", r" \1."),
        (r" \? ", "? "),
        (r" \?$", "?"),
        (r" ! ", "! "),
        (r" !$", "!"),
        (r" , ", ", "),
        (r" : ", ": "),
        (r" ; ", "; "),
        (r" / ", "/"),
        (r'" ([^"]+) "', r'"\1"'),
        (r"' ([^']+) '", r"'\1'"),
        (r"\( ([^()]+) \)", r"(\1)"),
        (r"\[ ([^\[\]]+) \]", r"[\1]"),
        (r"\$ ", "$"),
        (r"\u00a3 ", "\u00a3"),
    ]
)


def read(folder: Path, split: str) -> Iterator[str]:
    """Yield the rows of a split.

    Raises:
        ReproError: there is no shard of it.
    """
    paths = sorted(folder.glob(SHARDS[split]))
    if not paths:
        raise ReproError(f"{folder / SHARDS[split]} matches no file; put the shards there")
    for path in paths:
        for line in lines(path):
            yield line.strip()


def detokenise(row: str) -> str:
    """Undo the tokenisation."""
    return _TOKENS(row)


LAYOUT = ZeroShotCorpus(
    name="lm1b",
    title="One Billion Word Benchmark",
    files=(SHARDS["test"],),
    obtain="1-billion-word-language-modeling-benchmark-r13output, statmt.org/lm-benchmark",
    licence="see the benchmark's own terms",
    splits=("train", "test"),
    read=read,
    evaluated="test",
    detokenise=detokenise,
)
