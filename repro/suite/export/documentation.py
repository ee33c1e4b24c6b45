"""The tables of ``docs/json.md``: every key of every output and every column of the CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from repro.documents import read_text
from repro.errors import ReproError
from repro.places import ROOT, short
from repro.suite.export import claims, models
from repro.suite.report import markdown
from repro.suite.report.markdown import Markdown

PAGE = ROOT / "docs" / "json.md"
BEGIN, END = "<!-- keys:begin -->", "<!-- keys:end -->"

WORDS = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
    "null": "null",
}


def page(path: Path = PAGE) -> str:
    """The page with its tables as the classes have them.

    Raises:
        ReproError: it cannot be read, or a marker is missing or stands twice.
    """
    text = read_text(path)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise ReproError(f"{short(path)} lacks the markers {BEGIN} … {END}; restore them")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


def tables() -> str:
    """A section an output, with a table for it and for each of its parts; last the CSV."""
    parts = []
    for command, output in models.OUTPUTS.items():
        schema = output.model_json_schema()
        parts.append(f"## `repro {command} --json`\n\n{_paragraph(schema)}\n\n{_table(schema)}")
        for name, part in schema.get("$defs", {}).items():
            heading = f"### {name}"
            parts.append("\n\n".join([heading, _paragraph(part), _table(part)]))
    rows = [[markdown.code(name), _line(said)] for name, said in claims.columns().items()]
    csv = markdown.table(rows, ["Column", "What"], [False, False])
    parts.append(f"## `results/{claims.CSV}` and `repro claims --csv`\n\n{csv}")
    return "\n\n".join(part for part in parts if part)


def _paragraph(schema: dict[str, Any]) -> str:
    return _line(schema.get("description", ""))


def _line(text: str) -> str:
    return markdown.inline(" ".join(text.split()))


def _table(schema: dict[str, Any]) -> str:
    rows = [
        [markdown.code(key), Markdown(kind_of(of)), _line(of.get("description", ""))]
        for key, of in schema["properties"].items()
    ]
    return markdown.table(rows, ["Key", "Value", "What"], [False, False, False])


def kind_of(of: dict[str, Any]) -> str:
    """What a key of a JSON schema holds, in words."""
    if "$ref" in of:
        return str(of["$ref"]).rpartition("/")[2]
    if "const" in of:
        return f"`{json.dumps(of['const'])}`"
    if "enum" in of:
        return " or ".join(f"`{one}`" for one in of["enum"])
    if "anyOf" in of:
        return " or ".join(kind_of(one) for one in of["anyOf"])
    if of.get("type") == "array":
        return f"list of {kind_of(of['items'])}"
    if of.get("type") == "object":
        return f"object of {kind_of(of['additionalProperties'])}"
    return WORDS[of["type"]]
