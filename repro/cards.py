"""Cards: what a paper says (``paper.yaml``) and what we run (``experiment.yaml``).

A card is data. Reading every card and building the DAG imports no torch, so that
``snakemake -n`` and ``repro list`` answer at once. Every mistake in a card is reported with the
file, the path of the key, what was expected and the nearest valid name.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from repro import expression
from repro.errors import ReproError

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("smoke", "small", "gpu", "paper")
ZOO = "zoo"

Tier = Literal["exact", "structural", "reduced", "paper"]
Evidence = Literal["paper", "code", "secondary", "derived", "measured", "unsure"]
Value = float | int | str | None
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Dotted = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# What a paper says --------------------------------------------------------------------------


class Repository(_Strict):
    url: str
    commit: str | None = None


class Licence(_Strict):
    code: str | None = None
    weights: str | None = None
    data: str | None = None


class Claim(_Strict):
    """One statement of a paper with its numbers and the place where they stand."""

    id: Name
    statement: str
    metric: str = ""
    unit: str = ""
    baseline: Value = None
    method: Value = None
    setting: str = ""
    where: str
    evidence: Evidence
    best_tier: Tier


class ReferenceTable(_Strict):
    """A table of the paper as data; rows keep the order of ``columns``."""

    id: Name
    title: str
    where: str
    evidence: Evidence
    unit: str = ""
    columns: list[str]
    rows: list[list[Value]]
    note: str = ""

    @model_validator(mode="after")
    def _rectangular(self):
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of table `{self.id}` has {len(row)} cells, "
                    f"expected {len(self.columns)} (one per column)"
                )
        return self


class Paper(_Strict):
    """Bibliography, licence and claims of one publication: facts only, never our results."""

    slug: Name
    short: str
    title: str
    authors: list[str]
    venue: str
    year: int
    arxiv: str | None = None
    doi: str | None = None
    kind: Literal["method", "survey"] = "method"
    field: Literal[
        "text",
        "image-quantisation",
        "few-step",
        "graphs",
        "super-resolution",
        "inverse-problems",
        "medical",
        "composition",
        "text-to-3d",
        "motion",
        "metallurgy",
        "image-generation",
        "survey",
    ]
    summary: str
    licence: Licence = Licence()
    repository: Repository | None = None
    claims: list[Claim]
    tables: list[ReferenceTable] = []
    notes: list[str] = []

    @model_validator(mode="after")
    def _unique(self):
        _unique_ids("claim", [claim.id for claim in self.claims])
        _unique_ids("table", [table.id for table in self.tables])
        return self

    def claim(self, claim_id: str) -> Claim:
        return {claim.id: claim for claim in self.claims}[claim_id]

    def bibtex(self) -> str:
        """The publication as a BibTeX entry."""
        lines = [
            f"  title = {{{self.title}}}",
            f"  author = {{{' and '.join(self.authors)}}}",
            f"  booktitle = {{{self.venue}}}",
            f"  year = {{{self.year}}}",
        ]
        if self.arxiv:
            lines += [f"  eprint = {{{self.arxiv}}}", "  archiveprefix = {arXiv}"]
        if self.doi:
            lines.append(f"  doi = {{{self.doi}}}")
        return f"@inproceedings{{{self.slug},\n" + ",\n".join(lines) + "\n}"

    def citation(self) -> str:
        """One line: authors, title, venue, year, identifier."""
        names = self.authors if len(self.authors) <= 7 else [*self.authors[:6], "et al."]
        identifier = f" arXiv:{self.arxiv}." if self.arxiv else ""
        return f"{', '.join(names)}. {self.title}. {self.venue}, {self.year}.{identifier}"


# What we run --------------------------------------------------------------------------------

Params = dict[str, Any]


class Model(_Strict):
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


class Arm(_Strict):
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
    scales: list[Literal["smoke", "small", "gpu", "paper"]] = list(SCALES)
    note: str = ""


class Measurement(_Strict):
    """What a measured name means. ``timing`` figures stay out of bit-identical tables."""

    title: str = ""
    unit: str = ""
    direction: Literal["lower", "higher", "none"] = "none"
    format: str = ".4g"
    timing: bool = False


class Scale(_Strict):
    """A preset of sizes. ``params`` override the keys that arms and models declare."""

    seeds: int | list[int] = 1
    params: Params = {}
    models: dict[str, Params] = {}
    arms: dict[str, Params] = {}
    exclude: list[str] = []
    stand_ins: dict[str, str | None] = {}
    """Datasets and models used at this scale instead of those the cards list (null: none)."""

    def seed_list(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


class CheckCard(_Strict):
    """An expression over measurements that a claim predicts, with the threshold's reason."""

    claim: str
    tier: Tier
    expect: str
    why: str
    id: str | None = None
    scales: list[Literal["smoke", "small", "gpu", "paper"]] | None = None
    paper: str | None = None
    comparable: bool = False

    @functools.cached_property
    def parsed(self) -> expression.Check:
        return expression.parse(self.expect)


class Figure(_Strict):
    id: Name
    run: Dotted
    title: str
    caption: str
    scales: list[Literal["smoke", "small", "gpu", "paper"]] | None = None


class Table(_Strict):
    """A result table: arms as rows, measurements as columns."""

    id: Name
    title: str
    caption: str = ""
    measurements: list[str]
    arms: list[str] | None = None
    at: Params = {}
    rows: str = "arm"


class Finding(_Strict):
    """Why a claim came out as it did, and the experiment that shows it."""

    claim: str
    text: str
    scale: str | None = None


class Experiment(_Strict):
    paper: str
    models: dict[Name, Model] = {}
    arms: dict[Name, Arm]
    measurements: dict[str, Measurement]
    scales: dict[Literal["smoke", "small", "gpu", "paper"], Scale]
    checks: list[CheckCard] = []
    figures: list[Figure] = []
    tables: list[Table] = []
    findings: list[Finding] = []
    profile: Dotted | None = None


class Zoo(_Strict):
    models: dict[Name, Model]
    scales: dict[Literal["smoke", "small", "gpu", "paper"], Scale] = {}


# A method: both cards, cross-checked -----------------------------------------------------------


@dataclass(frozen=True)
class ModelRef:
    """A model as an arm names it: owner (a method's slug or ``zoo``), name, seed."""

    owner: str
    name: str
    seed: int


@dataclass
class Method:
    """A folder under ``methods/``: the two cards and what follows from them."""

    folder: Path
    paper: Paper
    experiment: Experiment
    zoo: Zoo
    _code: dict[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        return self.paper.slug

    def scale(self, scale: str) -> Scale:
        """The preset of a scale.

        Raises:
            ReproError: this method has no preset of that name.
        """
        if scale not in self.experiment.scales:
            raise ReproError(
                f"method {self.slug} has no preset for scale `{scale}`; it has "
                f"{', '.join(self.experiment.scales)} ({self.folder.name}/experiment.yaml)"
            )
        return self.experiment.scales[scale]

    def arms(self, scale: str) -> dict[str, Arm]:
        """The arms that run at a scale, in card order."""
        preset = self.scale(scale)
        return {
            name: _with_stand_ins(arm, preset.stand_ins)
            for name, arm in self.experiment.arms.items()
            if scale in arm.scales and name not in preset.exclude
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
        return self.scale(scale).seed_list()

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
        return self._refs(self.arm(scale, arm).models, seed, self.slug)

    def model_models(self, scale: str, ref: ModelRef, retrain: bool = False) -> list[ModelRef]:
        """The models that the training of a model loads; none where the model is shipped."""
        card = self.model(scale, ref.owner, ref.name)
        if card.shipped and not retrain:
            return []
        return self._refs(card.models, ref.seed, ref.owner)

    def in_order(
        self, scale: str, refs: Iterable[ModelRef], retrain: bool = False
    ) -> list[ModelRef]:
        """Models and all that they are trained from, each after those."""
        found: dict[ModelRef, None] = {}
        for ref in refs:
            for earlier in self.in_order(scale, self.model_models(scale, ref, retrain), retrain):
                found[earlier] = None
            found[ref] = None
        return list(found)

    def _refs(self, names: Iterable[str], seed: int, home: str) -> list[ModelRef]:
        refs = []
        for name in names:
            owner, _, bare = name.rpartition("/")
            card = self.model_card(owner or home, bare)
            refs.append(ModelRef(owner or home, bare, seed if card.per_seed else 0))
        return refs

    def model_card(self, owner: str, name: str) -> Model:
        """The card of a model of this method, of the zoo, or of another method."""
        if owner == ZOO:
            return self.zoo.models[name]
        return self._owner(owner).experiment.models[name]

    def _owner(self, owner: str) -> Method:
        return self if owner == self.slug else load(owner, self.folder.parent.parent)

    def model(self, scale: str, owner: str, name: str) -> Model:
        """The card of a model as a scale uses it, with the scale's stand-ins for its data."""
        card = self.model_card(owner, name)
        if owner == ZOO:
            return card
        return _with_stand_ins(card, self._owner(owner).scale(scale).stand_ins)

    def arm_params(self, scale: str, arm: str) -> Params:
        """Resolved parameters: the arm's own, then the scale's shared, then the scale's own."""
        preset = self.scale(scale)
        own = self.arm(scale, arm).params
        return _resolve(own, preset.params, preset.arms.get(arm, {}), f"{self.slug}/{arm}", scale)

    def model_params(self, scale: str, owner: str, name: str) -> Params:
        if owner == ZOO:
            preset = self.zoo.scales.get(scale, Scale())
        else:
            preset = self._owner(owner).scale(scale)
        own = self.model_card(owner, name).params
        where = f"{owner}/{name}"
        return _resolve(own, preset.params, preset.models.get(name, {}), where, scale)

    def checks(self, scale: str) -> dict[str, CheckCard]:
        """The checks judged at a scale: those whose arms all run there."""
        arms = self.arms(scale)
        chosen = {}
        for number, check in enumerate(self.experiment.checks):
            wanted = check.scales is None or scale in check.scales
            if wanted and all(r.arm in arms for r in check.parsed.references()):
                chosen[check.id or f"{check.claim}-{number}"] = check
        return chosen

    # Fingerprints: everything a result depends on, known before anything runs

    def model_fingerprint(self, scale: str, ref: ModelRef, retrain: bool = False) -> str:
        card = self.model(scale, ref.owner, ref.name)
        if card.shipped and not retrain:
            return _digest({"shipped": _shipped_hash(card.shipped)})
        content = {
            "params": self.model_params(scale, ref.owner, ref.name),
            "seed": ref.seed,
            "threads": card.threads,
            "code": code_version(card.train.split(":")[0]),
            "function": card.train,
            "data": [_data_fingerprint(name) for name in card.data],
        }
        if card.models:
            content["models"] = [
                self.model_fingerprint(scale, earlier, retrain)
                for earlier in self.model_models(scale, ref, retrain)
            ]
        return _digest(content)

    def run_fingerprint(self, scale: str, arm: str, seed: int, retrain: bool = False) -> str:
        card = self.arm(scale, arm)
        return _digest(
            {
                "params": self.arm_params(scale, arm),
                "seed": seed,
                "threads": card.threads,
                "code": code_version(card.run.split(":")[0]),
                "function": card.run,
                "data": [_data_fingerprint(name) for name in card.data],
                "models": [
                    self.model_fingerprint(scale, ref, retrain)
                    for ref in self.arm_models(scale, arm, seed)
                ],
            }
        )


def slugs(root: Path | None = None) -> list[str]:
    """Every method in scope, found by folder."""
    folders = ((root or ROOT) / "methods").glob("*/paper.yaml")
    return sorted(path.parent.name.replace("_", "-") for path in folders)


@functools.cache
def load(slug: str, root: Path | None = None) -> Method:
    """Read and cross-check both cards of a method.

    Raises:
        ReproError: no such method, or a mistake in a card (file, key path, what was expected).
    """
    root = root or ROOT
    folder = root / "methods" / slug.replace("-", "_")
    if not (folder / "paper.yaml").is_file():
        known = slugs(root)
        raise ReproError(
            f"no method `{slug}`{nearest(slug, known)}; `repro list` shows the {len(known)} known"
        )
    paper = read(folder / "paper.yaml", Paper)
    if paper.kind == "survey" and not (folder / "experiment.yaml").is_file():
        experiment = Experiment(paper=paper.slug, arms={}, measurements={}, scales={})
    else:
        experiment = read(folder / "experiment.yaml", Experiment)
    method = Method(folder, paper, experiment, zoo(root))
    _cross_check(method)
    return method


def load_all(root: Path | None = None) -> list[Method]:
    """Every method that has an experiment (a survey has only facts)."""
    root = root or ROOT
    return [
        load(slug, root)
        for slug in slugs(root)
        if (root / "methods" / slug.replace("-", "_") / "experiment.yaml").is_file()
    ]


@functools.cache
def zoo(root: Path | None = None) -> Zoo:
    """The card of the base models that several methods share."""
    path = (root or ROOT) / "repro" / "zoo" / "zoo.yaml"
    if not path.is_file():
        return Zoo(models={})
    return read(path, Zoo)


def read(path: Path, schema: type[_Strict]):
    """Read one YAML file into its card.

    Raises:
        ReproError: not readable, not YAML, or not of this shape.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ReproError(f"{_short(path)}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", str(error))
        raise ReproError(f"{_short(path)}{line}: not valid YAML: {problem}") from error
    if not isinstance(raw, Mapping):
        raise ReproError(f"{_short(path)}: expected keys and values, found {type(raw).__name__}")
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ReproError(_explain(path, schema, error)) from error


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
    """YAML 1.1 without its traps: a repeated key is an error, 1e-3 is a number."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{key}` stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _float_resolver() -> None:
    import re

    _Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


_float_resolver()


def nearest(name: str, valid: Iterable[str]) -> str:
    """`` (did you mean `x`?)`` or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)


def _explain(path: Path, schema: type[_Strict], error: ValidationError) -> str:
    problems = error.errors()
    first = problems[0]
    location = [str(part) for part in first["loc"]]
    where = ".".join(location)
    if first["type"] == "extra_forbidden":
        fields = _fields_at(schema, first["loc"][:-1])
        message = f"unknown key `{location[-1]}`{nearest(location[-1], fields)}"
        if fields:
            message += f"; valid: {', '.join(fields)}"
    elif first["type"] == "missing":
        message = "is missing"
    else:
        found = repr(first.get("input"))
        message = f"{first['msg']}, found {found[:60]}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_short(path)}: {where}: {message}{more}"


def _fields_at(schema: type[BaseModel], location: tuple) -> list[str]:
    current: Any = schema
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = current.model_fields.get(str(part))
            current = info.annotation if info else None
        else:
            models = [m for m in _models_in(current)]
            current = models[0] if models else None
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        models = _models_in(current)
        current = models[0] if models else None
    return list(current.model_fields) if current else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]


_Card = TypeVar("_Card", Model, Arm)


def _with_stand_ins(card: _Card, stand_ins: Mapping[str, str | None]) -> _Card:
    if not stand_ins:
        return card
    return card.model_copy(update=_stand_in(stand_ins, data=card.data, models=card.models))


def _stand_in(stand_ins: Mapping[str, str | None], **lists: list[str]) -> dict[str, list[str]]:
    return {
        key: list(dict.fromkeys(new for old in names if (new := stand_ins.get(old, old))))
        for key, names in lists.items()
    }


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


def _unique_ids(kind: str, ids: list[str]) -> None:
    repeated = sorted({i for i in ids if ids.count(i) > 1})
    if repeated:
        raise ValueError(f"{kind} id `{repeated[0]}` stands twice")


def _resolve(own: Params, shared: Params, last: Params, where: str, scale: str) -> Params:
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


def _cross_check(method: Method) -> None:
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
    datasets = _datasets()
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


def _datasets() -> list[str]:
    from repro.data import catalogue

    return catalogue.names()


def _data_fingerprint(name: str) -> str:
    from repro.data import catalogue

    return catalogue.fingerprint(name)


def shipped_path(shipped: str) -> Path:
    """Where the weights that come with the suite lie."""
    return ROOT / "repro" / "zoo" / shipped


@functools.cache
def _shipped_hash(shipped: str) -> str:
    path = shipped_path(shipped)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ReproError(
            f"{_short(path)}: shipped weights cannot be read ({error.strerror}); restore the file "
            "with `git checkout` or train it with `--retrain`"
        ) from error


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


# The code a result depends on --------------------------------------------------------------------

_FRAMEWORK = (
    "repro.cards",
    "repro.job",
    "repro.store",
    "repro.cli",
    "repro.report",
    "repro.errors",
)


@functools.cache
def code_version(module: str) -> str:
    """Hash of a module's program and of every module of the suite that it imports, transitively.

    The imports are read from the syntax tree, so nothing is executed. The framework that only
    schedules and reports is left out: editing the page reruns no experiment.

    Raises:
        ReproError: there is no such module.
    """
    return _digest({name: _source(path)[0] for name, path in code_files(module).items()})


def code_files(module: str) -> dict[str, Path]:
    """Module name → source file, for everything that `code_version` covers."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        path = _module_path(name)
        if path is None or name in found or name.startswith(_FRAMEWORK):
            continue
        found[name] = path
        todo.extend(_source(path)[1])
    if module not in found:
        raise ReproError(f"no module `{module}`; a card names it as module:function")
    return dict(sorted(found.items()))


@functools.cache
def _source(path: Path) -> tuple[str, tuple[str, ...]]:
    text = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ReproError(f"{_short(path)} line {error.lineno}: {error.msg}") from error
    names = []
    package = _module_name(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                drop = node.level - (1 if path.name == "__init__.py" else 0)
                base = ".".join([*parts[: len(parts) - drop], *([base] if base else [])])
            names.append(base)
            names += [f"{base}.{alias.name}" for alias in node.names]
    own = tuple(
        dict.fromkeys(
            parent
            for name in names
            if name.startswith(("repro", "methods"))
            for parent in _with_parents(name)
        )
    )
    return hashlib.sha256(_meaning(tree).encode()).hexdigest(), own


def _meaning(tree: ast.Module) -> str:
    """The program without its comments, layout and docstrings: editing these reruns nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.body and ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Pass()
    return ast.dump(tree)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


# What the workflow asks -----------------------------------------------------------------------


def data_fingerprint(name: str) -> str:
    """Identity of a dataset's content, from its declared checksums."""
    return _data_fingerprint(name)


def owner(name: str) -> Method:
    """The method that owns a model; ``zoo`` owns the base models that several share."""
    if name == ZOO:
        return Method(ROOT / "repro" / "zoo", None, None, zoo())  # type: ignore[arg-type]
    return load(name)


def judging_fingerprint(method: Method, scale: str) -> str:
    """What a verdict depends on besides the runs: the checks and the claims."""
    checks = [check.model_dump() for check in method.checks(scale).values()]
    claims = [claim.model_dump() for claim in method.paper.claims]
    return _digest([checks, claims, code_version("repro.verdict")])


def comparisons_fingerprint() -> str:
    """What the comparisons across methods say: their cards."""
    return _digest([path.read_text("utf-8") for path in sorted(ROOT.glob("comparisons/*.yaml"))])


def reporting_fingerprint(method: Method) -> str:
    """What tables and figures depend on besides verdicts and runs."""
    experiment = method.experiment
    parts: list[Any] = [method.paper.model_dump(), experiment.model_dump(mode="json")]
    parts += [code_version(figure.run.split(":")[0]) for figure in experiment.figures]
    report = sorted((ROOT / "repro" / "report").rglob("*"))
    parts += [
        hashlib.sha256(p.read_bytes()).hexdigest()
        for p in report
        if p.is_file() and p.suffix in (".py", ".html", ".css", ".js", ".j2", ".jinja")
    ]
    return _digest(parts)


SCHEMAS = {"paper": Paper, "experiment": Experiment, "zoo": Zoo}


def schema(kind: str) -> str:
    """JSON schema of a card, as YAML, for editors; ``workflow/schemas`` holds a copy."""
    content = SCHEMAS[kind].model_json_schema()
    content["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    header = "# Made from repro/cards.py by `python -m repro schemas`; do not edit.\n"
    return header + yaml.safe_dump(content, sort_keys=True, allow_unicode=True, width=100)
