"""The points of a person's profile, from the CSV that an instrument or a spreadsheet wrote.

Read is what can mean one thing only: comma, semicolon, tab, | or spaces between the columns; point
or comma before the decimals, separators of thousands; UTF-8, UTF-16 and Latin-1; any line ends;
quotes, blank lines, lines or ends of lines after # (or lines after %), a row of units, Excel's
`sep=;`, further columns, columns in any order, rows in any order. The rest is refused with its row.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.documents import one_line, read_bytes
from repro.errors import ReproError, nearest
from repro.places import short

Array = NDArray[np.float64]
UM = 1e-6
FEWEST, MOST = 8, 20_000
LARGEST = 16_000_000  # bytes; no profile comes near
COLUMNS = ("x_um", "N_B")
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "|", " ": "spaces"}
MICROMETRES = ("um", "µm", "μm", "mum", "micron", "microns", "micrometre", "micrometer",
               "micrometres", "micrometers")  # fmt: skip
FRACTIONS = ("", "-", "1", "-/-", "mol/mol", "mole fraction", "fraction", "atomic fraction",
             "at. fraction", "frac", "x")  # fmt: skip
PERCENT = ("%", "at%", "at.%", "at. %", "at %", "mol%", "mol.%", "mol %", "atomic %", "percent",
           "pct", "atomic percent")  # fmt: skip
LENGTHS = {"nm": "divide by 1000", "mm": "multiply by 1000", "cm": "multiply by 10000",
           "m": "multiply by 1e6", "å": "divide by 10000"}  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
POINT_AND_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)([eE][+-]?\d+)?")
COMMA_AND_THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d*)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?\d*,\d*([eE][+-]?\d+)?")
MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


class Points(NamedTuple):
    """x (n,), m, not falling; N (n,); what was done to the file to read it."""

    x: Array
    N: Array
    notes: tuple[str, ...] = ()


Row = tuple[int, list[str]]
"""Number of the line and its cells."""


def read_points(path: Path) -> Points:
    """Read the columns `x_um` and `N_B`.

    Raises:
        ReproError: no such file or column, what is no number, too few or too many points, or
            anything that can be read in two ways; with the line where that is so.
    """
    lines = list(islice(_lines(_text(path)), 2 * MOST))
    separator, names, rows = _cells(path, lines)
    wanted = [_column(path, names, name) for name in COLUMNS]
    rows = _without_units(path, rows, wanted, names)
    values, decimal = _numbers(path, rows, wanted)
    where = [number for number, _ in rows]
    if not FEWEST <= len(values) <= MOST:
        remedy = "measure more" if len(values) < FEWEST else "average neighbours first"
        more = " or more" if len(lines) == 2 * MOST else ""
        raise ReproError(
            f"{short(path)} has {len(values)}{more} points, expected {FEWEST} to {MOST}; {remedy}"
        )
    notes = []
    if separator != ",":
        notes.append(f"The columns were read as separated by {SEPARATORS[separator]}")
    if decimal == ",":
        notes.append("Commas were read as decimal signs")
    order = _order(path, values[:, 0], where)
    if order is not None:
        notes.append("The rows were put in the order of x_um")
    x, N = (values if order is None else values[order]).T
    return Points(x * UM, N, tuple(f"{note}." for note in notes))


def _text(path: Path) -> str:
    raw = read_bytes(path, LARGEST)
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ReproError(f"{short(path)} is a spreadsheet or an archive; save it as CSV")
    encoding = "utf-8-sig"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif raw[:200].count(0) > len(raw[:200]) // 3:  # letters of two bytes
        encoding = "utf-16-be" if raw[0] == 0 else "utf-16-le"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
        raise ReproError(
            f"{short(path)} is not text; save the profile as CSV with the columns x_um,N_B"
        )
    return text


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that hold something, without comments."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        kept = line.split("#", 1)[0]
        if not kept.strip(" \t,;|\"'\u00a0\ufeff") or kept.lstrip().startswith("%"):
            continue
        if not re.fullmatch(r"\s*sep=.\s*", kept):  # Excel's own note
            yield number, kept


def _error(path: Path, number: int, what: str) -> ReproError:
    return ReproError(f"{short(path)} line {number}: {what}")


def _cells(path: Path, lines: list[tuple[int, str]]) -> tuple[str, list[str], list[Row]]:
    """The separator, the names of the columns, and the cells of all other lines."""
    if not lines:
        raise ReproError(f"{short(path)} is empty; give a CSV with a header `x_um,N_B` and numbers")
    number, header = lines[0]
    separator = _separator(path, number, header)
    names = _split(header, separator)
    while names and not names[-1]:
        names.pop()
    rows = []
    for number, line in lines[1:]:
        cells = _split(line, separator)
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        if len(cells) > len(names):
            what = (
                f"{len(cells)} values under the {len(names)} columns of the header, which are "
                f"separated by {SEPARATORS[separator]}"
            )
            if separator == ",":
                what += "; a comma before the decimals needs another separator, as a semicolon"
            raise _error(path, number, what)
        rows.append((number, cells))
    return separator, names, rows


def _separator(path: Path, number: int, header: str) -> str:
    """What parts the columns of the header; where that does not show, what parts most."""
    known = {name.casefold() for name in COLUMNS}
    for separator in SEPARATORS:
        if known <= {_plain(cell) for cell in _split(header, separator)}:
            return separator
    if all(map(_is_number, re.split(r"[;\t ,|]+", header.strip(" \t;,|")))):
        what = "numbers without a header; write `x_um,N_B` on the line above, without #"
        raise _error(path, number, what)
    return max(SEPARATORS, key=lambda s: (s != " ", len(_split(header, s))))


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return [cell.strip("\"' \ufeff") for cell in line.split()]
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # a cell of more than 100,000 letters
        cells = line.split(separator)
    return [cell.strip(" \t'\"\u00a0\u2009\u202f\ufeff") for cell in cells]


def _plain(name: str) -> str:
    """A name as it is compared: `x_µm`, `X [um]`, `x (µm)` and `x/um` are all x_um."""
    name = re.sub(r"[\s_]*[\[(/]\s*([^\])]*?)\s*[\])]?$", r"_\1", name.strip().casefold())
    stem, _, unit = name.rpartition("_")
    return f"{stem}_um" if unit in MICROMETRES else name


def _column(path: Path, names: list[str], wanted: str) -> int:
    found = [i for i, name in enumerate(names) if _plain(name) == wanted.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ReproError(f"{short(path)}: the column `{wanted}` stands twice; remove one of them")
    listed = ", ".join(one_line(name, 40) for name in names[:8]) + (", …" if len(names) > 8 else "")
    hint = nearest(wanted, names)
    for name in names if wanted == "x_um" else ():
        stem, _, unit = _plain(name).rpartition("_")
        if stem == "x" and unit in LENGTHS:
            hint = f" ({name} is in {unit}: {LENGTHS[unit]})"
    for name in names if wanted == "N_B" else ():
        if any(sign in _plain(name) for sign in ("%", "percent", "pct")):
            hint = f" ({name} is in percent: divide by 100)"
    raise ReproError(
        f"{short(path)} has no column `{wanted}`{hint}; it has {listed}, and the header must name "
        "x_um and N_B"
    )


def _without_units(path: Path, rows: list[Row], wanted: list[int], names: list[str]) -> list[Row]:
    """The rows without one of units that stands under the header.

    Raises:
        ReproError: a unit is not that of the column.
    """
    if not rows:
        return rows
    number, cells = rows[0]
    texts = [cells[i].strip("[]()").casefold() if i < len(cells) else "" for i in wanted]
    x_unit, N_unit = texts
    if x_unit in LENGTHS:
        raise _error(path, number, f"x_um is in {x_unit}; {LENGTHS[x_unit]} and write µm")
    if N_unit in PERCENT:
        raise _error(path, number, f"N_B is in {N_unit}; divide by 100 to give mole fractions")
    if x_unit in MICROMETRES and N_unit in FRACTIONS:
        return rows[1:]
    return rows


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


def _numbers(path: Path, rows: list[Row], wanted: list[int]) -> tuple[Array, str]:
    """The numbers of the wanted columns, (n, 2), and the decimal sign of the file.

    Raises:
        ReproError: a cell is no number, or its commas can be read in two ways.
    """
    cells = [
        (number, name, _tidy(row[i]) if i < len(row) else "")
        for number, row in rows
        for i, name in zip(wanted, COLUMNS, strict=True)
    ]
    decimal = _decimal(path, cells)
    out = np.empty(len(cells))
    for k, (number, name, cell) in enumerate(cells):
        plain = _pointed(cell, decimal)
        if not _is_number(plain) or not np.isfinite(float(plain)):
            what = f"`{one_line(cell, 40)}` is no number" if cell else "nothing"
            raise _error(path, number, f"{what} under {name}; remove or mend that row")
        out[k] = float(plain)
    return out.reshape(-1, len(COLUMNS)), decimal


def _tidy(cell: str) -> str:
    """Signs and spaces as a keyboard has them; spaces that part thousands go."""
    cell = cell.replace("\u2212", "-").replace("\u2013", "-")
    return re.sub(r"(?<=\d)[ \u00a0\u2009\u202f'](?=\d{3}(\D|$))", "", cell)


def _decimal(path: Path, cells: list[tuple[int, str, str]]) -> str:
    """The decimal sign of the file: "." or ",".

    Raises:
        ReproError: both are used, or a comma may also part thousands.
    """
    signs: dict[str, tuple[int, str]] = {}
    doubtful = None
    for number, _, cell in cells:
        if "," not in cell:
            if "." in cell and not re.fullmatch(r"[+-]?[1-9]\d{0,2}(\.\d{3})+", cell):
                signs.setdefault(".", (number, cell))
        elif POINT_AND_THOUSANDS.fullmatch(cell):
            signs.setdefault(".", (number, cell))
        elif COMMA_AND_THOUSANDS.fullmatch(cell):
            signs.setdefault(",", (number, cell))
        elif MAYBE_THOUSANDS.fullmatch(cell):
            doubtful = doubtful or (number, cell)
        elif COMMA.fullmatch(cell):
            signs.setdefault(",", (number, cell))
    if len(signs) == 2:
        (one, a), (two, b) = signs["."], signs[","]
        raise ReproError(
            f"{short(path)}: a point stands before the decimals in line {one} (`{a}`), a comma in "
            f"line {two} (`{b}`); write all with a point"
        )
    if not signs and doubtful:
        what = f"`{doubtful[1]}` can be read as thousands or as decimals; write a decimal point"
        raise _error(path, doubtful[0], what)
    return next(iter(signs), ".")


def _pointed(cell: str, decimal: str) -> str:
    """The cell with a decimal point and no separators of thousands; empty if these stand wrong."""
    thousands = "." if decimal == "," else ","
    if thousands in cell:
        whole = re.split(rf"[{decimal}eE]", cell)[0]
        if not re.fullmatch(rf"[+-]?\d{{1,3}}([{thousands}]\d{{3}})+", whole):
            return ""
        cell = cell.replace(thousands, "")
    return cell.replace(",", ".")


def _order(path: Path, x: Array, where: list[int]) -> NDArray[np.intp] | None:
    """The order in which x rises, None where it does already.

    Raises:
        ReproError: all but one of the points are in order, so that one is a slip of the pen; or all
            points lie at one place.
    """
    if np.ptp(x) == 0:
        raise ReproError(f"{short(path)}: x_um is {x[0]:g} in every row; it must be the position")
    if np.all(np.diff(x) >= 0):
        return None
    if np.all(np.diff(x) <= 0):
        return np.arange(len(x))[::-1]
    for rising in (x, -x):
        for k in np.flatnonzero(np.diff(rising) < 0)[:1]:
            for alone in (k, k + 1):
                rest = np.delete(rising, alone)
                if np.all(np.diff(rest) >= 0):
                    what = f"x_um = {x[alone]:g} is out of order, all other rows are not"
                    raise _error(path, where[alone], f"{what}; mend or remove it")
    return np.argsort(x, kind="stable")
