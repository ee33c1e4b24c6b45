"""A preset at sizes of seconds: its arms, networks, precisions, and a handful of what is counted.

Sizes are capped by the parameter's name. A new parameter that counts something gets its line here
when a rehearsal of its method takes long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro.errors import ReproError
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.words import ZOO

_NAMES = {
    1: "repeats passes trace_every warmup",
    2: """iterations step_iterations most tla cma dm_iterations adm_iterations tsm_iterations
        warm_iterations n_cg n_admm volumes draws per_step searches""",
    3: """updates teacher_steps flow_steps student_steps straight_steps solver_steps
        calibration_steps""",
    4: """steps heun_steps consistency_steps windows noise_levels levels eps_samples initial rows
        adaptive straight""",
    8: """samples n sequences calibration batch sample_batch warm_batch learning_batch tuning_batch
        calibration_batch resamples""",
    12: "slices",
    16: "pairs many chains",
    64: "real fresh points tokens",
    200_000: "characters",
}
MOST = {name: most for most, names in _NAMES.items() for name in names.split()}
"""The most of what is counted; a value that is smaller stays."""

LISTS: dict[str, list[int]] = {"steps": [3, 4], "nfe": [1, 2], "and_steps": [8, 16]}
"""Lists of sizes, each cut to its own length at most."""

LOOSE: dict[str, float] = {"until": 1.0}
"""Limits that a few iterations do not reach."""

KEPT = {("superdiff", "exact"): {"draws"}}
"""Method and arm → parameters that are not what their name says elsewhere."""

SEARCH = ("n", "P", "E", "elites", "mutations", "crossovers", "samples", "Ks", "K", "d", "steps")
"""A search has relations among its sizes: it gets those of smoke, where smoke has it."""

OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("radd", "*"): {"length": 32, "steps": [8, 16], "steps_per_token": [0.0625, 0.25]},
    ("radd", "latency"): {"length": 16},
    ("superdiff", "cost"): {"batch": 1},
}
"""Method and arm (or all) → sizes of its own."""


def shrunken(
    slug: str, name: str, params: Mapping[str, Any], smoke: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameters of an arm or a model at the sizes of a rehearsal.

    Args:
        smoke: its parameters at smoke; empty where smoke leaves it out.
    """
    found = {key: _size(slug, name, key, value, smoke) for key, value in params.items()}
    for arm in ("*", name):
        for key, value in OWN.get((slug, arm), {}).items():
            if key in found:
                found[key] = value[: len(found[key])] if isinstance(found[key], list) else value
    return found


def _size(slug: str, name: str, key: str, value: Any, smoke: Mapping[str, Any]) -> Any:
    if slug == "autodiffusion" and key in SEARCH and key in smoke:
        return smoke[key]
    if key in LISTS and isinstance(value, list):
        return LISTS[key][: len(value)]
    if isinstance(value, bool) or key in KEPT.get((slug, name), ()):
        return value
    if key in MOST and isinstance(value, int):
        return min(value, MOST[key])
    if key in LOOSE and isinstance(value, int | float):
        return LOOSE[key]
    return value


def install() -> None:
    """Shrink every preset that this process reads, and leave each arm one seed.

    What the zoo ships is loaded as it is. The cards are read, and checked, as they stand.
    """
    library.load_all()
    arm_params, model_params, seeds = Method.arm_params, Method.model_params, Method.seeds

    def of_arm(self: Method, scale: str, arm: str) -> dict[str, Any]:
        smoke = _or_nothing(lambda: arm_params(self, "smoke", arm))
        return shrunken(self.slug, arm, arm_params(self, scale, arm), smoke)

    def of_model(self: Method, scale: str, owner: str, name: str) -> dict[str, Any]:
        params = model_params(self, scale, owner, name)
        if owner == ZOO:
            return dict(params)
        smoke = _or_nothing(lambda: model_params(self, "smoke", owner, name))
        return shrunken(owner, name, params, smoke)

    Method.arm_params = of_arm  # type: ignore[method-assign]
    Method.model_params = of_model  # type: ignore[method-assign]
    Method.seeds = lambda self, scale, arm: seeds(self, scale, arm)[:1]  # type: ignore[method-assign]


def _or_nothing(params) -> Mapping[str, Any]:
    try:
        return params()
    except ReproError:  # smoke leaves it out
        return {}
