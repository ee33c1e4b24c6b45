"""Where a page leads: to code at its line, to records, tables and figures."""

from __future__ import annotations

import functools
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from repro import documents
from repro.errors import ReproError
from repro.places import ROOT, short
from repro.suite import definitions
from repro.suite.cards.base import WEB_ADDRESS
from repro.suite.expression import Reference
from repro.suite.report import inputs
from repro.suite.report.tables import Table


@dataclass(frozen=True)
class Tree:
    """How a page links to files of the repository.

    Attributes:
        page: folder of the page.
        url: address of the repository, where one is declared; else links are relative.
    """

    page: Path
    url: str = ""

    def link(self, path: Path, line: int | None = None) -> str:
        """Address of a file; of one outside the repository always relative to the page."""
        mark = f"#L{line}" if line else ""
        inside = Path(short(path))
        if self.url and not inside.is_absolute():
            return f"{self.url}/blob/HEAD/{quote(inside.as_posix())}{mark}"
        return quote(os.path.relpath(path.resolve(), self.page.resolve())) + mark

    def commit(self, commit: str) -> str:
        """Address of a commit, or nothing."""
        return f"{self.url}/commit/{commit}" if self.url and commit.isalnum() else ""


def repository() -> str:
    """The address that ``CITATION.cff`` or ``pyproject.toml`` declares for this repository."""
    try:
        citation = documents.read_yaml(ROOT / "CITATION.cff")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    except (ReproError, OSError, ValueError):
        return ""
    urls = project.get("project", {}).get("urls", {})
    declared = [
        citation.get("repository-code") if isinstance(citation, dict) else None,
        *(urls.get(name) for name in ("Repository", "Source", "repository", "source")),
    ]
    found = next((url for url in declared if isinstance(url, str) and WEB_ADDRESS.match(url)), "")
    return found.rstrip("/").removesuffix(".git")


def anchor(*parts: object) -> str:
    """An id for an element, made of letters, digits, dots and dashes."""
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", str(p)).strip("-") for p in parts if str(p))


def run_anchor(scale: str, record: inputs.Record) -> str:
    return anchor("run", scale, record["method"], record["arm"], record["seed"])


# What a check reads -----------------------------------------------------------------------------


@functools.cache
def _mentioned(run: str) -> frozenset[str]:
    return definitions.texts(run)


def figures(report: inputs.Report, references: list[Reference]) -> list[str]:
    """The figures that show what a check reads, most of its arms first, by their ids.

    A figure shows a measurement whose name its function has. Without any arm of the check among
    its texts it counts where it takes the arms as they come.
    """
    names, arms = {r.name for r in references}, {r.arm for r in references}
    scored = []
    for card in report.method.figures(report.scale):
        texts = _mentioned(card.run)
        if not names & texts:
            continue
        known = arms & texts
        if known or not texts & set(report.experiment.arms):
            scored.append((-len(known), card.id))
    return [identity for _, identity in sorted(scored, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Row:
    """A row of a table on the page."""

    table: Table
    key: tuple[str, str]
    anchor: str


def table_anchor(scale: str, table: Table) -> str:
    return anchor("table", scale, table.id)


def row_anchor(scale: str, table: Table, key: tuple[str, str]) -> str:
    return anchor("row", scale, table.id, *key)


def row(scale: str, tables: list[Table], reference: Reference) -> Row | None:
    """The row that holds a measurement, in the first of these tables that has it."""
    wanted = (reference.name, reference.arm, reference.at)
    for table in tables:
        held = {(r.get("measurement"), r.get("arm"), r.get("at")) for r in table.records}
        if wanted not in held:
            continue
        for key in table.keys:
            if key[0] in ("", reference.arm) and key[1] in ("", reference.at):
                return Row(table, key, row_anchor(scale, table, key))
    return None


def code(tree: Tree, run: str) -> dict[str, Any]:
    """The function that a card names: `text`, and `href` to its line where it is found."""
    place = definitions.place(run)
    name = run.partition(":")[2]
    if place is None:
        return {"text": run, "href": ""}
    path, line = place
    return {"text": f"{name}, {short(path)}:{line}", "href": tree.link(path, line)}
