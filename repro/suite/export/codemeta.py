"""``codemeta.json``: the suite and its results in the words of CodeMeta 3 (schema.org).

Everything in it stands in ``CITATION.cff`` or ``pyproject.toml``. Papers are not listed, so that a
new one changes nothing here; `repro cite --json` has them.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

from repro.documents import read_text
from repro.places import ROOT
from repro.suite.export import citation, claims
from repro.suite.export.citation import Author

NAME = "codemeta.json"
CONTEXT = "https://w3id.org/codemeta/3.0"


def text() -> str:
    """The file.

    Raises:
        ReproError: ``CITATION.cff`` or ``pyproject.toml`` cannot be read.
    """
    own = citation.suite()
    project = tomllib.loads(read_text(ROOT / "pyproject.toml"))["project"]
    licence = f"https://spdx.org/licenses/{own.license}"
    content = {
        "@context": CONTEXT,
        "@type": "SoftwareSourceCode",
        "name": own.title,
        "description": project["description"],
        "version": own.version,
        "license": licence,
        "author": [_author(author) for author in own.authors],
        "keywords": own.keywords,
        "programmingLanguage": {
            "@type": "ComputerLanguage",
            "name": "Python",
            "version": project["requires-python"],
        },
        "softwareRequirements": project["dependencies"],
        "readme": project["readme"],
        "supportingData": {
            "@type": "DataFeed",
            "name": "Claims of the papers with verdicts, intervals and provenance",
            "license": licence,
            "version": own.version,
            "distribution": [
                _file(claims.JSON, "application/json"),
                _file(claims.CSV, "text/csv"),
            ],
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _author(author: Author) -> dict[str, Any]:
    if not author.is_person:
        return {"@type": "Organization", "name": author.name}
    names = {"givenName": author.given_names, "familyName": author.family_names}
    return {"@type": "Person", **{key: name for key, name in names.items() if name}}


def _file(name: str, kind: str) -> dict[str, str]:
    return {"@type": "DataDownload", "contentUrl": f"results/{name}", "encodingFormat": kind}
