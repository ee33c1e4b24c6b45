"""``repro doctor``: what this machine can run."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from repro.display import Output
from repro.suite import official
from repro.suite.cards import library
from repro.suite.commands import fetch
from repro.suite.commands.arguments import JsonOption, say
from repro.suite.export import models


def doctor(as_json: JsonOption = False) -> None:
    """What this machine can run, and what is missing."""
    from repro.suite.export import machine

    found = machine.found()
    if as_json:
        say(found)
    else:
        out = Output()
        out.print(_table_of_machine(found))
        methods = library.load_all()
        fetch.show(out, official.rows(methods, "paper", rest=False))
        out.print(fetch.hint(methods, "paper"), soft_wrap=True)
        out.print("`repro fetch PAPER` fetches what the arms of a paper read")


def _table_of_machine(found: models.Machine) -> Table:
    table = Table("what", "found", "needed for")
    table.add_row("suite", found.suite, "")
    table.add_row("Python", found.python, ">= 3.11")
    table.add_row("cores", str(found.cores), "2 or more advised")
    table.add_row("free disk", f"{found.free_disk_gb:.0f} GB", "about 10 GB with the environment")
    if found.torch is None:
        table.add_row("torch", Text("missing", "red"), "every network; run `make env`")
    else:
        table.add_row("torch", found.torch, "every network")
        table.add_row("CUDA GPU", found.gpu or "none", "scales gpu and paper")
    for client in found.clients:
        table.add_row(client.name, "yes" if client.here else Text("no", "yellow"), client.use)
    table.add_row("data cache", found.data_cache, "set REPRO_DATA to move it")
    for data in found.data:
        here = "here" if data.here else f"`repro data {data.name}` fetches it"
        table.add_row(f"  {data.name}", here, "")
    return table
