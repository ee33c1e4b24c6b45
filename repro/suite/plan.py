"""The plan of a scale: which data, models and runs there are, and which come before which.

The Snakemake rules and `repro run` both read it, so that they cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from repro import documents, store
from repro.errors import ReproError, nearest
from repro.places import ROOT, short, work_root
from repro.suite import looks
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.cards.models import ModelRef
from repro.suite.words import SCALES


@cache
def scale_config(scale: str) -> dict[str, Any]:
    """The YAML of a scale: device, methods, description, whether jobs are batched.

    Raises:
        ReproError: no such scale, or a mistake in its file.
    """
    path = ROOT / "workflow" / "config" / f"{scale}.yaml"
    if scale not in SCALES or not path.is_file():
        raise ReproError(f"no scale `{scale}`{nearest(scale, SCALES)}; known: {', '.join(SCALES)}")
    config = documents.expect(path, documents.read_yaml(path), dict)
    schema = documents.read_yaml(ROOT / "workflow" / "schemas" / "config.schema.yaml")
    try:
        jsonschema.validate(config, schema)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "top level"
        raise ReproError(f"{short(path)}: {where}: {documents.one_line(error.message)}") from error
    if config["scale"] != scale:
        raise ReproError(f"{short(path)}: scale: expected `{scale}`, found `{config['scale']}`")
    return config


def methods_at(scale: str) -> list[Method]:
    """The methods of a scale: those that its YAML names and that have a preset for it.

    Raises:
        ReproError: the YAML names a method that is not there.
    """
    wanted = scale_config(scale)["methods"]
    known = {method.slug: method for method in library.load_all()}
    for slug in [] if wanted == "all" else wanted:
        if slug not in known:
            raise ReproError(
                f"workflow/config/{scale}.yaml names `{slug}`{nearest(slug, known)}, "
                "which is not under methods/"
            )
    return [
        method
        for slug, method in known.items()
        if scale in method.experiment.scales and (wanted == "all" or slug in wanted)
    ]


@dataclass(frozen=True)
class Plan:
    """What a scale needs, in dependency order.

    retrain: train the models that come with the suite instead of loading them.
    work: the folder that says which open checks were given further seeds.
    """

    scale: str
    retrain: bool = False
    work: Path = field(default_factory=work_root)

    def planned(self, method: Method) -> Method:
        """A method with the seeds that it has at this scale.

        Raises:
            ReproError: what its open checks were given is damaged.
        """
        return looks.planned(method, self.scale, self.work)

    def is_trained(self, ref: ModelRef) -> bool:
        """Whether a model is trained here; else it comes with the suite."""
        return self.retrain or not self.card(ref).shipped

    def card(self, ref: ModelRef):
        """The card of a model as this scale uses it."""
        return library.owner(ref.owner).model(self.scale, ref.owner, ref.name)

    def before(self, ref: ModelRef) -> list[ModelRef]:
        """The models that a model is trained from."""
        return library.owner(ref.owner).model_models(self.scale, ref, self.retrain)

    def data_of_models(self, refs: Iterable[ModelRef]) -> list[str]:
        """The datasets that models are trained on."""
        return sorted({d for ref in refs if self.is_trained(ref) for d in self.card(ref).data})

    def models_of(self, owner: str) -> list[ModelRef]:
        """The models of an owner that the methods of this scale need, in order."""
        found: dict[ModelRef, None] = {}
        for method in map(self.planned, methods_at(self.scale)):
            found.update(
                dict.fromkeys(method.in_order(self.scale, method.models(self.scale), self.retrain))
            )
        return [ref for ref in found if ref.owner == owner]

    def data_of_arms(self, method: Method, arms: Iterable[str]) -> list[str]:
        """The datasets that arms read."""
        return sorted({d for arm in arms for d in method.arm(self.scale, arm).data})

    def models_of_arms(
        self, method: Method, arms: Iterable[str], seeds: Sequence[int] | None = None
    ) -> list[ModelRef]:
        """The models that arms load, for all their seeds or for some."""
        refs: dict[ModelRef, None] = {}
        for arm in arms:
            for seed in method.seeds(self.scale, arm):
                if seeds is None or seed in seeds:
                    refs.update(dict.fromkeys(method.arm_models(self.scale, arm, seed)))
        return list(refs)

    def shared_arms(self, method: Method) -> list[str]:
        """The arms that may run beside other work: all but those that measure latency."""
        return [name for name, card in method.arms(self.scale).items() if not card.machine]


def mark(path: Path, content: Any) -> str:
    """A file that is written anew when what a job depends on changed; returns its path.

    Snakemake takes it for an input: the job runs again by the time of the file, also where
    Snakemake's own memory of earlier runs is lost.
    """
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        store.write_text(path, text)
    return str(path)
