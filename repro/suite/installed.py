"""A copy that pip installed: what it is of, and what it cannot do.

Its tree lies in a folder of its own among the packages (``pyproject.toml`` says how). Commands read
cards there, run methods and show results as in a checkout; what would write into the tree is for a
checkout alone.
"""

from __future__ import annotations

import contextlib
import json
import re
from importlib import metadata
from pathlib import Path

from repro.errors import ReproError
from repro.places import ROOT

FOLDER = "repro_suite"
STAMP = ".commit"
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_installed(root: Path = ROOT) -> bool:
    """Whether the tree is one that pip installed, and not a checkout."""
    return root.name == FOLDER and (root.parent / f"{FOLDER}.pth").is_file()


def commit() -> str | None:
    """The commit that pip installed from git; None where it installed from a folder or an archive.

    What pip says of it is in ``direct_url.json`` (PEP 610).
    """
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        text = metadata.distribution("repro").read_text("direct_url.json")
        return str(json.loads(text or "{}")["vcs_info"]["commit_id"])
    return None


def stamped(root: Path = ROOT) -> str | None:
    """The commit that an image was made of, where its maker said it; git is not in there."""
    with contextlib.suppress(OSError, ValueError):
        text = (root / STAMP).read_text(encoding="utf-8").strip()
        return text if COMMIT.fullmatch(text) else None
    return None


def refuse(command: str) -> None:
    """For a command that writes into the tree.

    Raises:
        ReproError: this is an installed copy.
    """
    if is_installed():
        raise ReproError(
            f"`repro {command}` writes into the tree of the suite, and this copy was installed by "
            "pip; clone the repository and run it there (`make env`)"
        )
