"""What `repro.data.catalogue.load` returns: images, volumes, text, vocabularies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAIN, TEST, OOD = "train", "test", "ood"
"""The splits of a text; ``ood`` is out of the domain of the other two."""


@dataclass(frozen=True)
class Split:
    """Labelled images: ``images`` uint8 (N, H, W) or (N, H, W, 3), ``labels`` int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Images:
    """A labelled image data set with its train and test splits."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Volumes:
    """Registered brain volumes: ``t1``, ``gm``, ``wm`` float32 (z, y, x) in [0, 1].

    ``volume[k]`` is the k-th axial slice from below; y grows to the front, x to the right.
    ``spacing_mm`` is the voxel size along (z, y, x).
    """

    name: str
    t1: np.ndarray
    gm: np.ndarray
    wm: np.ndarray
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Document:
    """One speech, chapter or article, cleaned; paragraphs are separated by one newline."""

    source: str
    title: str
    split: str
    text: str


@dataclass(frozen=True)
class Text:
    """A corpus of documents with fixed splits."""

    name: str
    documents: tuple[Document, ...]

    def split(self, name: str, source: str | None = None) -> list[str]:
        """Return the documents of a split (``train``, ``test``, ``ood``), of one source or all."""
        return [
            d.text
            for d in self.documents
            if d.split == name and (source is None or d.source == source)
        ]

    @property
    def train(self) -> str:
        """All training documents, separated by a blank line."""
        return "\n\n".join(self.split(TRAIN))

    @property
    def test(self) -> str:
        """All in-domain test documents, separated by a blank line."""
        return "\n\n".join(self.split(TEST))

    @property
    def ood(self) -> str:
        """All out-of-domain test documents, separated by a blank line (may be empty)."""
        return "\n\n".join(self.split(OOD))

    @property
    def sources(self) -> dict[str, dict[str, int]]:
        """Words by source and split."""
        counts: dict[str, dict[str, int]] = {}
        for d in self.documents:
            by_split = counts.setdefault(d.source, {})
            by_split[d.split] = by_split.get(d.split, 0) + len(d.text.split())
        return counts


@dataclass(frozen=True)
class Vocabulary:
    """A byte-pair vocabulary: token to id, and the merges in order of rank."""

    name: str
    encoder: dict[str, int]
    merges: list[tuple[str, str]]
