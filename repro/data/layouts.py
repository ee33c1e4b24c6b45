"""What a module of `repro.data.official` declares: published files that a user puts in a folder.

Where it is published, and what of it `repro fetch` gets, stands in `official.yaml`. The folder is
``<cache>/official/<name>`` unless the user names another; when something is missing the error says
which file belongs where and who hands it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro.data import cache
from repro.errors import ReproError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One official data set that the user brings."""

    name: str
    title: str
    files: tuple[str, ...]
    """Patterns below the folder; each must match a file. ``a|b`` means either."""
    obtain: str
    """Who hands it out, in words or as an address."""
    licence: str

    def locate(self, folder: Path | None = None) -> Path:
        """Return the folder of the data set after checking that its files are there.

        Args:
            folder: where the user keeps it; None for ``<cache>/official/<name>``.

        Raises:
            ReproError: files are missing (the message names them all); a folder or a hidden file
                is none.
        """
        folder = cache.root() / "official" / self.name if folder is None else Path(folder)
        try:
            missing = [
                pattern.replace("|", " or ")
                for pattern in self.files
                if not any(_is_there(folder, either) for either in pattern.split("|"))
            ]
        except OSError as error:
            raise ReproError(
                f"{folder} cannot be read ({error.strerror or error}); make it a readable folder"
            ) from error
        if missing:
            raise ReproError(
                f"{self.title} is not at {folder}: {', '.join(missing)} missing; put the files "
                f"there (from: {self.obtain}), or see `repro fetch --only {self.name}`"
            )
        return folder


def _is_there(folder: Path, pattern: str) -> bool:
    return any(p.is_file() and not p.name.startswith(".") for p in folder.glob(pattern))
