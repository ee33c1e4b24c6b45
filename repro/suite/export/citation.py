"""What to cite: the suite, as ``CITATION.cff`` has it, and papers by what stands in a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ConfigDict, Field

from repro.documents import one_line
from repro.errors import ReproError, nearest
from repro.places import ROOT
from repro.suite.cards import library
from repro.suite.cards.base import Strict
from repro.suite.cards.loading import read
from repro.suite.cards.paper import Paper, tex
from repro.suite.export import models
from repro.suite.words import ZOO

CFF = ROOT / "CITATION.cff"
COMPARISONS = "comparisons"


class _OfStandard(Strict):
    """A part of a file of the Citation File Format; keys that nothing here reads are left."""

    model_config = ConfigDict(extra="ignore", alias_generator=lambda name: name.replace("_", "-"))


class Author(_OfStandard):
    """A person or an organisation."""

    name: str | None = None
    family_names: str | None = None
    given_names: str | None = None

    @property
    def is_person(self) -> bool:
        return self.name is None

    def __str__(self) -> str:
        person = " ".join(part for part in (self.given_names, self.family_names) if part)
        return self.name or person


class Citation(_OfStandard):
    """``CITATION.cff``."""

    title: str
    version: str
    license: str
    authors: list[Author] = Field(min_length=1)
    keywords: list[str] = []
    doi: str | None = None
    url: str | None = None
    date_released: str | None = None

    def bibtex(self) -> str:
        """The suite as a BibTeX entry; the name of an organisation is one word."""
        names = [tex(str(a)) if a.is_person else f"{{{tex(str(a))}}}" for a in self.authors]
        fields = {
            "title": f"{{{tex(self.title)}}}",
            "author": " and ".join(names),
            "version": self.version,
            "year": (self.date_released or "")[:4],
            "doi": self.doi or "",
            "url": self.url or "",
            "note": f"Licence: {tex(self.license)}",
        }
        lines = [f"  {key} = {{{value}}}" for key, value in fields.items() if value]
        return "@software{repro,\n" + ",\n".join(lines) + "\n}"


def suite() -> Citation:
    """How the suite wants to be cited.

    Raises:
        ReproError: ``CITATION.cff`` is missing or has a mistake.
    """
    return read(CFF, Citation)


def cite(names: Sequence[str] = ()) -> models.Cited:
    """The suite and papers.

    Args:
        names: papers, claims (``paper/claim``) and comparisons (``comparisons/id``); by default
            every paper.

    Raises:
        ReproError: there is no such paper, claim or comparison.
    """
    own = suite()
    slugs = dict.fromkeys(slug for name in names for slug in of(name))
    papers = [library.load(slug).paper for slug in slugs or library.slugs()]
    return models.Cited(
        format="repro-cite",
        version=1,
        suite=models.CitedSuite(
            title=own.title,
            authors=[str(author) for author in own.authors],
            version=own.version,
            licence=own.license,
            keywords=own.keywords,
            bibtex=own.bibtex(),
        ),
        papers=[_paper(paper) for paper in papers],
    )


def _paper(paper: Paper) -> models.CitedPaper:
    return models.CitedPaper(
        slug=paper.slug,
        title=paper.title,
        authors=paper.authors,
        venue=paper.venue,
        year=paper.year,
        arxiv=paper.arxiv,
        doi=paper.doi,
        citation=paper.citation(),
        bibtex=paper.bibtex(),
    )


def of(name: str) -> list[str]:
    """The papers whose numbers stand under a name.

    Of a claim its own, and those whose models its checks measure; of a comparison those of its
    rows.

    Raises:
        ReproError: there is no such paper, claim or comparison.
    """
    head, _, rest = name.partition("/")
    if head == COMPARISONS and rest:
        return _of_comparison(rest)
    if head not in library.slugs():
        raise ReproError(
            f"nothing to cite as `{one_line(name, 60)}`{nearest(name, known())}; give a paper, "
            f"`paper/claim` or `{COMPARISONS}/<name>`"
        )
    return _of_claim(head, rest) if rest else [head]


def _of_claim(slug: str, claim: str) -> list[str]:
    method = library.load(slug)
    claims = [one.id for one in method.paper.claims]
    if claim not in claims:
        raise ReproError(f"{slug} has no claim `{one_line(claim, 60)}`{nearest(claim, claims)}")
    arms = {
        reference.arm
        for scale in method.experiment.scales
        for check in method.checks(scale).values()
        if check.claim == claim
        for reference in check.parsed.references()
    }
    used = [model for arm in sorted(arms) for model in method.experiment.arms[arm].models]
    owners = [model.partition("/")[0] for model in used if "/" in model]
    return list(dict.fromkeys([slug, *(owner for owner in owners if owner != ZOO)]))


def _of_comparison(identity: str) -> list[str]:
    from repro.suite.cards import comparisons

    cards = comparisons.load()
    if identity not in cards:
        raise ReproError(
            f"no comparison `{one_line(identity, 60)}`{nearest(identity, cards)}; there are "
            f"{', '.join(cards)}"
        )
    return list(dict.fromkeys(row.method for row in cards[identity].rows))


def known() -> list[str]:
    """Every name that can be cited but claims; reads no card."""
    cards = sorted((ROOT / COMPARISONS).glob("[!.]*.yaml"))
    return [*library.slugs(), *(f"{COMPARISONS}/{path.stem}" for path in cards)]


def entries(cited: models.Cited) -> Iterable[str]:
    """The BibTeX entries, the suite's first."""
    return [cited.suite.bibtex, *(paper.bibtex for paper in cited.papers)]
