"""``repro measure``: a person's images against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from repro.display import Output
from repro.suite import completion
from repro.suite.commands.arguments import JsonOption, say
from repro.suite.export import models


def measure(
    images: Annotated[Path, typer.Argument(help="a folder of PNG, JPEG, WebP or BMP, or an .npz")],
    against: Annotated[
        str,
        typer.Option(
            help="a data set of `repro data`, a folder or an .npz",
            autocompletion=completion.datasets,
        ),
    ],
    metrics: Annotated[
        str, typer.Option(help="of fid, kid and precision-recall, by commas")
    ] = "fid,kid,precision-recall",
    features: Annotated[
        str,
        typer.Option(
            help="classifier (the suite's, of its own data sets), mobilenet, inception (weights of "
            "your own) or auto: the first that is there of the first two"
        ),
    ] = "auto",
    split: Annotated[str, typer.Option(help="of the data set: test or train")] = "test",
    size: Annotated[int | None, typer.Option(help="resize every file to N x N pixels")] = None,
    background: Annotated[
        str | None, typer.Option(help="black or white, under transparent pixels")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Compare images of your own with a data set or with other images.

    Prints each metric with its 95 % interval and the floor: what real images score in the place
    of yours. Example: repro measure images/ --against fashion-mnist --metrics fid,kid
    """
    from repro.suite import measuring
    from repro.suite.run import Options, device_for

    found = measuring.measure(
        measuring.Asked(
            images,
            against,
            [name.strip() for name in metrics.split(",") if name.strip()],
            features,
            split,
            size,
            background,  # type: ignore[arg-type]  # held against the known ones where it is used
            device_for(Options("smoke", device=device)),
        )
    )
    if as_json:
        say(found)
        return
    out = Output()
    out.print(_table(found))
    for note in found.notes:
        out.print(f"note: {note}")


def _table(found: models.Measured) -> Table:
    title = f"{found.n} images of {found.images} against {found.n_reference} of {found.against}"
    table = Table(title=f"{title}, features of {found.features}")
    table.add_column("metric", no_wrap=True)
    for heading in ("value", "95 % interval", "floor", "above the floor", "images"):
        table.add_column(heading, justify="right")
    for one in found.metrics:
        arrow = "↓" if one.lower_is_better else "↑"
        table.add_row(
            f"{one.title} {arrow}",
            f"{one.value:.4g}",
            f"{one.low:.4g} … {one.high:.4g}",
            f"{one.floor:.4g}",
            f"{one.above_floor:+.3g}",
            f"{one.n} / {one.n_reference}",
        )
    return table
