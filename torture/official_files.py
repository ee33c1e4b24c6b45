"""Fetched official files, their receipts and their declarations, damaged: noticed, or harmless."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from repro.data import cache
from repro.documents import quoted
from repro.official import fetch
from repro.official.published import File, Published, receipt_path
from repro.suite.cards.loading import read
from repro.suite.cards.official import CARD, OfficialFiles
from torture.cards import ODD_NAMES
from torture.case import Case
from torture.datasets import HTML, POINTER

CONTENT = bytes(range(256)) * 8
MADE = Published(
    name="made",
    title="Made",
    licence="none",
    place="official/made",
    papers=("radd",),
    files=(File("weights.bin"),),
    url="http://127.0.0.1:9/x",
)
Damage = Callable[[Path], Any]


def _here(folder: Path) -> Path:
    """The file of `MADE`, brought and recorded in a data folder of its own."""
    os.environ.update(REPRO_DATA=str(folder / "cache"), REPRO_OFFLINE="1")
    path = MADE.path(MADE.files[0])
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (outcome,) = fetch.fetch([MADE])
    if outcome.problem or not receipt_path(MADE).is_file():
        raise RuntimeError("the case starts from nothing")
    return path


def _damaged(damage: Damage, receipt: bool) -> Callable[[Path], bool]:
    def run(folder: Path) -> bool:
        path = _here(folder)
        damage(receipt_path(MADE) if receipt else path)
        fetch.ensure([MADE], "toy/arm", "repro fetch toy")
        return path.read_bytes() == CONTENT

    return run


def _written(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "cut": _written(lambda data: data[:-7]),
    "longer": _written(lambda data: data + b"x"),
    "empty": _written(lambda data: b""),
    "a flipped bit": _written(lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:]),
    "a web page": _written(lambda data: HTML),
    "a pointer": _written(lambda data: POINTER),
    "gone": Path.unlink,
    "a folder in its place": _in_its_place,
    "no text": _written(lambda data: b"\xff" * len(data)),
    "a list": _written(lambda data: b"[1, 2]"),
    "an object of another": _written(lambda data: b'{"digest": "x"}'),
}


def _resealed(path: Path) -> None:
    """A receipt with other content under its old digest."""
    content = json.loads(path.read_text())
    content["files"]["weights.bin"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))


def _declared(**changes: Any) -> Callable[[Path], bool]:
    """Reads a card; whether all that it declares stays in the data folder."""

    def run(folder: Path) -> bool:
        facts = {"title": "T", "licence": "none", "url": "http://127.0.0.1:9/x"}
        path = folder / CARD
        content = {"official": {"made": {**facts, "files": [{"name": "w"}], **changes}}}
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        card = read(path, OfficialFiles).official["made"]
        made = card.published("made", ("toy",))
        root = Path(os.path.normpath(cache.root()))
        places = [Path(os.path.normpath(made.path(file))) for file in made.files]
        return all(root in place.parents for place in places)

    return run


def cases() -> Iterator[Case]:
    for what, damage in DAMAGES.items():
        kind = "official file not verified"
        yield Case(kind, f"the file: {what}", _damaged(damage, False), None)
        yield Case(kind, f"the receipt: {what}", _damaged(damage, True), bool)
    yield Case(kind, "the receipt: another checksum", _damaged(_resealed, True), bool)
    for what, name in ODD_NAMES.items():
        kind = "a declared path leaves its folder"
        yield Case(kind, f"a file: {what}", _declared(files=[{"name": name}]), bool)
        yield Case(kind, f"a place: {what}", _declared(place=name), bool)
        yield Case(
            kind, f"a member's folder: {what} ({quoted(name)[:20]})",
            _declared(files=[{"name": "w.zip", "unpack": {"*": name}}]), bool,
        )  # fmt: skip
