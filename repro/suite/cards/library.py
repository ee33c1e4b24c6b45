"""The methods of this tree, found by folder, and the zoo of models that they share."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from repro.documents import one_line
from repro.errors import ReproError, nearest
from repro.places import ROOT
from repro.suite.cards import official
from repro.suite.cards.base import LONGEST
from repro.suite.cards.checks import Checks
from repro.suite.cards.consistency import cross_check, cross_check_zoo
from repro.suite.cards.experiment import Experiment, Zoo
from repro.suite.cards.loading import read
from repro.suite.cards.method import Method
from repro.suite.cards.models import Owner, ZooOwner
from repro.suite.cards.paper import Paper
from repro.suite.words import ZOO

FOLDER = re.compile(r"[a-z0-9][a-z0-9_.]*")
RESERVED = (ZOO, "comparisons")
"""Names that mean something else where results and models lie."""


def slugs(root: Path | None = None) -> list[str]:
    """Every method in scope, found by folder.

    Raises:
        ReproError: a folder under methods/ holds files but no card, or is not named as a method is.
    """
    folder = (root or ROOT) / "methods"
    found = sorted(path for path in folder.glob("*") if path.is_dir() and _holds_files(path))
    for path in found:
        where = f"methods/{path.name}"
        if not is_name(path.name):
            raise ReproError(
                f"{where}: is no name of a method; use lower-case letters, digits and underscores, "
                f"at most {LONGEST}, and none of {', '.join(RESERVED)}"
            )
        if not (path / "paper.yaml").is_file():
            raise ReproError(
                f"{where}: has no paper.yaml; write it (`repro new` shows one), or move the folder "
                "away"
            )
    return [path.name.replace("_", "-") for path in found]


def is_name(folder: str) -> bool:
    """Whether a folder under methods/ may have that name."""
    return (
        FOLDER.fullmatch(folder) is not None and len(folder) <= LONGEST and folder not in RESERVED
    )


def _holds_files(folder: Path) -> bool:
    """Whether a folder is more than what Python or an editor left in it."""
    if folder.name.startswith(".") or folder.name == "__pycache__":
        return False
    names = (path.name for path in folder.iterdir())
    return any(not name.startswith(".") and name != "__pycache__" for name in names)


def load(slug: str, root: Path | None = None) -> Method:
    """Read and cross-check the cards of a method, once.

    Raises:
        ReproError: no such method, or a mistake in a card (file, key path, what was expected).
    """
    return _load(slug, root or ROOT)


@functools.cache
def _load(slug: str, root: Path) -> Method:
    known = slugs(root)
    if slug.replace("_", "-") not in known:
        raise ReproError(
            f"no method `{one_line(slug, LONGEST)}`{nearest(slug, known)}; `repro list` shows the "
            f"{len(known)} known"
        )
    folder = root / "methods" / slug.replace("-", "_")
    paper = read(folder / "paper.yaml", Paper)
    if paper.slug != slug:
        raise ReproError(
            f"methods/{folder.name}/paper.yaml: slug: expected `{slug}` (the folder), found "
            f"`{paper.slug}`"
        )
    if paper.kind == "survey" and not (folder / "experiment.yaml").is_file():
        experiment = Experiment(paper=paper.slug, arms={}, measurements={}, scales={})
        expected = Checks(claims={})
    else:
        experiment = read(folder / "experiment.yaml", Experiment)
        expected = read(folder / "checks.yaml", Checks)
    method = Method(folder, paper, experiment, expected, functools.partial(owner, root=root))
    cross_check(method)
    return method


def load_all(root: Path | None = None) -> list[Method]:
    """Every method that has an experiment (a survey has only facts)."""
    methods = [load(slug, root) for slug in slugs(root)]
    return [m for m in methods if (m.folder / "experiment.yaml").is_file()]


def zoo(root: Path | None = None) -> Zoo:
    """The card of the base models that several methods share."""
    return _zoo(root or ROOT)


@functools.cache
def _zoo(root: Path) -> Zoo:
    path = root / "repro" / "zoo" / "zoo.yaml"
    if not os.path.lexists(path):
        return Zoo(models={})
    card = read(path, Zoo)
    cross_check_zoo(card)
    return card


def forget() -> None:
    """Let every card be read again."""
    _load.cache_clear()
    _zoo.cache_clear()
    official.forget()


def owner(name: str, root: Path | None = None) -> Owner:
    """Who has models under a name: a method, or the zoo.

    Raises:
        ReproError: no such method, or a mistake in a card.
    """
    if name == ZOO:
        return ZooOwner(zoo(root), functools.partial(owner, root=root))
    return load(name, root)
