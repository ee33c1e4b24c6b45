"""What a result depends on, known before anything runs.

A fingerprint covers parameters, seed, threads, the definitions that the card's function and `Job`
reach (`repro.suite.definitions`), the content of the data and how it is built, and the models.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.data import catalogue
from repro.errors import ReproError
from repro.places import ROOT, short
from repro.suite import definitions
from repro.suite.cards import official
from repro.suite.cards.method import Method
from repro.suite.cards.models import ModelRef, Owner

ALWAYS = ("repro.job:Job", "repro.job:Params", "repro.job:reproducible")
"""What every job is made of: random streams, inputs, measurements, determinism."""


def digest(content: Any) -> str:
    """Twenty hexadecimal digits of SHA-256 over the canonical JSON of a content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@functools.cache
def code(function: str) -> str:
    """Hash of the definitions that a job with this function depends on.

    Raises:
        ReproError: there is no such function.
    """
    return digest(definitions.closure([function, *ALWAYS]))


@functools.cache
def _code_of_loading() -> str:
    return digest(definitions.closure(["repro.zoo.pretrained:shipped"]))


def sources(function: str) -> list[Path]:
    """The files that hold what a job with this function depends on."""
    return definitions.files(definitions.closure([function, *ALWAYS]))


@functools.cache
def of_data(name: str) -> str:
    """Identity of a dataset: the checksum of its content, and how it is built from that."""
    build = f"{catalogue.module_of(name)}:build"
    return digest([catalogue.fingerprint(name), definitions.closure([build])])


def of_model(method: Owner, scale: str, ref: ModelRef, retrain: bool = False) -> str:
    """Fingerprint of a model: trained by its card, or the file that comes with the suite."""
    return digest(parts_of_model(method, scale, ref, retrain))


def parts_of_model(
    method: Owner, scale: str, ref: ModelRef, retrain: bool = False
) -> dict[str, str]:
    """What a model depends on, part by part, so that a stale one can say what changed."""
    card = method.model(scale, ref.owner, ref.name)
    if card.shipped and not retrain:
        return {
            "parameters": digest(method.model_params(scale, ref.owner, ref.name)),
            "code": _code_of_loading(),
            "weights": shipped_hash(card.shipped),
        }
    earlier = method.model_models(scale, ref, retrain)
    return {
        "parameters": digest([method.model_params(scale, ref.owner, ref.name), card.threads]),
        "seed": str(ref.seed),
        "code": digest([card.train, code(card.train)]),
        "data": digest([of_data(name) for name in card.data]),
        "models": digest([of_model(method, scale, other, retrain) for other in earlier]),
    }


def of_run(method: Method, scale: str, arm: str, seed: int, retrain: bool = False) -> str:
    """Fingerprint of one seed of an arm."""
    return digest(parts_of_run(method, scale, arm, seed, retrain))


def parts_of_run(
    method: Method, scale: str, arm: str, seed: int, retrain: bool = False
) -> dict[str, str]:
    """What a run depends on, part by part."""
    card = method.arm(scale, arm)
    models = method.arm_models(scale, arm, seed)
    names = method.official(scale, arm)
    return {
        **({"official": of_official(names)} if names else {}),
        "parameters": digest([method.arm_params(scale, arm), card.threads]),
        "seed": str(seed),
        "code": digest([card.run, code(card.run)]),
        "data": digest([of_data(name) for name in card.data]),
        "models": digest([of_model(method, scale, ref, retrain) for ref in models]),
    }


def of_official(names: Sequence[str]) -> str:
    """Identity of official files: source, revision and checksums, as their cards declare them."""
    known = official.everything()
    return digest([known[name].identity for name in names])


def shipped_path(shipped: str) -> Path:
    """Where the weights that come with the suite lie."""
    return ROOT / "repro" / "zoo" / shipped


@functools.cache
def shipped_hash(shipped: str) -> str:
    """SHA-256 of a file of weights that comes with the suite.

    Raises:
        ReproError: the file is not there.
    """
    path = shipped_path(shipped)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ReproError(
            f"{short(path)}: shipped weights cannot be read ({error.strerror}); restore the file "
            "with `git checkout` or train it with `--retrain`"
        ) from error


# What is derived from results --------------------------------------------------------------


def of_judging(method: Method, scale: str) -> str:
    """What a verdict depends on besides the runs: the checks, the claims and the judge."""
    checks = [
        {**vars(check), "parsed": [str(r) for r in check.parsed.references()]}
        for check in method.checks(scale).values()
    ]
    claims = [claim.model_dump() for claim in method.paper.claims]
    judge = definitions.closure(["repro.suite.verdict:judge"], remarks=())
    return digest([checks, claims, judge])


def of_report(methods: Sequence[Method]) -> str:
    """What tables, figures and page depend on besides verdicts and runs."""
    figures = [figure.run for method in methods for figure in method.experiment.figures]
    cards = [
        card.model_dump(mode="json")
        for method in methods
        for card in (method.paper, method.experiment, method.expected)
    ]
    suite = ROOT / "repro" / "suite"
    report = [
        [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in sorted([*(suite / "report").rglob("*"), *suite.glob("records.py")])
        if path.suffix in (".py", ".html", ".css", ".js", ".j2", ".jinja")
    ]
    return digest([cards, report, definitions.closure(figures, remarks=())])


def of_comparisons() -> str:
    """What the comparisons across methods say: their cards."""
    return digest([path.read_text("utf-8") for path in sorted(ROOT.glob("comparisons/*.yaml"))])
