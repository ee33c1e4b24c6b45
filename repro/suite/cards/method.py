"""A method: its cards and what follows from them at each scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from repro.errors import ReproError, nearest
from repro.suite import expression
from repro.suite.cards.base import Params
from repro.suite.cards.checks import Check, Checks
from repro.suite.cards.experiment import Arm, Experiment, Model, Scale, Zoo
from repro.suite.cards.paper import Paper
from repro.suite.words import ZOO


@dataclass(frozen=True)
class ModelRef:
    """A model as an arm names it: owner (a method's slug or ``zoo``), name, seed."""

    owner: str
    name: str
    seed: int


def _no_other(slug: str) -> Method:
    raise ReproError(f"no method `{slug}` beside this one")


@dataclass
class Method:
    """A folder under ``methods/``: its cards and what follows from them."""

    folder: Path
    paper: Paper
    experiment: Experiment
    expected: Checks
    zoo: Zoo
    others: Callable[[str], Method] = _no_other
    """Method by slug: a card may name models of another method."""

    @property
    def slug(self) -> str:
        return self.paper.slug

    def scale(self, scale: str) -> Scale:
        """The preset of a scale.

        Raises:
            ReproError: this method has no preset of that name.
        """
        if scale not in self.experiment.scales:
            raise ReproError(
                f"method {self.slug} has no preset for scale `{scale}`; it has "
                f"{', '.join(self.experiment.scales)} ({self.folder.name}/experiment.yaml)"
            )
        return self.experiment.scales[scale]

    def arms(self, scale: str) -> dict[str, Arm]:
        """The arms that run at a scale, in card order."""
        preset = self.scale(scale)
        return {
            name: _with_stand_ins(arm, preset.stand_ins)
            for name, arm in self.experiment.arms.items()
            if scale in arm.scales and name not in preset.exclude
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
        return self.scale(scale).seed_list()

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
        return self._refs(self.arm(scale, arm).models, seed, self.slug)

    def model_models(self, scale: str, ref: ModelRef, retrain: bool = False) -> list[ModelRef]:
        """The models that the training of a model loads; none where the model is shipped."""
        card = self.model(scale, ref.owner, ref.name)
        if card.shipped and not retrain:
            return []
        return self._refs(card.models, ref.seed, ref.owner)

    def in_order(
        self, scale: str, refs: Iterable[ModelRef], retrain: bool = False
    ) -> list[ModelRef]:
        """Models and all that they are trained from, each after those."""
        found: dict[ModelRef, None] = {}
        for ref in refs:
            earlier = self.model_models(scale, ref, retrain)
            found.update(dict.fromkeys(self.in_order(scale, earlier, retrain)))
            found[ref] = None
        return list(found)

    def _refs(self, names: Iterable[str], seed: int, home: str) -> list[ModelRef]:
        refs = []
        for name in names:
            owner, _, bare = name.rpartition("/")
            card = self.model_card(owner or home, bare)
            refs.append(ModelRef(owner or home, bare, seed if card.per_seed else 0))
        return refs

    def model_card(self, owner: str, name: str) -> Model:
        """The card of a model of this method, of the zoo, or of another method."""
        if owner == ZOO:
            return self.zoo.models[name]
        return self._owner(owner).experiment.models[name]

    def _owner(self, owner: str) -> Method:
        return self if owner == self.slug else self.others(owner)

    def model(self, scale: str, owner: str, name: str) -> Model:
        """The card of a model as a scale uses it, with the scale's stand-ins for its data."""
        card = self.model_card(owner, name)
        if owner == ZOO:
            return card
        return _with_stand_ins(card, self._owner(owner).scale(scale).stand_ins)

    def arm_params(self, scale: str, arm: str) -> Params:
        """Resolved parameters: the arm's own, then the scale's shared, then the scale's own."""
        preset = self.scale(scale)
        own = self.arm(scale, arm).params
        return _resolve(own, preset.params, preset.arms.get(arm, {}), f"{self.slug}/{arm}", scale)

    def model_params(self, scale: str, owner: str, name: str) -> Params:
        if owner == ZOO:
            preset = self.zoo.scales.get(scale, Scale())
        else:
            preset = self._owner(owner).scale(scale)
        own = self.model_card(owner, name).params
        where = f"{owner}/{name}"
        return _resolve(own, preset.params, preset.models.get(name, {}), where, scale)

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


_Card = TypeVar("_Card", Model, Arm)


def _with_stand_ins(card: _Card, stand_ins: Mapping[str, str | None]) -> _Card:
    if not stand_ins:
        return card
    return card.model_copy(update=_stand_in(stand_ins, data=card.data, models=card.models))


def _stand_in(stand_ins: Mapping[str, str | None], **lists: list[str]) -> dict[str, list[str]]:
    return {
        key: list(dict.fromkeys(new for old in names if (new := stand_ins.get(old, old))))
        for key, names in lists.items()
    }


def _resolve(own: Params, shared: Params, last: Params, where: str, scale: str) -> Params:
    params = dict(own)
    params.update({key: value for key, value in shared.items() if key in own})
    params.update(last)
    missing = sorted(key for key, value in params.items() if value is None)
    if missing:
        raise ReproError(
            f"{where}: parameter `{missing[0]}` has no value at scale {scale}; give it in "
            f"experiment.yaml under scales.{scale}.params"
        )
    return params
