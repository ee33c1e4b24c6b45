"""What a module of `repro.data.sets` declares: a data set's facts, sources, content and reader.

The content checksums were computed from the package sources; every other source of the same data
set has to decode to the same bits. Official files whose own checksum could not be computed here
(``sha256=None``) are protected by the content checksum alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from repro.data.sources import Installed, Source


@dataclass(frozen=True)
class Dataset:
    """What is known about a data set before it is fetched."""

    name: str
    title: str
    description: str
    licence: str
    citation: str
    homepage: str
    checksum: str
    """SHA-256 of the decoded content (`repro.data.cache.content_sha256`)."""
    sources: tuple[Source | Installed, ...]
    build: Callable[[str, Path], object] = field(repr=False)
    """From the name and the folder of the decoded content to what `load` returns."""
    pip_only: bool = False
    """Whether pip alone can fetch it."""

    @property
    def megabytes(self) -> float:
        """Size of the download from the first source that has one."""
        for source in self.sources:
            if isinstance(source, Source):
                return round(sum(file.megabytes for file in source.files), 1)
        return 0.0
