"""JSON schemas of the cards, for editors that complete and check YAML."""

from __future__ import annotations

import yaml

from repro.suite.cards.base import Strict
from repro.suite.cards.checks import Checks
from repro.suite.cards.experiment import Experiment, Zoo
from repro.suite.cards.paper import Paper

SCHEMAS: dict[str, type[Strict]] = {
    "paper": Paper,
    "experiment": Experiment,
    "checks": Checks,
    "zoo": Zoo,
}


def schema(kind: str) -> str:
    """JSON schema of a card, as YAML, for editors; ``workflow/schemas`` holds a copy."""
    content = SCHEMAS[kind].model_json_schema()
    content["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    header = "# Made from repro/suite/cards by `python -m repro schemas`; do not edit.\n"
    return header + yaml.safe_dump(content, sort_keys=True, allow_unicode=True, width=100)
