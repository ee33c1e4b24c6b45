"""`experiment.yaml`: models, arms, measurements, and a preset of sizes per scale."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from repro.suite import words
from repro.suite.cards.base import Dotted, Name, Params, Strict


class Model(Strict):
    """A network that the DAG trains once (per seed, if ``per_seed``) and that arms share.

    ``models``: those it is trained from, as a student is from its teacher.
    """

    train: Dotted
    title: str = ""
    data: list[str] = []
    models: list[str] = []
    params: Params = {}
    per_seed: bool = False
    threads: int = Field(1, ge=1)
    gpu: bool = False
    shipped: str | None = None
    note: str = ""


class Arm(Strict):
    """One method variant or baseline under the protocol that all arms share."""

    run: Dotted
    title: str = ""
    models: list[str] = []
    data: list[str] = []
    params: Params = {}
    baseline: bool = False
    deterministic: bool = False
    machine: bool = False
    gpu: bool = False
    threads: int = Field(1, ge=1)
    note: str = ""


class Measurement(Strict):
    """What a measured name means. ``timing`` figures stay out of bit-identical tables."""

    title: str = ""
    unit: str = ""
    direction: Literal["lower", "higher", "none"] = "none"
    format: str = ".4g"
    timing: bool = False


class Without(Strict):
    """What a scale leaves out, by name; `*` stands for any text."""

    arms: list[str] = []
    figures: list[str] = []


class Scale(Strict):
    """A preset of sizes, and all that says what runs at a scale.

    ``without``: what is left out; all else runs. ``replace``: datasets and models used instead of
    those that the cards list (null: none). ``params`` override the keys that arms and models
    declare.
    """

    seeds: int | list[int] = 1
    without: Without = Without()
    replace: dict[str, str | None] = {}
    params: Params = {}
    models: dict[str, Params] = {}
    arms: dict[str, Params] = {}

    def seed_list(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


class Figure(Strict):
    id: Name
    run: Dotted
    title: str
    caption: str


class Table(Strict):
    """A result table: arms as rows, measurements as columns."""

    id: Name
    title: str
    caption: str = ""
    measurements: list[str]
    arms: list[str] | None = None
    at: Params = {}


class Experiment(Strict):
    paper: str
    models: dict[Name, Model] = {}
    arms: dict[Name, Arm]
    measurements: dict[str, Measurement]
    scales: dict[words.Scale, Scale]
    figures: list[Figure] = []
    tables: list[Table] = []
    profile: Dotted | None = None


class Zoo(Strict):
    models: dict[Name, Model]
    scales: dict[words.Scale, Scale] = {}
