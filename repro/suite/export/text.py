"""Objects as the text that other programs read."""

from __future__ import annotations

import json

from repro.suite.export.models import Part


def json_text(content: Part, ascii_only: bool = False) -> str:
    """JSON with keys in the order of the schema; numbers are finite.

    ascii_only: escape other letters, as for a stream of unknown encoding.
    """
    plain = content.model_dump(mode="json")
    text = json.dumps(plain, indent=1, ensure_ascii=ascii_only, allow_nan=False)
    return text + "\n"
