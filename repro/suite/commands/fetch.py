"""``repro fetch``: the official weights and data of papers, in one list, and then here."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from repro import display
from repro.data import cache
from repro.data.download import Tell
from repro.errors import ReproError
from repro.official import fetch as fetching
from repro.official.published import File, Published
from repro.suite import completion, official
from repro.suite.cards import library
from repro.suite.cards.method import Method
from repro.suite.commands.arguments import JsonOption, PapersArgument, ScaleOption, method_of, say
from repro.suite.export import machine, models
from repro.suite.plan import scale_config

COLOURS = {"have": "green", "fetch": "cyan", "ask": "yellow", "by hand": "yellow"}
MEANINGS = {
    "have": "here",
    "fetch": "to fetch",
    "ask": "with terms to agree to first",
    "by hand": "to bring by hand",
}


def fetch(
    papers: PapersArgument = None,
    scale: ScaleOption = "paper",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="also what no arm of the scale reads yet")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="only these files (repeatable)", autocompletion=completion.official),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            help="agree to the terms of these files (repeatable)",
            autocompletion=completion.official,
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="read in full what is here; fetch nothing")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the official weights and data that papers need: list, fetch, verify.

    What is broken off goes on at the next call. What asks for an agreement, or for a person, does
    not stop the rest; it is listed with what to do.

    Example: repro fetch radd --dry-run
    """
    scale_config(scale)  # names a scale that there is not
    methods = [method_of(slug) for slug in papers] if papers else library.load_all()
    for name in [*(only or []), *(accept or [])]:
        official.named(name)
    rows = _wanted(methods, scale, all_, only)
    if as_json:
        say(models.OfficialList(format="repro-fetch", version=1, files=_listed(rows)))
        return
    out = display.Output()
    show(out, rows)
    if not (all_ or only) and (more := hint(methods, scale)):
        out.print(more, soft_wrap=True)
    if not rows or dry_run:
        return
    if verify:
        _verify(out, rows)
        return
    _fetch(out, rows, accept or [])


def _wanted(
    methods: Sequence[Method], scale: str, all_: bool, only: Sequence[str] | None
) -> list[official.Row]:
    rows = official.rows(methods, scale)
    if only:
        found = {row.published.name: row for row in rows}
        for name in only:
            if name not in found:
                raise ReproError(
                    f"`{name}` is no official file of {', '.join(m.slug for m in methods)}; it "
                    f"belongs to {', '.join(official.named(name).papers)}"
                )
        return [found[name] for name in dict.fromkeys(only)]
    return rows if all_ else [row for row in rows if row.arms]


def _listed(rows: Sequence[official.Row]) -> list[models.OfficialData]:
    return [machine.official_data(row) for row in rows]


def show(out: display.Output, rows: Sequence[official.Row]) -> None:
    """One list: state, size and licence of each, then where what is missing comes from."""
    table = Table(title=f"Official files, under {cache.root()}")
    table.add_column("name", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for heading in ("licence", "read by"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            row.published.name,
            Text(_told(row), COLOURS[row.state]),
            size(row.megabytes),
            row.published.licence,
            ", ".join(row.arms) or "no arm yet",
        )
    if rows:
        out.print(table)
    for row in rows:
        for line in _origin(row):
            out.print(line, soft_wrap=True)  # addresses stay whole
    out.print(summary(rows))
    if tight := _tight(rows):
        out.print(Text(tight, "yellow"), soft_wrap=True)


def _tight(rows: Sequence[official.Row]) -> str:
    """A line where the disk has no room for what is to come."""
    there = cache.root()
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free / 1e6
    coming = sum(row.missing_megabytes for row in rows if row.state != "have")
    if coming <= free:
        return ""
    return (
        f"{size(free)} are free under {there}, less than what is to come; --only takes some of "
        "it, REPRO_DATA names a folder on another disk"
    )


def _told(row: official.Row) -> str:
    if row.wrong:
        return f"wrong, {row.state}"
    return f"{row.state}, in part" if any(f.here == "part" for f in row.found) else row.state


def _origin(row: official.Row) -> Iterator[str]:
    """Where what is missing comes from, and what a person has to do first."""
    published = row.published
    for wrong in row.wrong:
        yield f"{published.name}: {published.place}/{wrong}"
    if row.is_here:
        return
    if published.by_hand is not None:
        names = ", ".join(file.name.replace("|", " or ") for file in published.files)
        yield f"{published.name}, by hand: {published.by_hand} Put {names} into {published.place}"
        return
    asks = f"; first: {published.asks} (--accept {published.name})" if published.asks else ""
    yield f"{published.name}, into {published.place}: from {published.source}{asks}"


def size(megabytes: float | None) -> str:
    """Megabytes or gigabytes, for people."""
    if megabytes is None:
        return "?"
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.1f} MB"


def summary(rows: Sequence[official.Row]) -> str:
    """How many there are of each state, and how much is to come."""
    parts = []
    for state, meaning in MEANINGS.items():
        count = sum(row.state == state for row in rows)
        if count:
            parts.append(f"{count} {meaning}")
    coming = sum(row.missing_megabytes for row in rows if row.state in ("fetch", "ask"))
    unknown = sum(row.megabytes is None for row in rows if row.state != "have")
    told = f"{len(rows)} in all: {', '.join(parts)}" if rows else "nothing is needed"
    told += f"; {size(coming)} to come" if coming else ""
    return told + (f" (and {unknown} of unknown size)" if unknown else "")


def hint(methods: Sequence[Method], scale: str) -> str:
    """What else there is that a list of what arms read leaves out."""
    more = [row.published.name for row in official.rows(methods, scale) if not row.arms]
    if not more:
        return ""
    return (
        f"{len(more)} more are published and read by no arm of scale {scale} yet: "
        f"{', '.join(more)}; `repro fetch --all` lists them"
    )


def _verify(out: display.Output, rows: Sequence[official.Row]) -> None:
    wrong = fetching.verify(row.published for row in rows)
    for line in wrong:
        out.print(Text(line, "red"))
    if wrong:
        raise typer.Exit(1)
    here = sum(row.is_here for row in rows)
    out.print(f"{here} of {len(rows)} are here, and every file is what was declared or recorded")


def _fetch(out: display.Output, rows: Sequence[official.Row], accept: Sequence[str]) -> None:
    outcomes = fetching.fetch([row.published for row in rows], accept, watch)
    done = sum(outcome.fetched for outcome in outcomes)
    if done:
        out.print(f"fetched and verified {done} files")
    lacking: dict[str, list[fetching.Outcome]] = {}
    for outcome in outcomes:
        if outcome.problem:
            lacking.setdefault(outcome.published.name, []).append(outcome)
    for name, ones in lacking.items():
        if ones[0].published.by_hand is None:  # what a person has to do stands in the list
            more = f" (and {len(ones) - 1} more of its files)" if len(ones) > 1 else ""
            line = f"{name}: {ones[0].file.name}: {ones[0].problem}{more}"
            out.print(Text(line, "yellow"), soft_wrap=True)
    if lacking:
        raise ReproError(
            f"{len(lacking)} of {len(rows)} are not here: {', '.join(lacking)}; do what stands "
            "above and run the same command again, what is here stays"
        )
    out.print("all are here")


@contextlib.contextmanager
def watch(published: Published, file: File) -> Iterator[Tell]:
    """Show how a transfer comes on: a bar on a terminal, lines elsewhere."""
    with display.transfer(f"{published.name}/{file.name}") as tell:
        yield tell
