"""Where things lie: the tree of the suite and the folder of what it makes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def work_root() -> Path:
    """Where regenerable artefacts go: ``$REPRO_WORK`` or ``work``."""
    return Path(os.environ.get("REPRO_WORK", "work"))


def short(path: Path) -> str:
    """A path as a person names it: relative to the tree where it lies inside."""
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)
