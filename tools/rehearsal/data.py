"""Random data of the shapes of the real sets: a rehearsal looks at the code and fetches nothing."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from repro.data import catalogue, items
from repro.data.containers import OOD, TEST, TRAIN, Document, Images, Split, Text, Volumes
from repro.suite import run

TEXTS = ("english-text", "wikipedia-excerpt")
PICTURES = {"fashion-mnist": (60_000, 28, 28), "cifar10": (50_000, 32, 32, 3)}
"""Shape of the training images; all of them, as the shipped models name the items they saw."""
CLASSES = tuple(map(str, range(10)))


def install() -> None:
    """Let the jobs of this process read random data; what is not made here is loaded as usual."""
    load, prepare = catalogue.load, run.prepare_data
    known = (*TEXTS, *PICTURES, "mni152")

    def made_or_loaded(name: str) -> Any:
        return items.watched(made(name)) if name in known else load(name)

    catalogue.load = made_or_loaded
    run.prepare_data = lambda name, work: None if name in known else prepare(name, work)


@functools.cache
def made(name: str) -> Images | Text | Volumes:
    """A random data set in place of the real one of that name."""
    rng = np.random.default_rng(0)
    if name in PICTURES:
        count, *shape = PICTURES[name]
        return Images(name, _images(rng, count, shape), _images(rng, 10_000, shape), CLASSES)
    if name == "mni152":
        return _heads(rng)
    words = ["".join(rng.choice(list("etaoinshrdlu"), n)) for n in rng.integers(2, 9, 2000)]
    counts = {TRAIN: 60_000, TEST: 4_000, OOD: 4_000}
    documents = [
        Document("made", f"{split} {n}", split, " ".join(rng.choice(words, count // 4)))
        for split, count in counts.items()
        for n in range(4)
        if split != OOD or name == "english-text"
    ]
    return Text(name, tuple(documents))


def _images(rng: np.random.Generator, count: int, shape: list[int]) -> Split:
    return Split(rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 10)


def _heads(rng: np.random.Generator) -> Volumes:
    """A ball that is brighter inside, with a little noise, at the size of the template."""
    shape = (189, 233, 197)
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij", sparse=True)
    radius = np.sqrt(sum(axis**2 for axis in axes))
    head = np.clip(1.1 - radius, 0, 1).astype(np.float32)
    head *= (1 - 0.1 * rng.random(shape, dtype=np.float32)).astype(np.float32)
    return Volumes("mni152", head, head * (radius > 0.6), head * (radius <= 0.6), (1.0, 1.0, 1.0))
