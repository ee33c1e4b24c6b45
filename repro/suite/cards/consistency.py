"""What the cards of a method must agree on: every name that one uses, another declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from repro.data import catalogue
from repro.errors import ReproError, nearest
from repro.suite.cards.experiment import Experiment, Model
from repro.suite.cards.loading import read
from repro.suite.cards.method import Method
from repro.suite.words import ZOO


def _models_in_reach(method: Method) -> dict[str, Model]:
    """Every model that a card may name: its own, `zoo/<model>`, and `<method>/<model>`."""
    models = dict(method.experiment.models)
    models |= {f"{ZOO}/{name}": model for name, model in method.zoo.models.items()}
    wanted = [
        m for card in (*models.values(), *method.experiment.arms.values()) for m in card.models
    ]
    while wanted:
        name = wanted.pop()
        owner, _, bare = name.rpartition("/")
        path = method.folder.parent / owner.replace("-", "_") / "experiment.yaml"
        if name in models or not owner or not path.is_file():
            continue
        # Not load(): two methods may use each other's models.
        for other, model in read(path, Experiment).models.items():
            own = [m if "/" in m else f"{owner}/{m}" for m in model.models]
            own = [m.removeprefix(f"{method.slug}/") for m in own]
            models[f"{owner}/{other}"] = model.model_copy(update={"models": own})
            wanted += own
    return models


def _circle(models: Mapping[str, Model], start: str) -> list[str]:
    """A path of `models` from a model back to itself, or nothing."""
    paths = [[start]]
    while paths:
        path = paths.pop()
        for name in models[path[-1]].models if path[-1] in models else []:
            if name == start:
                return [*path, name]
            if name not in path:
                paths.append([*path, name])
    return []


def cross_check(method: Method) -> None:
    experiment, paper = method.experiment, method.paper
    file = f"{method.folder.name}/experiment.yaml"

    def fail(where: str, message: str):
        raise ReproError(f"methods/{file}: {where}: {message}")

    def known(where: str, name: str, valid: Iterable[str], kind: str):
        valid = list(valid)
        if name not in valid:
            fail(where, f"unknown {kind} `{name}`{nearest(name, valid)}")

    if experiment.paper != paper.slug:
        fail("paper", f"expected `{paper.slug}` (paper.yaml), found `{experiment.paper}`")
    datasets = catalogue.names()
    models = _models_in_reach(method)
    for name, model in experiment.models.items():
        for data in model.data:
            known(f"models.{name}.data", data, datasets, "dataset")
        for earlier in model.models:
            known(f"models.{name}.models", earlier, models, "model")
            if models[earlier].per_seed and not model.per_seed:
                fail(
                    f"models.{name}", f"is trained once from `{earlier}`, which is trained per seed"
                )
    for name in experiment.models:
        if circle := _circle(models, name):
            fail(f"models.{name}.models", f"needs itself: {' -> '.join(circle)}")
    for name, arm in experiment.arms.items():
        for data in arm.data:
            known(f"arms.{name}.data", data, datasets, "dataset")
        for model in arm.models:
            known(f"arms.{name}.models", model, models, "model")
        if arm.deterministic and any(models[name].per_seed for name in arm.models):
            fail(f"arms.{name}", "is deterministic but uses a model that is trained per seed")
    claims = [claim.id for claim in paper.claims]
    check_ids = set()
    for number, check in enumerate(experiment.checks):
        where = f"checks.{number}"
        known(f"{where}.claim", check.claim, claims, "claim")
        identity = check.id or f"{check.claim}-{number}"
        if identity in check_ids:
            fail(f"{where}.id", f"`{identity}` stands twice")
        check_ids.add(identity)
        try:
            references = check.parsed.references()
        except ReproError as error:
            fail(f"{where}.expect", str(error))
        if not references:
            fail(f"{where}.expect", f"`{check.expect}` mentions no measurement")
        for reference in references:
            known(f"{where}.expect", reference.arm, experiment.arms, "arm")
            known(f"{where}.expect", reference.name, experiment.measurements, "measurement")
    for number, table in enumerate(experiment.tables):
        for name in table.measurements:
            known(f"tables.{number}.measurements", name, experiment.measurements, "measurement")
        for name in table.arms or []:
            known(f"tables.{number}.arms", name, experiment.arms, "arm")
    for number, finding in enumerate(experiment.findings):
        known(f"findings.{number}.claim", finding.claim, claims, "claim")
    for scale, preset in experiment.scales.items():
        where = f"scales.{scale}"
        declared = {
            key
            for card in [*experiment.models.values(), *experiment.arms.values()]
            for key in card.params
        }
        for key in preset.params:
            known(f"{where}.params", key, declared, "parameter")
        for kind, cards_of_kind, overrides in (
            ("arm", experiment.arms, preset.arms),
            ("model", experiment.models, preset.models),
        ):
            for name, params in overrides.items():
                known(f"{where}.{kind}s", name, cards_of_kind, kind)
                for key in params:
                    valid = cards_of_kind[name].params
                    known(f"{where}.{kind}s.{name}", key, valid, "parameter")
        for name in preset.exclude:
            known(f"{where}.exclude", name, experiment.arms, "arm")
        for old, new in preset.stand_ins.items():
            for name in (old, *([new] if new else [])):
                known(f"{where}.stand_ins", name, [*datasets, *models], "dataset or model")
