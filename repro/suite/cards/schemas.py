"""JSON schemas of the cards, for editors that check YAML, and of what the suite says in JSON."""

from __future__ import annotations

import yaml

from repro.suite.cards.base import Strict
from repro.suite.cards.checks import Checks
from repro.suite.cards.experiment import Experiment, Zoo
from repro.suite.cards.paper import Paper
from repro.suite.export import models

SCHEMAS: dict[str, type[Strict]] = {
    "paper": Paper,
    "experiment": Experiment,
    "checks": Checks,
    "zoo": Zoo,
    **{f"repro-{command}": output for command, output in models.OUTPUTS.items()},
}
"""Of the cards, and of the outputs by their format."""


def schema(kind: str) -> str:
    """JSON schema of a card or an output, as YAML; ``workflow/schemas`` holds a copy."""
    content = SCHEMAS[kind].model_json_schema()
    content["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    header = "# Made by `python -m repro schemas` from its class; do not edit.\n"
    return header + yaml.safe_dump(content, sort_keys=True, allow_unicode=True, width=100)
