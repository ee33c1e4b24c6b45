"""One Billion Word Benchmark: rows are stripped lines of the shards in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from repro.data.corpora import ZeroShotCorpus, substituter, whole_lines
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
        ReproError: there is no shard of it, or one of them is missing.
    """
    paths = sorted(p for p in folder.glob(SHARDS[split]) if not p.name.startswith("."))
    if not paths:
        raise ReproError(f"{folder / SHARDS[split]} matches no file; put the shards there")
    _check_shards(paths, first=int(split == "train"))
    for path in paths:
        for line in whole_lines(path):
            yield line.strip()


def _check_shards(paths: list[Path], first: int) -> None:
    """Refuse a set of shards ``…-<number>-of-<count>`` that is not whole.

    Args:
        first: the least number that must be there; the benchmark keeps shard 0 of the training
            text apart, as the held-out text.
    """
    there: dict[tuple[int, int], Path] = {}
    for path in paths:
        found = re.fullmatch(r".*-(\d+)-of-(\d+)", path.name)
        if found is None:
            raise ReproError(f"{path} is not named NUMBER-of-COUNT; remove it or name it so")
        shard = int(found[1]), int(found[2])
        if shard in there:
            raise ReproError(f"{path} is the shard {there[shard].name} again; remove one of them")
        there[shard] = path
    count = max(count for _, count in there)
    if missing := [n for n in range(first, count) if (n, count) not in there]:
        raise ReproError(
            f"{paths[0].parent} lacks {len(missing)} shards of {count}, the first of them "
            f"{missing[0]:05d}-of-{count:05d}; put all shards of the benchmark there"
        )
    if odd := [path for (n, c), path in there.items() if c != count or n >= count]:
        raise ReproError(f"{odd[0]} is no shard among {count}; remove it")


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
