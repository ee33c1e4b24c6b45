"""A method: its cards and what follows from them at each scale."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.coordinates import Grid, holds, matching
from repro.errors import ReproError, nearest
from repro.suite import expression
from repro.suite.cards.base import Params, named
from repro.suite.cards.checks import Check, CheckCard, Checks
from repro.suite.cards.experiment import Arm, Experiment, Figure, Model, Reads, Scale, Without
from repro.suite.cards.models import ModelRef, Owner, preset_of, replaced, resolved
from repro.suite.cards.official import resolved as resolved_names
from repro.suite.cards.paper import Paper
from repro.suite.expression import Reference


def _no_other(slug: str) -> Owner:
    raise ReproError(f"no method `{slug}` beside this one")


@dataclass
class Method(Owner):
    """A folder under ``methods/``: its cards and what follows from them.

    Attributes:
        further: scale and arm → number of seeds, where open checks asked for more than the card.
    """

    folder: Path
    paper: Paper
    experiment: Experiment
    expected: Checks
    others: Callable[[str], Owner] = _no_other
    further: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.paper.slug

    @property
    def own_models(self) -> Mapping[str, Model]:
        return self.experiment.models

    def reads(self, name: str) -> list[Reads]:
        return [reads for reads in self.experiment.reads if named(name, reads.of)]

    def preset(self, scale: str) -> Scale:
        """The preset of a scale.

        Raises:
            ReproError: this method has no preset of that name.
        """
        preset = preset_of(self.experiment.scales, scale)
        if preset is None:
            raise ReproError(
                f"method {self.slug} has no preset for scale `{scale}`; it has "
                f"{', '.join(self.experiment.scales)} ({self.folder.name}/experiment.yaml)"
            )
        return preset

    def arms(self, scale: str) -> dict[str, Arm]:
        """The arms that run at a scale, in card order."""
        self.preset(scale)
        return self._arms[scale]

    @functools.cached_property
    def _arms(self) -> dict[str, dict[str, Arm]]:
        return {
            scale: {
                name: replaced(arm, preset.replace)
                for name, arm in self.experiment.arms.items()
                if not named(name, preset.without.arms)
            }
            for scale, preset in self.experiment.scales.items()
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
        first = self.preset(scale).seed_list()
        return [*first, *range(len(first), self.further.get((scale, arm), 0))]

    def with_seeds(self, scale: str, arms: Mapping[str, int]) -> Method:
        """The same method with further seeds for some arms of a scale.

        Raises:
            ReproError: an arm does not run there, or the scale does not allow that many.
        """
        most = self.preset(scale).most or 0
        for arm, seeds in arms.items():
            if self.arm(scale, arm).deterministic or not 0 < seeds <= most:
                raise ReproError(
                    f"{self.slug}/{arm} cannot have {seeds} seeds at scale {scale}; `most` in its "
                    f"experiment.yaml is {most or 'not given'}"
                )
        other = copy.copy(self)
        other.further = {**self.further, **{(scale, arm): n for arm, n in arms.items()}}
        return other

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

    def official(self, scale: str, arm: str) -> list[str]:
        """The official files that an arm reads, by name.

        Raises:
            ReproError: a parameter that stands for names is none.
        """
        try:
            return resolved_names(self.arm(scale, arm).official, self.arm_params(scale, arm))
        except ReproError as error:
            raise ReproError(
                f"methods/{self.folder.name}/experiment.yaml: arms.{arm}.official: {error}"
            ) from error

    def declared(self, scale: str, arm: str, params: Params | None = None) -> dict[str, list[Grid]]:
        """What an arm may measure at a scale: measurement → grids of coordinates.

        Args:
            params: other parameters than those of the preset, as tests have.
        """
        params = self.arm_params(scale, arm) if params is None else params
        found = {
            name: self._grids(scale, arm, name, params) for name in self.experiment.measurements
        }
        return {name: grids for name, grids in found.items() if grids}

    def _grids(self, scale: str, arm: str, name: str, params: Params) -> list[Grid]:
        measurements = self.experiment.measurements
        if name not in measurements or named(name, self.preset(scale).without.measurements):
            return []
        try:
            grids = [at.grid(params) for at in measurements[name].at if named(arm, at.arms)]
        except ReproError as error:
            raise ReproError(
                f"methods/{self.folder.name}/experiment.yaml: measurements.{name}.at: {error} "
                f"(arm `{arm}` at scale {scale})"
            ) from error
        return [grid for grid in grids if grid is not None]

    def grids(self, scale: str, arm: str, name: str) -> list[Grid]:
        """Where an arm measures a name at a scale; nothing where it does not."""
        key = (scale, arm, name)
        if key not in self._known_grids:
            params = self._params[scale].get(arm)
            grids = [] if params is None else self._grids(scale, arm, name, params)
            self._known_grids[key] = grids
        return self._known_grids[key]

    @functools.cached_property
    def _known_grids(self) -> dict[tuple[str, str, str], list[Grid]]:
        return {}

    @functools.cached_property
    def _params(self) -> dict[str, dict[str, Params]]:
        """Scale → arm that runs there → parameters."""
        return {
            scale: {arm: self.arm_params(scale, arm) for arm in arms}
            for scale, arms in self._arms.items()
        }

    def measured(self, scale: str, reference: Reference) -> list[Reference]:
        """The measurements of a scale that a reference means: itself, or all that it matches."""
        at, grids = reference.coordinates, self.grids(scale, reference.arm, reference.name)
        if "*" not in reference.at:
            return [reference] if any(holds(grid, at) for grid in grids) else []
        keys = dict.fromkeys(key for grid in grids for key in matching(grid, at))
        return [Reference(reference.name, reference.arm, key) for key in keys]

    def checks(self, scale: str) -> dict[str, Check]:
        """The checks judged at a scale, by id.

        Those whose measurements are all made there, but for what the preset leaves out.
        """
        self.preset(scale)
        return self._checks[scale]

    @functools.cached_property
    def _checks(self) -> dict[str, dict[str, Check]]:
        scales = self.experiment.scales
        return {scale: self._checks_at(scale, preset.without) for scale, preset in scales.items()}

    def _checks_at(self, scale: str, without: Without) -> dict[str, Check]:
        chosen = {}
        for claim, card in self.expected.each():
            if card.tier in without.tiers or named(card.id, without.checks):
                continue
            parsed = expression.parse(card.expect)
            measured = {r: self.measured(scale, r) for r in parsed.references()}
            if all(measured.values()):
                facts = {**dict(card), "control": self._at(scale, self.control_of(card))}
                expanded = parsed.expanded(measured)
                chosen[card.id] = Check(
                    claim=claim, parsed=expanded, has_control=bool(card.control), **facts
                )
        return chosen

    def _at(self, scale: str, parsed: expression.Check | None) -> expression.Check | None:
        """An expression with its wildcards replaced; None where it is not measured at a scale."""
        if parsed is None:
            return None
        measured = {r: self.measured(scale, r) for r in parsed.references()}
        return parsed.expanded(measured) if all(measured.values()) else None

    @staticmethod
    def control_of(card: CheckCard) -> expression.Check | None:
        """The check that must not hold.

        Raises:
            ReproError: it renames what the check does not mention.
        """
        return expression.parse(card.expect).renamed(card.control) if card.control else None

    def preconditions(self, scale: str) -> dict[str, expression.Check | None]:
        """The preconditions by id; None where a scale does not measure what one reads."""
        return {
            name: self._at(scale, expression.parse(card.expect))
            for name, card in self.expected.preconditions.items()
        }

    def figures(self, scale: str) -> list[Figure]:
        """The figures drawn at a scale."""
        without = self.preset(scale).without.figures
        return [figure for figure in self.experiment.figures if not named(figure.id, without)]
