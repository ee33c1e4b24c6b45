"""The arguments that commands share: papers by position, everything else by name."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from repro.errors import ReproError, nearest
from repro.places import writable
from repro.suite import completion
from repro.suite import run as runner
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.export.models import Part
from repro.suite.export.text import json_text
from repro.suite.plan import scale_config
from repro.suite.words import SCALES

ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        "-s",
        help="smoke, small, gpu or paper",
        autocompletion=completion.scales,
    ),
]
PaperArgument = Annotated[
    str, typer.Argument(help="its name in `repro list`", autocompletion=completion.papers)
]
PapersArgument = Annotated[
    list[str] | None, typer.Argument(help="default: all", autocompletion=completion.papers)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="one JSON object, as docs/json.md describes it")
]


def method_of(slug: str) -> Method:
    """The method of a name.

    Raises:
        ReproError: there is none.
    """
    known = library.slugs()
    if slug not in known:
        what = "give a scale as `--scale`; " if slug in SCALES else ""
        raise ReproError(
            f"no method `{slug}`{nearest(slug, known)}; {what}`repro list` shows the {len(known)} "
            "known"
        )
    return library.load(slug)


def options_of(scale: str, retrain: bool = False, **how: Any) -> runner.Options:
    """How to run.

    Raises:
        ReproError: there is no such scale, or its folder cannot be written.
    """
    scale_config(scale)
    options = runner.Options(scale, retrain=retrain, **how)
    writable(options.base, "make the folder writable or set REPRO_WORK to another one")
    return options


def say(content: Part) -> None:
    """One JSON object on standard output, in ASCII, whatever that is."""
    sys.stdout.write(json_text(content, ascii_only=True))
