"""``repro claims``: every claim of the committed results, for people and programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from repro.display import Output
from repro.errors import ReproError, nearest
from repro.places import ROOT
from repro.suite import completion
from repro.suite.commands.arguments import JsonOption, PapersArgument, method_of, say
from repro.suite.export import models
from repro.suite.plan import scale_config
from repro.suite.words import KINDS, SCALES, VERDICTS

COLOURS = {"reproduced": "green", "contradicted": "red", "inconclusive": "yellow"}


def claims(
    papers: PapersArgument = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale",
            "-s",
            help="only this scale (repeatable)",
            autocompletion=completion.scales,
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="only claims of this kind (repeatable)", autocompletion=completion.kinds),
    ] = None,
    verdict: Annotated[
        list[str] | None,
        typer.Option(
            help="only claims with this verdict (repeatable)", autocompletion=completion.verdicts
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="committed results")] = ROOT / "results",
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="a row a claim with the check that decides it")
    ] = False,
) -> None:
    """Every claim of the committed results with the check that decides it."""
    if as_json and as_csv:
        raise ReproError("--json and --csv are two outputs; give one of them")
    for slug in papers or ():
        method_of(slug)
    for name in scale or ():
        scale_config(name)  # names a scale that there is not
    _refuse_others("--kind", kind, KINDS)
    _refuse_others("--verdict", verdict, VERDICTS)
    found = _found(results, scale or SCALES, papers, kind or KINDS, verdict or VERDICTS)
    if as_json:
        say(found)
        return
    if as_csv:
        from repro.suite.export.claims import csv_text

        sys.stdout.write(csv_text(found))
    elif found.claims:
        Output().print(_table(found))
    for one in found.not_judged:
        typer.echo(f"not judged: {one.reason}", err=True)


def _found(
    results: Path,
    scales: Sequence[str],
    papers: Sequence[str] | None,
    kinds: Sequence[str],
    verdicts: Sequence[str],
) -> models.Claims:
    """The claims of these scales and papers that have one of the kinds and verdicts.

    Raises:
        ReproError: of these scales and papers nothing is committed.
    """
    from repro.suite.export import claims as exporting

    found = exporting.committed(results, scales, papers)
    if not found.claims and not found.not_judged:
        raise ReproError(f"no committed results of these under {results}; `make small` makes them")
    chosen = [one for one in found.claims if one.kind in kinds and one.verdict in verdicts]
    return found.model_copy(update={"claims": chosen})


def _refuse_others(option: str, given: list[str] | None, known: Sequence[str]) -> None:
    for name in given or ():
        if name not in known:
            raise ReproError(
                f"{option} takes {', '.join(known)}, not `{name}`{nearest(name, known)}"
            )


def _table(found: models.Claims) -> Table:
    table = Table()
    for heading in ("claim", "kind", "verdict", "tier", "effect [interval]", "paper", "why"):
        table.add_column(heading, overflow="fold")
    place = ("", "")
    for claim in found.claims:
        if place != (claim.scale, claim.paper):
            place = claim.scale, claim.paper
            table.add_section()
            table.add_row(Text(f"{claim.paper}, {claim.scale}", "bold"))
        check = next((c for c in claim.checks if c.id == claim.deciding), None)
        table.add_row(
            claim.claim,
            claim.kind,
            Text(claim.verdict, COLOURS.get(claim.verdict, "dim")),
            claim.tier or f"needs {claim.best_tier}",
            check.interval if check else "",
            check.paper if check else "",
            claim.reason or (check.observed if check else ""),
        )
    return table
