"""Where things lie: the tree of the suite and the folder of what it makes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from repro import environment
from repro.errors import ReproError

ROOT = Path(__file__).resolve().parent.parent


def work_root() -> Path:
    """Where regenerable artefacts go: ``$REPRO_WORK`` or ``work``."""
    return environment.work()


def writable(folder: Path, remedy: str) -> Path:
    """The folder, made if need be, after a file was written there and removed.

    Raises:
        ReproError: it is a file, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ReproError(f"{folder}: cannot be written ({reason}); {remedy}") from error


def short(path: Path) -> str:
    """A path as a person names it: relative to the tree where it lies inside."""
    try:
        return str(path.resolve().relative_to(ROOT))
    except (ValueError, OSError, RuntimeError):  # elsewhere, or links that go in a circle
        return str(path)
