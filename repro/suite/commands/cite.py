"""``repro cite``: BibTeX of the suite and of the papers."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from repro.suite import completion
from repro.suite.commands.arguments import JsonOption, say


def cite(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="papers, claims (`radd/theorem-1`), comparisons (`comparisons/steps`); default: "
            "every paper",
            autocompletion=completion.cited,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """BibTeX of the suite and of papers: those named, or whose numbers stand in what is named."""
    from repro.suite.export import citation

    cited = citation.cite(names or ())
    if as_json:
        say(cited)
    else:
        sys.stdout.write("\n\n".join(citation.entries(cited)) + "\n")
