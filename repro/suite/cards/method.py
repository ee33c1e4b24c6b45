"""A method: its cards and what follows from them at each scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from repro.errors import ReproError, nearest
from repro.suite import expression
from repro.suite.cards.base import Params
from repro.suite.cards.checks import Check, Checks
from repro.suite.cards.experiment import Arm, Experiment, Figure, Model, Scale
from repro.suite.cards.models import ModelRef, Owner, replaced, resolved
from repro.suite.cards.paper import Paper


def _no_other(slug: str) -> Owner:
    raise ReproError(f"no method `{slug}` beside this one")


@dataclass
class Method(Owner):
    """A folder under ``methods/``: its cards and what follows from them."""

    folder: Path
    paper: Paper
    experiment: Experiment
    expected: Checks
    others: Callable[[str], Owner] = _no_other

    @property
    def slug(self) -> str:
        return self.paper.slug

    @property
    def own_models(self) -> Mapping[str, Model]:
        return self.experiment.models

    def preset(self, scale: str) -> Scale:
        """The preset of a scale.

        Raises:
            ReproError: this method has no preset of that name.
        """
        for name, preset in self.experiment.scales.items():
            if name == scale:
                return preset
        raise ReproError(
            f"method {self.slug} has no preset for scale `{scale}`; it has "
            f"{', '.join(self.experiment.scales)} ({self.folder.name}/experiment.yaml)"
        )

    def arms(self, scale: str) -> dict[str, Arm]:
        """The arms that run at a scale, in card order."""
        preset = self.preset(scale)
        return {
            name: replaced(arm, preset.replace)
            for name, arm in self.experiment.arms.items()
            if not left_out(name, preset.without.arms)
        }

    def arm(self, scale: str, name: str) -> Arm:
        arms = self.arms(scale)
        if name not in arms:
            raise ReproError(
                f"method {self.slug} has no arm `{name}` at scale {scale}"
                f"{nearest(name, arms)}; it has {', '.join(arms)}"
            )
        return arms[name]

    def seeds(self, scale: str, arm: str) -> list[int]:
        """The seeds of an arm; a deterministic arm runs once, with seed 0."""
        if self.arm(scale, arm).deterministic:
            return [0]
        return self.preset(scale).seed_list()

    def models(self, scale: str) -> list[ModelRef]:
        """Every model that the arms of a scale load, without repeats."""
        return list(
            dict.fromkeys(
                ref
                for name in self.arms(scale)
                for seed in self.seeds(scale, name)
                for ref in self.arm_models(scale, name, seed)
            )
        )

    def arm_models(self, scale: str, arm: str, seed: int) -> list[ModelRef]:
        """The models one run of an arm loads, in the order of its card."""
        return self.refs(self.arm(scale, arm).models, seed, self.slug)

    def arm_params(self, scale: str, arm: str) -> Params:
        """Resolved parameters: the arm's own, then the scale's shared, then the scale's own."""
        preset = self.preset(scale)
        own = self.arm(scale, arm).params
        return resolved(own, preset.params, preset.arms.get(arm, {}), f"{self.slug}/{arm}", scale)

    def checks(self, scale: str) -> dict[str, Check]:
        """The checks judged at a scale: those whose arms all run there."""
        arms = self.arms(scale)
        chosen = {}
        for claim, card in self.expected.each():
            parsed = expression.parse(card.expect)
            wanted = card.scales is None or scale in card.scales
            if wanted and all(r.arm in arms for r in parsed.references()):
                chosen[card.id] = Check.of(claim, card, parsed)
        return chosen

    def figures(self, scale: str) -> list[Figure]:
        """The figures drawn at a scale."""
        without = self.preset(scale).without.figures
        return [figure for figure in self.experiment.figures if not left_out(figure.id, without)]


def left_out(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of those that a preset leaves out; `*` stands for any text."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
