"""What the cards of a method must agree on: every name that one uses, another declares."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from repro.coordinates import canonical, outside
from repro.data import catalogue
from repro.documents import one_line
from repro.errors import ReproError, nearest
from repro.suite import expression
from repro.suite.cards import official
from repro.suite.cards.base import Params, named
from repro.suite.cards.checks import CheckCard
from repro.suite.cards.experiment import Arm, Experiment, Measurement, Model, Scale, Table, Zoo
from repro.suite.cards.loading import read
from repro.suite.cards.method import Method
from repro.suite.cards.models import replaced
from repro.suite.expression import Reference
from repro.suite.words import ZOO


@dataclass(frozen=True)
class _File:
    """A card's file: its mistakes are one line with the key path and the nearest valid name."""

    name: str
    folder: str = "methods"

    def fail(self, where: str, message: str) -> NoReturn:
        raise ReproError(f"{self.folder}/{self.name}: {one_line(where)}: {one_line(message)}")

    def known(self, where: str, name: str, valid: Collection[str], kind: str) -> None:
        if name not in valid:
            self.fail(where, f"unknown {kind} `{name}`{nearest(name, valid)}")

    def matched(
        self, where: str, patterns: Iterable[str], names: Collection[str], kind: str
    ) -> None:
        """Every pattern has to match one of the names."""
        for pattern in patterns:
            if not any(named(name, [pattern]) for name in names):
                self.known(where, pattern, names, kind)


def cross_check(method: Method) -> None:
    """Check every name that the cards of a method use.

    Raises:
        ReproError: the first mistake: file, key path, what was expected.
    """
    _check_paper(_File(f"{method.folder.name}/paper.yaml"), method)
    file = _File(f"{method.folder.name}/experiment.yaml")
    experiment = method.experiment
    if experiment.paper != method.slug:
        file.fail("paper", f"expected `{method.slug}` (paper.yaml), found `{experiment.paper}`")
    datasets, models = catalogue.names(), _models_in_reach(method)
    for name, model in experiment.models.items():
        _check_uses(file, f"models.{name}", model, datasets, models)
        _check_model(file, f"models.{name}", name, model, models)
    for name, arm in experiment.arms.items():
        _check_uses(file, f"arms.{name}", arm, datasets, models)
        _check_arm(file, f"arms.{name}", arm, models)
        _check_beats(file, f"arms.{name}.beats", name, experiment.arms)
    for name, measurement in experiment.measurements.items():
        _check_measurement(file, name, measurement, experiment)
    for name, preset in experiment.scales.items():
        _check_preset(file, f"scales.{name}", preset, method)
        _check_replaced(file, f"scales.{name}.replace", preset.replace, datasets, models)
        _check_at_scale(file, f"scales.{name}", name, method, models)
    _check_official(file, method)
    _check_reads(file, experiment, datasets)
    _check_tables(file, method)
    _check_checks(_File(f"{method.folder.name}/checks.yaml"), method)


def cross_check_zoo(zoo: Zoo) -> None:
    """Check the names that the card of the shared models uses.

    Raises:
        ReproError: the first mistake.
    """
    file = _File("zoo.yaml", "repro/zoo")
    models = {f"{ZOO}/{name}": _at_home(model, ZOO) for name, model in zoo.models.items()}
    for name, model in models.items():
        where = f"models.{name.removeprefix(f'{ZOO}/')}"
        _check_uses(file, where, model, catalogue.names(), models)
        _check_model(file, where, name, model, models)
    for name, preset in zoo.scales.items():
        where = f"scales.{name}"
        _check_overrides(file, f"{where}.models", preset.models, zoo.models, "model")
        _check_replaced(file, f"{where}.replace", preset.replace, catalogue.names(), models)


def _check_paper(file: _File, method: Method) -> None:
    paper = method.paper
    if method.folder.name != paper.slug.replace("-", "_"):
        file.fail("slug", f"`{paper.slug}` is not that of the folder {method.folder.name}")
    for key in ("short", "title", "authors"):
        value = getattr(paper, key)
        if not value or (isinstance(value, list) and "" in value):
            file.fail(key, "is empty")


# experiment.yaml ----------------------------------------------------------------------------


def _check_official(file: _File, method: Method) -> None:
    """The official files that arms read are declared."""
    known = official.everything(method.folder.parent.parent)
    for scale in method.experiment.scales:
        for arm in method.arms(scale):
            for listed in method.official(scale, arm):
                file.known(f"arms.{arm}.official", listed, known, "official file")


def _models_in_reach(method: Method) -> dict[str, Model]:
    """Every model that a card may name: its own, `zoo/<model>`, and `<method>/<model>`."""
    models = dict(method.experiment.models)
    models |= {f"{ZOO}/{name}": model for name, model in method.others(ZOO).own_models.items()}
    cards: list[Arm | Model] = [*models.values(), *method.experiment.arms.values()]
    wanted = [name for card in cards for name in card.models]
    while wanted:
        name = wanted.pop()
        owner, _, bare = name.rpartition("/")
        path = method.folder.parent / owner.replace("-", "_") / "experiment.yaml"
        if name in models or not owner or not path.is_file():
            continue
        # Not load(): two methods may use each other's models.
        card = read(path, Experiment)
        for other, model in card.models.items():
            moved = _at_home(model, owner)
            own = [m.removeprefix(f"{method.slug}/") for m in moved.models]
            models[f"{owner}/{other}"] = moved.model_copy(update={"models": own})
            wanted += own
    return models


def _at_home(model: Model, owner: str) -> Model:
    """A model of that owner, the names of those that it needs in full."""
    full = [name if "/" in name else f"{owner}/{name}" for name in model.models]
    return model.model_copy(update={"models": full})


def _circle(models: Mapping[str, Model], start: str) -> list[str]:
    """A path of `models` from a model back to itself, or nothing."""
    paths, seen = [[start]], set()
    while paths:
        path = paths.pop()
        for name in models[path[-1]].models if path[-1] in models else []:
            if name == start:
                return [*path, name]
            if name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return []


def _check_uses(
    file: _File, where: str, card: Arm | Model, datasets: Collection[str], models: Collection[str]
) -> None:
    for data in card.data:
        file.known(f"{where}.data", data, datasets, "dataset")
    for model in card.models:
        file.known(f"{where}.models", model, models, "model")


def _check_model(
    file: _File, where: str, name: str, model: Model, models: Mapping[str, Model]
) -> None:
    for earlier in model.models:
        if models[earlier].per_seed and not model.per_seed:
            file.fail(where, f"is trained once from `{earlier}`, which is trained per seed")
    if circle := _circle(models, name):
        file.fail(f"{where}.models", f"needs itself: {' -> '.join(circle)}")


def _check_arm(file: _File, where: str, arm: Arm, models: Mapping[str, Model]) -> None:
    if arm.deterministic and any(models[model].per_seed for model in arm.models):
        file.fail(where, "is deterministic but uses a model that is trained per seed")


def _check_reads(file: _File, experiment: Experiment, datasets: Collection[str]) -> None:
    """What is said of the items that arms and models read is about some that there are."""
    names = [*experiment.arms, *experiment.models]
    for number, reads in enumerate(experiment.reads):
        file.matched(f"reads.{number}.of", reads.of, names, "arm or model")
        for name in reads.data:
            file.known(f"reads.{number}.data", name, datasets, "dataset")


def _check_beats(file: _File, where: str, name: str, arms: Mapping[str, Arm]) -> None:
    """A baseline has to beat another arm."""
    start = arms[name].beats
    if start is None:
        return
    file.known(where, start, arms, "arm")
    if not arms[name].baseline or start == name:
        file.fail(where, "is for baselines, and names another arm: the start of this one")


def _check_replaced(
    file: _File,
    where: str,
    replace: Mapping[str, str | None],
    datasets: Collection[str],
    models: Collection[str],
) -> None:
    """Datasets are replaced by datasets, models by models."""
    for old, new in replace.items():
        file.known(where, old, [*datasets, *models], "dataset or model")
        if new is not None and old in datasets:
            file.known(f"{where}.{old}", new, datasets, "dataset")
        elif new is not None:
            file.known(f"{where}.{old}", new, models, "model")


def _check_at_scale(
    file: _File, where: str, scale: str, method: Method, models: Mapping[str, Model]
) -> None:
    """What a preset leaves and replaces still has arms, and models that can be trained."""
    arms, replace = method.arms(scale), method.preset(scale).replace
    if not arms:
        file.fail(where, "no arm runs at this scale")
    if not replace:
        return
    own = {name: replaced(card, replace) for name, card in method.own_models.items()}
    for name, card in own.items():
        _check_model(file, f"{where}.replace: models.{name}", name, card, {**models, **own})
    for name, arm in arms.items():
        _check_arm(file, f"{where}.replace: arms.{name}", arm, {**models, **own})


def _check_measurement(
    file: _File, name: str, measurement: Measurement, experiment: Experiment
) -> None:
    for number, at in enumerate(measurement.at):
        where = f"measurements.{name}.at.{number}"
        file.matched(f"{where}.arms", at.arms, experiment.arms, "arm")
        known = {
            key
            for arm, card in experiment.arms.items()
            if named(arm, at.arms)
            for key in card.params
        }
        for parameter in at.parameters:
            file.known(where, parameter, known, "parameter")


def _check_tables(file: _File, method: Method) -> None:
    experiment = method.experiment
    for number, table in enumerate(experiment.tables):
        where = f"tables.{number}"
        for name in table.measurements:
            file.known(f"{where}.measurements", name, experiment.measurements, "measurement")
        for name in table.arms or []:
            file.known(f"{where}.arms", name, experiment.arms, "arm")
        if table.at:
            _check_place(file, f"{where}.at", table, method)


def _check_place(file: _File, where: str, table: Table, method: Method) -> None:
    grids = [
        grid
        for scale in method.experiment.scales
        for arm in table.arms or method.experiment.arms
        for name in table.measurements
        for grid in method.grids(scale, arm, name)
    ]
    for key, value in table.at.items():
        file.known(where, key, {key for grid in grids for key in grid}, "coordinate")
        values = {v for grid in grids for v in grid.get(key, ())}
        file.known(where, canonical(value), values, key)


def _check_preset(file: _File, where: str, preset: Scale, method: Method) -> None:
    experiment, without = method.experiment, preset.without
    cards: list[Arm | Model] = [*experiment.models.values(), *experiment.arms.values()]
    declared = {key for card in cards for key in card.params}
    for key in preset.params:
        file.known(f"{where}.params", key, declared, "parameter")
    _check_overrides(file, f"{where}.arms", preset.arms, experiment.arms, "arm")
    _check_overrides(file, f"{where}.models", preset.models, experiment.models, "model")
    checks = [check.id for _, check in method.expected.each()]
    figures = [figure.id for figure in experiment.figures]
    file.matched(f"{where}.without.arms", without.arms, experiment.arms, "arm")
    file.matched(
        f"{where}.without.measurements",
        without.measurements,
        experiment.measurements,
        "measurement",
    )
    file.matched(f"{where}.without.checks", without.checks, checks, "check")
    file.matched(f"{where}.without.figures", without.figures, figures, "figure")


def _check_overrides(
    file: _File,
    where: str,
    overrides: Mapping[str, Params],
    cards: Mapping[str, Arm] | Mapping[str, Model],
    kind: str,
) -> None:
    for name, params in overrides.items():
        file.known(where, name, cards, kind)
        for key in params:
            file.known(f"{where}.{name}", key, cards[name].params, "parameter")


# checks.yaml --------------------------------------------------------------------------------


def _check_checks(file: _File, method: Method) -> None:
    claims = [claim.id for claim in method.paper.claims]
    ids: set[str] = set()
    for claim, expectation in method.expected.claims.items():
        if claim not in claims:
            file.fail(
                "claims",
                f"unknown claim `{claim}`{nearest(claim, claims)}; paper.yaml has "
                f"{', '.join(claims)}",
            )
        for number, check in enumerate(expectation.checks):
            where = f"claims.{claim}.checks.{number}"
            if check.id in ids:
                file.fail(f"{where}.id", f"`{check.id}` stands twice")
            ids.add(check.id)
            _check_check(file, where, check, method)
    for name, precondition in method.expected.preconditions.items():
        _check_measured(file, f"preconditions.{name}.expect", precondition.expect, method)
    judged = {name for scale in method.experiment.scales for name in method.checks(scale)}
    for claim, expectation in method.expected.claims.items():
        for number, check in enumerate(expectation.checks):
            if check.id not in judged:
                _explain_unjudged(file, f"claims.{claim}.checks.{number}.expect", check, method)


def _check_check(file: _File, where: str, check: CheckCard, method: Method) -> None:
    """What a check says of itself, without the others."""
    if not check.why.strip():
        file.fail(f"{where}.why", "is empty; say where the threshold comes from")
    try:
        references = expression.parse(check.expect).references()
    except ReproError as error:
        file.fail(f"{where}.expect", str(error))
    if not references:
        file.fail(f"{where}.expect", f"`{check.expect}` mentions no measurement")
    for need in check.needs:
        file.known(f"{where}.needs", need, method.expected.preconditions, "precondition")
    _check_control(file, f"{where}.control", check, method)


def _check_control(file: _File, where: str, check: CheckCard, method: Method) -> None:
    try:
        control = method.control_of(check)
    except ReproError as error:
        file.fail(where, str(error))
    if control is not None:
        _check_measured(file, where, control.text, method)


def _check_measured(file: _File, where: str, expect: str, method: Method) -> None:
    """What a precondition or a control reads has to be measured at some scale."""
    try:
        references = expression.parse(expect).references()
    except ReproError as error:
        file.fail(where, str(error))
    for reference in references:
        file.known(where, reference.arm, method.experiment.arms, "arm")
        file.known(where, reference.name, method.experiment.measurements, "measurement")
        if not any(method.measured(scale, reference) for scale in method.experiment.scales):
            file.fail(where, f"`{reference}`: {_unmeasured(reference, method)}")


def _explain_unjudged(file: _File, where: str, check: CheckCard, method: Method) -> NoReturn:
    scales = method.experiment.scales
    references = expression.parse(check.expect).references()
    for reference in references:
        file.known(where, reference.arm, method.experiment.arms, "arm")
        file.known(where, reference.name, method.experiment.measurements, "measurement")
        if not any(method.measured(scale, reference) for scale in scales):
            file.fail(where, f"`{reference}`: {_unmeasured(reference, method)}")
    together = any(all(method.measured(scale, r) for r in references) for scale in scales)
    why = "every preset leaves it out" if together else "its measurements are nowhere made together"
    file.fail(where, f"is judged at no scale: {why}")


def _unmeasured(reference: Reference, method: Method) -> str:
    """Why an arm measures nothing of that reference at any scale."""
    scales, arm, name = method.experiment.scales, reference.arm, reference.name
    grids = [grid for scale in scales for grid in method.grids(scale, arm, name)]
    if not grids and any(named(arm, at.arms) for at in method.experiment.measurements[name].at):
        return f"every preset leaves out `{arm}` or `{name}`"
    if not grids:
        known = [
            other
            for other, measurement in method.experiment.measurements.items()
            if any(named(arm, at.arms) for at in measurement.at)
        ]
        return f"`{arm}` does not measure `{name}` at any scale{nearest(name, known)}"
    return outside(reference.coordinates, grids) or "matches nothing"
