"""Cards of comparisons across methods, ``comparisons/<id>.yaml``: one table and one figure each.

A row names a place where a method measured (method, arm, coordinates). Rows that differ in
coordinates alone are written once::

    words: {granularity: {tensor: per tensor, channel: per channel}}
    floor: {frechet: [{method: lowbit-fp, arm: floor}]}
    best: 5
    rows:
      - group: "{bits}"
        label: "FP8, {granularity}"
        method: lowbit-fp
        arm: "fp-{bits}"
        each: {bits: [W8A8, W4A8], granularity: [tensor, channel]}

`load` gives a card with its rows written out. Methods are comparable where they share network,
data, noises and sampler; the caption says under which protocol.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import Field

from repro.coordinates import canonical
from repro.documents import one_line
from repro.errors import ReproError, nearest
from repro.places import ROOT, short
from repro.suite.cards import library
from repro.suite.cards.base import LONGEST, Identifier, Params, Strict
from repro.suite.cards.loading import read
from repro.suite.words import Scale

FOLDER = "comparisons"
MOST_ROWS = 1000
"""Most rows that one with `each` stands for."""

Coordinate = float | int | str


class Place(Strict):
    """Where a method measured; ``at`` gives the coordinates that tell its numbers apart."""

    method: str
    arm: str
    at: Params = {}


class Floor(Place):
    """Where the rows of a method find the distance of real images from real images.

    n: it is for rows of as many samples alone; without it for all rows of its method.
    """

    n: Annotated[int, Field(ge=1)] | None = None


class Row(Place):
    """One place to look: what stands in the table, and where it was measured.

    each: the row stands for one row a combination of these values, the last varying fastest; they
    are coordinates, beside those of ``at``. In group, label, arm and pictures the name of a
    coordinate in braces stands for its value, in group and label for its word if it has one.
    models: those that the method trained for it; the table gives their time. pictures: array of the
    arm's first seed, images as uint8 (N, C, H, W) or (N, H, W); the coordinate that the comparison
    runs along may stand in its name too, as in "pictures-{nfe}". floor: instead of that of its
    method, where real images have been judged as the row's samples are.
    """

    group: str
    label: str
    each: dict[Identifier, Annotated[list[Coordinate], Field(min_length=1)]] = {}
    models: list[str] = []
    pictures: str = ""
    floor: Place | None = None


class Comparison(Strict):
    """A card under ``comparisons/``.

    along: a coordinate; a row that does not fix it has a line for each of its values, and the
    figure has curves over it. figure: the measurements that it shows. words: what readers call the
    values of a coordinate (numbers in quotes). floor: by measurement, where real images in the
    place of samples were judged; the table has beside the measurement how far it is above its
    floor, and the figure shows that. best: so many rows of each group, by its first measurement,
    stand in a table above, and the figure shows no more of those that are written by `each`.
    """

    title: str
    caption: str
    along: str | None = None
    scales: list[Scale] | None = None
    measurements: Annotated[list[str], Field(min_length=1)]
    figure: list[str] = []
    words: dict[Identifier, dict[str, str]] = {}
    floor: dict[str, list[Floor]] = {}
    best: Annotated[int, Field(ge=1)] | None = None
    rows: Annotated[list[Row], Field(min_length=1)]


def load(root: Path | None = None) -> dict[str, Comparison]:
    """Every comparison by its id.

    Raises:
        ReproError: a mistake in a card.
    """
    paths = sorted(((root or ROOT) / FOLDER).glob("[!.]*.yaml"))
    return {path.stem: _read(path, root) for path in paths}


def _read(path: Path, root: Path | None) -> Comparison:
    """A card whose methods, arms and models are there, its rows written out.

    Its measurements are looked for where an arm has run (`repro.suite.report.compared.found`).
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", path.stem) or len(path.stem) > LONGEST:
        raise ReproError(
            f"{one_line(short(path))}: is not a name for a comparison; use lower-case letters, "
            "digits and dashes"
        )
    card = read(path, Comparison)
    known = _Known(path, root)
    rows = []
    for number, row in enumerate(card.rows):
        made = list(_written_out(card, row, _refusal(path, f"rows.{number}")))
        for one in made:
            known.row(card, one, f"rows.{number}")
        rows += made
    for name in card.figure:
        known.name("figure", name, card.measurements)
    known.floors(card)
    known.words(card, rows)
    return card.model_copy(update={"rows": rows})


Refuse = Callable[[str, str], NoReturn]
"""Says what is wrong (second) with a key of a row (first)."""


def _refusal(path: Path, where: str) -> Refuse:
    def refuse(key: str, why: str) -> NoReturn:
        raise ReproError(f"{short(path)}: {where}.{key}: {why}")

    return refuse


class _Known:
    """Refuses names that are not those of something."""

    def __init__(self, path: Path, root: Path | None) -> None:
        self.path = path
        self.root = root
        self.slugs = library.slugs(root)

    def name(self, where: str, name: str, valid: Collection[str]) -> None:
        if name not in valid:
            raise ReproError(
                f"{short(self.path)}: {where}: unknown `{one_line(name)}`{nearest(name, valid)}"
            )

    def place(self, place: Place, where: str) -> None:
        self.name(f"{where}.method", place.method, self.slugs)
        experiment = library.load(place.method, self.root).experiment
        self.name(f"{where}.arm", place.arm, experiment.arms)

    def row(self, card: Comparison, row: Row, where: str) -> None:
        self.place(row, where)
        models = library.load(row.method, self.root).experiment.models
        for name in row.models:
            self.name(f"{where}.models", name, models)
        if row.floor is not None:
            self.place(row.floor, f"{where}.floor")
            if not card.floor:
                raise ReproError(
                    f"{short(self.path)}: {where}.floor: of no measurement; name it under `floor` "
                    "of the card, as in `floor: {frechet: []}`"
                )

    def floors(self, card: Comparison) -> None:
        for measurement, places in card.floor.items():
            self.name("floor", measurement, card.measurements)
            taken = set()
            for number, place in enumerate(places):
                where = f"floor.{measurement}.{number}"
                self.place(place, where)
                if (place.method, place.n) in taken:
                    raise ReproError(
                        f"{short(self.path)}: {where}: `{place.method}` has a floor already; tell "
                        "them apart by `n`, the number of samples"
                    )
                taken.add((place.method, place.n))

    def words(self, card: Comparison, rows: list[Row]) -> None:
        values: dict[str, set[str]] = {}
        for row in rows:
            for name, value in row.at.items():
                values.setdefault(name, set()).add(canonical(value))
        for name, words in card.words.items():
            self.name("words", name, values)
            for value in words:
                self.name(f"words.{name}", canonical(value), sorted(values[name]))


def _check_each(row: Row, refuse: Refuse) -> None:
    for key, names in (("at", row.at), ("each", row.each)):
        if taken := sorted({"arm", "measurement"} & set(names)):
            refuse(key, f"`{taken[0]}` is no coordinate; the row says it by a key of its own")
    for name, values in row.each.items():
        texts = [canonical(value) for value in values]
        if name in row.at:
            refuse("each", f"`{name}` stands in `at` too; keep one of them")
        if repeated := [text for text in texts if texts.count(text) > 1]:
            refuse(f"each.{name}", f"`{one_line(repeated[0])}` stands twice")
    if math.prod(len(values) for values in row.each.values()) > MOST_ROWS:
        refuse("each", f"stands for more than {MOST_ROWS} rows; write fewer values")


def _written_out(card: Comparison, row: Row, refuse: Refuse) -> Iterator[Row]:
    """The rows that one stands for; they keep its `each`, which tells that they are crossed."""
    _check_each(row, refuse)
    words = {
        name: {canonical(value): word for value, word in of.items()}
        for name, of in card.words.items()
    }
    for combination in itertools.product(*row.each.values()):
        at = {**row.at, **dict(zip(row.each, combination, strict=True))}
        texts_at = {name: canonical(value) for name, value in at.items()}
        said = {name: words.get(name, {}).get(text, text) for name, text in texts_at.items()}
        later = {card.along: f"{{{card.along}}}"} if card.along and card.along not in at else {}
        made = {
            "group": _fill("group", row.group, said, refuse),
            "label": _fill("label", row.label, said, refuse),
            "arm": _fill("arm", row.arm, texts_at, refuse),
            "pictures": _fill("pictures", row.pictures, texts_at | later, refuse),
        }
        yield row.model_copy(update={**made, "at": at})


def _fill(key: str, text: str, values: Mapping[str, str], refuse: Refuse) -> str:
    """A text of a row with its placeholders filled in."""

    def value(hole: re.Match) -> str:
        name = hole[1]
        if name not in values:
            valid = f"; valid: {', '.join(values)}" if values else "; the row has no coordinates"
            refuse(key, f"unknown placeholder `{one_line(hole[0])}`{nearest(name, values)}{valid}")
        return values[name]

    return re.sub(r"\{([^{}]*)\}", value, text)
