"""What a shell offers for the words of a command; where a card has a mistake, nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from repro.errors import ReproError
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.words import KINDS, SCALES, VERDICTS

Offer = Callable[[Any, str], list[str]]
"""Takes the context of the command and the word so far."""


def _offer(find: Callable[[Any], Iterable[str]]) -> Offer:
    """Of what is found those that begin as the word does."""

    def offer(ctx: Any, incomplete: str) -> list[str]:
        try:
            return [name for name in find(ctx) if name.startswith(incomplete)]
        except ReproError:
            return []

    return offer


def _papers(ctx: Any) -> list[str]:
    given = ctx.params.get("papers") or ()
    return [slug for slug in library.slugs() if slug not in given]


def _paper(ctx: Any) -> str | None:
    """The paper that the command names; behind an option whose value is due it is not parsed."""
    known = library.slugs()
    return next((word for word in (ctx.params.get("paper"), *ctx.args) if word in known), None)


def _methods(ctx: Any) -> Iterator[Method]:
    """The paper that the command names, or else every paper."""
    named = _paper(ctx)
    for slug in [named] if named else library.slugs():
        with contextlib.suppress(ReproError):
            yield library.load(slug)


def _scales(ctx: Any) -> list[str]:
    own = {scale for method in _methods(ctx) for scale in method.experiment.scales}
    return [scale for scale in SCALES if scale in own] if _paper(ctx) else [*SCALES]


def _arms(ctx: Any) -> list[str]:
    scale = ctx.params.get("scale")
    return [
        arm
        for method in _methods(ctx)
        for arm in method.experiment.arms
        if scale not in method.experiment.scales or arm in method.arms(scale)
    ]


def _seeds(ctx: Any) -> list[str]:
    scale = ctx.params.get("scale")
    presets = [m.experiment.scales[scale] for m in _methods(ctx) if scale in m.experiment.scales]
    return [str(seed) for seed in sorted({s for preset in presets for s in preset.seed_list()})]


def _datasets(ctx: Any) -> list[str]:
    from repro.data import catalogue

    return catalogue.names()


def _official(ctx: Any) -> list[str]:
    from repro.suite.cards import official

    given = set(ctx.params.get("papers") or ())
    known = official.everything()
    return [name for name, one in known.items() if not given or given & set(one.papers)]


def _cited(ctx: Any) -> list[str]:
    from repro.suite.export import citation

    found = citation.known()
    for slug in library.slugs():
        with contextlib.suppress(ReproError):
            found += [f"{slug}/{claim.id}" for claim in library.load(slug).paper.claims]
    return found


papers = _offer(_papers)
scales = _offer(_scales)
arms = _offer(_arms)
seeds = _offer(_seeds)
datasets = _offer(_datasets)
official = _offer(_official)
cited = _offer(_cited)
kinds = _offer(lambda ctx: KINDS)
verdicts = _offer(lambda ctx: VERDICTS)
