"""Reading a card: YAML without its traps, mistakes explained with file, key and nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from repro.errors import ReproError, nearest
from repro.places import short
from repro.suite.cards.base import Strict

# The one in C is many times faster, where PyYAML has it.
Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Card = TypeVar("Card", bound=Strict)


def read(path: Path, schema: type[Card]) -> Card:
    """Read one YAML file into its card.

    Raises:
        ReproError: not readable, not YAML, or not of this shape.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ReproError(f"{short(path)}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", str(error))
        raise ReproError(f"{short(path)}{line}: not valid YAML: {problem}") from error
    if not isinstance(raw, Mapping):
        raise ReproError(f"{short(path)}: expected keys and values, found {type(raw).__name__}")
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ReproError(_explain(path, schema, error)) from error


class _Loader(Base):
    """YAML 1.1 without its traps: a repeated key is an error, 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        names = [str(key.value) for key in keys]
        if len(set(names)) < len(names):
            twice = next(k for k in keys if names.count(str(k.value)) > 1)
            raise yaml.MarkedYAMLError(
                problem=f"the key `{twice.value}` stands twice", problem_mark=twice.start_mark
            )
        return super().construct_mapping(node, deep)


def _float_resolver() -> None:
    import re

    _Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


_float_resolver()


def _explain(path: Path, schema: type[Strict], error: ValidationError) -> str:
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
    return f"{short(path)}: {where}: {message}{more}"


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
