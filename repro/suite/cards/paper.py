"""`paper.yaml`: bibliography, licence, claims and reference numbers of one publication."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from repro.suite.cards.base import Name, Slug, Strict, Url, Value, unique_ids
from repro.suite.words import Evidence, Kind, Tier


class Repository(Strict):
    url: Url
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,64}$")] | None = None


class Licence(Strict):
    code: str | None = None
    weights: str | None = None
    data: str | None = None


class Claim(Strict):
    """One statement of a paper with its numbers and the place where they stand.

    ``kind`` says whose it is: ``empirical`` (the paper measured it), ``theorem`` (it proves or
    defines it), ``structure`` (it prints a count), ``code`` (what the released code does) or
    ``ours`` (found or derived here).
    """

    id: Name
    kind: Kind
    statement: str
    metric: str = ""
    unit: str = ""
    baseline: Value = None
    method: Value = None
    setting: str = ""
    where: str
    evidence: Evidence
    best_tier: Tier


class ReferenceTable(Strict):
    """A table of the paper as data; rows keep the order of ``columns``."""

    id: Name
    title: str
    where: str
    evidence: Evidence
    unit: str = ""
    columns: Annotated[list[str], Field(min_length=1)]
    rows: list[list[Value]]
    note: str = ""

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of table `{self.id}` has {len(row)} cells, "
                    f"expected {len(self.columns)} (one per column)"
                )
        return self


_TEX = str.maketrans(
    {c: f"\\{c}" for c in "#$%&_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def tex(text: str) -> str:
    """Text as LaTeX prints it, on one line."""
    return " ".join(text.translate(_TEX).split())


class Paper(Strict):
    """Bibliography, licence and claims of one publication: facts only, never our results."""

    slug: Slug
    short: str
    title: str
    authors: list[str]
    venue: str
    year: Annotated[int, Field(ge=1900, le=2100)]
    arxiv: str | None = None
    doi: str | None = None
    kind: Literal["method", "survey"] = "method"
    field: Literal[
        "text",
        "image-quantisation",
        "few-step",
        "graphs",
        "super-resolution",
        "inverse-problems",
        "medical",
        "composition",
        "text-to-3d",
        "motion",
        "metallurgy",
        "image-generation",
        "survey",
    ]
    summary: str
    licence: Licence = Licence()
    repository: Repository | None = None
    claims: list[Claim]
    tables: list[ReferenceTable] = []
    notes: list[str] = []

    @model_validator(mode="after")
    def _unique(self) -> Self:
        unique_ids("claim", [claim.id for claim in self.claims])
        unique_ids("table", [table.id for table in self.tables])
        return self

    def claim(self, claim_id: str) -> Claim:
        return {claim.id: claim for claim in self.claims}[claim_id]

    def bibtex(self) -> str:
        """The publication as a BibTeX entry."""
        lines = [
            f"  title = {{{tex(self.title)}}}",
            f"  author = {{{' and '.join(map(tex, self.authors))}}}",
            f"  booktitle = {{{tex(self.venue)}}}",
            f"  year = {{{self.year}}}",
        ]
        if self.arxiv:
            lines += [f"  eprint = {{{self.arxiv}}}", "  archiveprefix = {arXiv}"]
        if self.doi:
            lines.append(f"  doi = {{{self.doi}}}")
        return f"@inproceedings{{{self.slug},\n" + ",\n".join(lines) + "\n}"

    def citation(self) -> str:
        """One line: authors, title, venue, year, identifier."""
        names = self.authors if len(self.authors) <= 7 else [*self.authors[:6], "et al."]
        identifier = f" arXiv:{self.arxiv}." if self.arxiv else ""
        return f"{', '.join(names)}. {self.title}. {self.venue}, {self.year}.{identifier}"
