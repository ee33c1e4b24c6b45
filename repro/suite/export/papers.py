"""What the cards say of the papers, for other programs."""

from __future__ import annotations

from repro.suite.cards import library
from repro.suite.cards.experiment import Arm, Model
from repro.suite.cards.method import Method
from repro.suite.export import models


def listed() -> models.PaperList:
    """Every paper in scope.

    Raises:
        ReproError: a mistake in a card.
    """
    found = [_in_list(library.load(slug)) for slug in library.slugs()]
    return models.PaperList(format="repro-list", version=1, papers=found)


def _in_list(method: Method) -> models.PaperInList:
    paper, experiment = method.paper, method.experiment
    return models.PaperInList(
        slug=method.slug,
        short=paper.short,
        title=paper.title,
        venue=paper.venue,
        year=paper.year,
        field=paper.field,
        claims=len(paper.claims),
        checks=len(list(method.expected.each())),
        arms=len(experiment.arms),
        scales=list(experiment.scales),
    )


def shown(method: Method) -> models.PaperShown:
    """A paper's facts, claims, experiment and the data that it uses."""
    paper = method.paper
    code = paper.repository
    return models.PaperShown(
        format="repro-show",
        version=1,
        slug=method.slug,
        short=paper.short,
        title=paper.title,
        authors=paper.authors,
        venue=paper.venue,
        year=paper.year,
        arxiv=paper.arxiv,
        doi=paper.doi,
        citation=paper.citation(),
        field=paper.field,
        summary=paper.summary,
        code=None if code is None else models.Code(url=code.url, commit=code.commit),
        licence=paper.licence.model_dump(exclude_none=True),
        claims=_claims(method),
        arms=_arms(method),
        checks=_checks(method),
        data=_data(method),
    )


def _claims(method: Method) -> list[models.PaperClaim]:
    return [
        models.PaperClaim(
            id=claim.id,
            kind=claim.kind,
            statement=claim.statement,
            metric=claim.metric,
            unit=claim.unit,
            paper_baseline=claim.baseline,
            paper_method=claim.method,
            setting=claim.setting,
            where=claim.where,
            evidence=claim.evidence,
            best_tier=claim.best_tier,
        )
        for claim in method.paper.claims
    ]


def _arms(method: Method) -> list[models.PaperArm]:
    scales = method.experiment.scales
    return [
        models.PaperArm(
            id=name,
            title=arm.title,
            baseline=arm.baseline,
            deterministic=arm.deterministic,
            scales=[scale for scale in scales if name in method.arms(scale)],
        )
        for name, arm in method.experiment.arms.items()
    ]


def _checks(method: Method) -> list[models.PaperCheck]:
    scales = method.experiment.scales
    return [
        models.PaperCheck(
            claim=claim,
            id=check.id,
            tier=check.tier,
            expect=check.expect,
            why=check.why,
            least=check.least,
            needs=check.needs,
            scales=[scale for scale in scales if check.id in method.checks(scale)],
        )
        for claim, check in method.expected.each()
    ]


def datasets(method: Method) -> list[str]:
    """The names of the data that arms and models of a method read, sorted."""
    users: list[Arm | Model] = [
        *method.experiment.arms.values(),
        *method.experiment.models.values(),
    ]
    return sorted({name for user in users for name in user.data})


def _data(method: Method) -> list[models.Data]:
    from repro.data import catalogue

    found = []
    for name in datasets(method):
        info = catalogue.info(name)
        found.append(
            models.Data(
                name=name,
                title=info.title,
                licence=info.licence,
                citation=info.citation,
                megabytes=float(info.megabytes),
                here=catalogue.is_cached(name),
            )
        )
    return found
