"""The models of the zoo by name: their cards, and the weights that come with the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repro.errors import ReproError, nearest
from repro.job import Job
from repro.suite.cards import library
from repro.suite.cards.experiment import Model
from repro.suite.fingerprint import shipped_path
from repro.suite.words import ZOO

if TYPE_CHECKING:
    from torch import Tensor, nn


def names() -> tuple[str, ...]:
    """Names of all zoo models."""
    return tuple(library.zoo().models)


def card(name: str) -> Model:
    """The card of a zoo model, named with or without ``zoo/``.

    Raises:
        ReproError: the zoo has no such model.
    """
    bare, models = name.removeprefix("zoo/"), library.zoo().models
    if bare not in models:
        raise ReproError(
            f"the zoo has no model '{name}'{nearest(bare, models)}; "
            f"repro/zoo/zoo.yaml lists {', '.join(models)}"
        )
    return models[bare]


def params(name: str) -> dict[str, Any]:
    """Parameters of a zoo model as its card gives them."""
    return dict(card(name).params)


def build(name: str) -> nn.Module:
    """The untrained network of a zoo model, initialised from the global generator."""
    from repro.zoo import pretrained

    return pretrained.build(params(name))


def shipped(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a zoo model that come with the suite, and how they were made.

    Raises:
        ReproError: no such model, or its card ships no weights.
    """
    from repro.zoo import pretrained

    file = card(name).shipped
    if file is None:
        raise ReproError(f"zoo model '{name}' has no shipped weights; train it with --retrain")
    return pretrained.shipped(shipped_path(file))


def job(*arguments: Any, **named: Any) -> Job:
    """`Job.for_test`, with the parameters of every model of the zoo: for tests and notebooks."""
    known = {f"{ZOO}/{name}": params(name) for name in names()}
    named["model_params"] = known | named.get("model_params", {})
    return Job.for_test(*arguments, **named)
