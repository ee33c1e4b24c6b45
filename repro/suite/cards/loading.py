"""Reading a card: mistakes explained with file, key and nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from repro import documents
from repro.errors import ReproError, nearest
from repro.places import short
from repro.suite.cards.base import Strict

Card = TypeVar("Card", bound=Strict)


def read(path: Path, schema: type[Card]) -> Card:
    """Read one YAML file into its card.

    Raises:
        ReproError: not readable, not plain YAML, or not of this shape.
    """
    raw = documents.expect(path, documents.read_yaml(path), dict)
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ReproError(_explain(path, schema, error)) from error


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
        message = f"{first['msg']}, found {documents.quoted(first.get('input'))}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{short(path)}: {documents.one_line(where)}: {documents.one_line(message)}{more}"


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
