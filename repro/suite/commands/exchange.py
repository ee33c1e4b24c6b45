"""``repro export``, ``repro import`` and ``repro machines``: results from machine to machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from repro.display import Output
from repro.places import ROOT
from repro.suite import completion
from repro.suite.commands.arguments import PapersArgument, ScaleOption, method_of, options_of
from repro.suite.commands.claims import COLOURS

if TYPE_CHECKING:
    from repro.suite.results.others import Beside


def export(
    papers: Annotated[
        list[str], typer.Argument(help="names in `repro list`", autocompletion=completion.papers)
    ],
    archive: Annotated[Path, typer.Argument(help="the .zip to write")],
    scale: ScaleOption,
    machine: Annotated[
        str | None,
        typer.Option(help="what this machine is called elsewhere; default: its processor or GPU"),
    ] = None,
    committed: Annotated[
        bool, typer.Option("--committed", help="what is published under results/, not the runs")
    ] = False,
) -> None:
    """Write the results of this machine into an archive for another clone of the suite.

    What was run and judged here goes in, from committed code, whole methods alone. Example: repro
    export radd quest --scale gpu h200.zip --machine h200
    """
    from repro.suite.results import exporting

    methods = [method_of(slug) for slug in dict.fromkeys(papers)]
    results = ROOT / "results" if committed else None
    for line in exporting.export(methods, options_of(scale), archive, machine, results):
        Output().print(line)


def bring(
    source: Annotated[Path, typer.Argument(help="an archive of `repro export`, or its folder")],
    machine: Annotated[
        str | None, typer.Option("--as", help="another name for the machine than its own")
    ] = None,
) -> None:
    """Verify results of another machine and put them beside ours; nothing is overwritten.

    Every hash, fingerprint and parameter is held against cards and code, and every verdict is
    derived again. Example: repro import h200.zip
    """
    from repro.suite.results import importing, others

    try:
        found = importing.bring(source, ROOT / "results", machine)
    except importing.Refused as error:
        for line in error.differences:
            print(line, file=sys.stderr)
        raise
    for one in found:
        _tell(one)
    place = Path("results") / others.FOLDER / found[0].machine / found[0].scale
    Output().print(f"in {place}: look at it, then commit it; `repro report` shows it beside ours")


def machines(papers: PapersArgument = None) -> None:
    """What other machines have, verdict by verdict beside ours. Example: repro machines radd"""
    from repro.suite.results import importing, others

    results = ROOT / "results"
    wanted = {method_of(slug).slug for slug in papers or ()}
    shown = 0
    for machine, scale, slug, folder in others.places(results):
        if not wanted or slug in wanted:
            own = importing.ours(results, scale, slug)
            _tell(others.compared(machine, scale, slug, folder, own))
            shown += 1
    if not shown:
        of = f" of {', '.join(sorted(wanted))}" if wanted else ""
        Output().print(f"no results{of} of other machines are here; `repro import` brings some")


def _tell(one: Beside) -> None:
    out = Output()
    table = Table(title=f"{one.slug}, scale {one.scale}: {one.machine} ({'; '.join(one.devices)})")
    for heading in ("claim", "here", "there", ""):
        table.add_column(heading, overflow="fold")
    for claim, (ours, theirs) in one.verdicts.items():
        same = "" if not ours else "agrees" if ours == theirs else "differs"
        table.add_row(
            claim,
            Text(ours or "–", COLOURS.get(ours, "dim")),
            Text(theirs, COLOURS.get(theirs, "dim")),
            same,
        )
    if one.verdicts:
        out.print(table)
    out.print(f"{one.machine}, {one.slug} at scale {one.scale}: {one.summary()}")
