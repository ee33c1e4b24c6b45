"""Models by name: who has one, its card at a scale, and what it is trained from."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from repro.errors import ReproError
from repro.suite import words
from repro.suite.cards.base import Params
from repro.suite.cards.experiment import Arm, Model, Reads, Scale, Zoo
from repro.suite.words import ZOO


@dataclass(frozen=True)
class ModelRef:
    """A model as an arm names it: owner (a method's slug or ``zoo``), name, seed."""

    owner: str
    name: str
    seed: int


class Owner(abc.ABC):
    """Who has models: a method, or the zoo. Each finds the models of all others."""

    others: Callable[[str], Owner]
    """Owner by name: a card may name models of the zoo and of another method."""

    @property
    @abc.abstractmethod
    def slug(self) -> str:
        """The name by which cards say whose a model is."""

    @property
    @abc.abstractmethod
    def own_models(self) -> Mapping[str, Model]:
        """The models of this owner, by name."""

    @abc.abstractmethod
    def preset(self, scale: str) -> Scale:
        """The preset of a scale.

        Raises:
            ReproError: there is none of that name.
        """

    def reads(self, name: str) -> list[Reads]:
        """What the card says of the purposes for which an arm or a model reads."""
        return []

    def _owner(self, name: str) -> Owner:
        return self if name == self.slug else self.others(name)

    def model_card(self, owner: str, name: str) -> Model:
        """The card of a model of this owner or of another."""
        return self._owner(owner).own_models[name]

    def model(self, scale: str, owner: str, name: str) -> Model:
        """The card of a model as a scale uses it: its data and models as its preset has them."""
        return replaced(self.model_card(owner, name), self._owner(owner).preset(scale).replace)

    def model_params(self, scale: str, owner: str, name: str) -> Params:
        """Resolved parameters: the model's own, then the scale's shared, then the scale's own."""
        preset = self._owner(owner).preset(scale)
        own = self.model_card(owner, name).params
        return resolved(own, preset.params, preset.models.get(name, {}), f"{owner}/{name}", scale)

    def model_models(self, scale: str, ref: ModelRef, retrain: bool = False) -> list[ModelRef]:
        """The models that the training of a model loads; none where the model is shipped."""
        card = self.model(scale, ref.owner, ref.name)
        if card.shipped and not retrain:
            return []
        return self.refs(card.models, ref.seed, ref.owner)

    def in_order(
        self, scale: str, refs: Iterable[ModelRef], retrain: bool = False
    ) -> list[ModelRef]:
        """Models and all that they are trained from, each after those."""
        found: dict[ModelRef, None] = {}

        def add(ref: ModelRef) -> None:
            if ref not in found:
                for earlier in self.model_models(scale, ref, retrain):
                    add(earlier)
                found[ref] = None

        for ref in refs:
            add(ref)
        return list(found)

    def refs(self, names: Iterable[str], seed: int, home: str) -> list[ModelRef]:
        """Models by the names that a card of ``home`` uses."""
        refs = []
        for name in names:
            owner, _, bare = name.rpartition("/")
            card = self.model_card(owner or home, bare)
            refs.append(ModelRef(owner or home, bare, seed if card.per_seed else 0))
        return refs


@dataclass
class ZooOwner(Owner):
    """The zoo: base models that several methods share."""

    card: Zoo
    others: Callable[[str], Owner]

    @property
    def slug(self) -> str:
        return ZOO

    @property
    def own_models(self) -> Mapping[str, Model]:
        return self.card.models

    def preset(self, scale: str) -> Scale:
        return preset_of(self.card.scales, scale) or Scale()


def preset_of(scales: Mapping[words.Scale, Scale], scale: str) -> Scale | None:
    """The preset of a scale, if a card has one."""
    return next((preset for name, preset in scales.items() if name == scale), None)


_Card = TypeVar("_Card", Model, Arm)


def replaced(card: _Card, replace: Mapping[str, str | None]) -> _Card:
    """A card whose data and models are those that a preset uses in their place."""
    if not replace:
        return card
    update = {
        key: list(dict.fromkeys(new for old in names if (new := replace.get(old, old))))
        for key, names in (("data", card.data), ("models", card.models))
    }
    return card.model_copy(update=update)


def resolved(own: Params, shared: Params, last: Params, where: str, scale: str) -> Params:
    """Parameters of a card at a scale.

    Raises:
        ReproError: one has no value.
    """
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
