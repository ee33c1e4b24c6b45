"""`experiment.yaml`: models, arms, measurements, and a preset of sizes per scale."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from repro.coordinates import Grid, canonical
from repro.data.items import Purpose
from repro.documents import quoted
from repro.errors import ReproError
from repro.suite import words
from repro.suite.cards.base import Dotted, Identifier, Name, Params, Strict, unique_ids


class Model(Strict):
    """A network that the DAG trains once (per seed, if ``per_seed``) and that arms share.

    ``models``: those it is trained from, as a student is from its teacher. ``gpu``: as for an arm.
    """

    train: Dotted
    title: str = ""
    data: list[str] = []
    models: list[str] = []
    params: Params = {}
    per_seed: bool = False
    threads: int = Field(1, ge=1, le=1024)
    gpu: bool | None = None
    shipped: Annotated[str, Field(pattern=r"^weights/[a-z0-9][a-z0-9.-]*\.safetensors$")] | None = (
        None
    )
    note: str = ""


class Arm(Strict):
    """One method variant or baseline under the protocol that all arms share.

    ``beats``: the arm that a baseline has to be better than, its own start (untrained, untuned).
    ``official``: the official files that it reads, by their names in `official.yaml`; ``$name``
    stands for those that its parameter of that name lists.
    ``machine``: it measures latency and has the machine for itself. ``gpu``: whether it asks for a
    GPU, and refuses to run without one, at the scales that have one; null: as its code says
    (`repro.suite.needs`).
    """

    run: Dotted
    title: str = ""
    models: list[str] = []
    data: list[str] = []
    official: list[str] = []
    params: Params = {}
    baseline: bool = False
    beats: str | None = None
    deterministic: bool = False
    machine: bool = False
    gpu: bool | None = None
    threads: int = Field(1, ge=1, le=1024)
    note: str = ""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _joined(value: Any) -> Any:
    return [item for part in _listed(value) for item in _listed(part)]


Coordinate = float | int | bool | Annotated[str, Field(pattern=r"^[^,=\[\]]+$")]
Values = Annotated[
    list[Coordinate], BeforeValidator(_listed, json_schema_input_type=list[Coordinate] | Coordinate)
]
"""A list; a single value may stand for a list of one."""
Names = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=list[str] | str)]


class At(BaseModel):
    """Where a measurement is made: every combination of its coordinates' values, by some arms.

    A value ``$name`` stands for those of the arm's parameter of that name at the scale, and
    ``2 * $name`` for twice those; arms without such a parameter measure nothing here.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Values]
    arms: Names = ["*"]

    @model_validator(mode="after")
    def _named(self) -> Self:
        for key in self.coordinates:
            if not IDENTIFIER.fullmatch(key):
                raise ValueError(f"the coordinate {quoted(key)} is not a name such as `steps`")
        return self

    @property
    def coordinates(self) -> dict[str, list[Coordinate]]:
        return self.__pydantic_extra__

    @functools.cached_property
    def parameters(self) -> list[str]:
        """The parameters that it mentions."""
        values = (value for values in self.coordinates.values() for value in values)
        return [m.group(2) for v in values if isinstance(v, str) and (m := PARAMETER.match(v))]

    @functools.cached_property
    def _fixed(self) -> Grid:
        return self._resolved({})

    def grid(self, params: Params) -> Grid | None:
        """The points of an arm with these parameters; None where it lacks one of them.

        Raises:
            ReproError: a parameter is not a value or a list of values.
        """
        if not self.parameters:
            return self._fixed
        if any(name not in params for name in self.parameters):
            return None
        return self._resolved(params)

    def _resolved(self, params: Params) -> Grid:
        return {
            key: dict.fromkeys(text for value in values for text in _texts(value, params))
            for key, values in self.coordinates.items()
        }


Ats = Annotated[list[At], BeforeValidator(_joined, json_schema_input_type=list[At | list[At]] | At)]
"""One, or several; a list among them, as an alias may be one, stands for its items."""
IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PARAMETER = re.compile(r"(?:(\d+) \* )?\$(\w+)$")


def _texts(value: Coordinate, params: Params) -> list[str]:
    match = PARAMETER.match(value) if isinstance(value, str) else None
    if not match:
        return [canonical(value)]
    factor, name = match.groups()
    found = _listed(params[name])
    if not all(isinstance(item, str | float | int) for item in found):
        raise ReproError(f"`{value}` needs a value or a list of values, found {params[name]!r}")
    return [canonical(int(factor) * item if factor else item) for item in found]


class Measurement(Strict):
    """What a measured name means. ``timing`` figures stay out of bit-identical tables.

    ``counted``: a count, or a share of few tries, so that seeds may well agree to the last bit.
    ``at``: where it is made; without it once by any arm, without coordinates.
    """

    title: str = ""
    unit: str = ""
    direction: Literal["lower", "higher", "none"] = "none"
    format: Annotated[str, Field(pattern=r"^[+]?,?(\.\d{1,2})?[efgd%]?$")] = ".4g"
    timing: bool = False
    counted: bool = False
    at: Ats = [At.model_validate({})]


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed stands twice")
    return seeds


MOST_SEEDS = 1000
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=MOST_SEEDS), AfterValidator(_distinct)]


class Reads(Strict):
    """What some arms or models read a part of a data set for, where that is not what they do.

    A model is trained on what it reads and an arm measured on it; here a card says otherwise, or
    that an arm is measured on purpose on what a model has seen.

    Attributes:
        of: arms and models; `*` stands for any text.
        part: a split (train, test, ood) or a volume (t1). Of a data set of which one is named here,
            they may read no other.
    """

    of: Annotated[list[str], Field(min_length=1)]
    data: Names
    part: Names
    purpose: Purpose
    why: Annotated[str, Field(pattern=r"\S")]


class Without(Strict):
    """What a scale leaves out, by name; `*` stands for any text."""

    arms: list[str] = []
    measurements: list[str] = []
    tiers: list[words.Tier] = []
    checks: list[str] = []
    figures: list[str] = []


class Scale(Strict):
    """A preset of sizes, and all that says what runs at a scale.

    ``without``: what is left out; all else runs. ``replace``: datasets and models used instead of
    those that the cards list (null: none). ``params`` override the keys that arms and models
    declare. ``most``: up to how many seeds an open check may add (`repro.suite.inference`).
    """

    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | Seeds = 1
    most: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | None = None
    without: Without = Without()
    replace: dict[str, str | None] = {}
    params: Params = {}
    models: dict[str, Params] = {}
    arms: dict[str, Params] = {}

    @model_validator(mode="after")
    def _most(self) -> Self:
        if self.most is not None and not (isinstance(self.seeds, int) and self.seeds <= self.most):
            raise ValueError(f"most: {self.most} needs a number of seeds that is not larger")
        return self

    @model_validator(mode="after")
    def _replaced_once(self) -> Self:
        for old, new in self.replace.items():
            if new in self.replace:
                raise ValueError(f"replace: `{old}` becomes `{new}`, which is replaced itself")
        return self

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
    measurements: Annotated[list[str], Field(min_length=1)]
    arms: list[str] | None = None
    at: Params = {}


class Experiment(Strict):
    paper: str
    models: dict[Name, Model] = {}
    arms: dict[Name, Arm]
    measurements: dict[Identifier, Measurement]
    scales: dict[words.Scale, Scale]
    reads: list[Reads] = []
    figures: list[Figure] = []
    tables: list[Table] = []
    profile: Dotted | None = None

    @model_validator(mode="after")
    def _unique(self) -> Self:
        unique_ids("figure", [figure.id for figure in self.figures])
        unique_ids("table", [table.id for table in self.tables])
        return self


class Zoo(Strict):
    models: dict[Name, Model]
    scales: dict[words.Scale, Scale] = {}
