"""A person's measured profile: files of instruments and spreadsheets, slips of unit, folders.

What comes out is right if D lies within a few percent of the planted one, or, for what is odd but
possible, if a line names the odd quantity.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from torture.case import Case, Lost, repro

CSV = "a person's CSV refused or misread"
GATE = "no plausibility gate"
FIT = "tolerance below rounding, dense algebra"
OVERWRITE = "output overwrites the user's input"
INTERVAL = "interval with a wrong label"

D, T_S = 1e-14, 360000.0
SETTINGS: dict[str, Any] = {
    "t_s": T_S, "T_C": 900, "N_left": 0.0, "N_right": 1.0, "V_A": 7.0, "V_B": 7.0,
}  # fmt: skip


def _couple(n: int = 61, noise: float = 0.0, seed: int = 0, low: float = 0.0, high: float = 1.0):
    """Points of a couple with one constant D, x in um from 0 to 720."""
    import numpy as np
    from scipy.special import erf

    L = 2e6 * np.sqrt(D * T_S)
    x = np.linspace(-3 * L, 3 * L, n)
    N = low + (high - low) * (1 + erf(x / L)) / 2
    return x + 3 * L, N + noise * np.random.default_rng(seed).standard_normal(n)


def _decimal(value: float) -> str:
    return f"{value:.6f}"


def _table(
    x: Any, N: Any, separator: str = ",", header: str = "x_um{}N_B", end: str = "\n",
    x_as: Callable[[float], str] = _decimal, N_as: Callable[[float], str] = _decimal,
) -> str:  # fmt: skip
    lines = [f"{x_as(a)}{separator}{N_as(b)}" for a, b in zip(x, N, strict=True)]
    return end.join([*header.format(separator).splitlines(), *lines]) + end


def _write(folder: Path, csv: str | bytes, settings: Mapping[str, Any] | str = SETTINGS) -> Path:
    import yaml

    path = folder / "couple.csv"
    path.write_bytes(csv.encode() if isinstance(csv, str) else csv)
    text = settings if isinstance(settings, str) else yaml.safe_dump(dict(settings))
    (folder / "couple.yaml").write_text(text, encoding="utf-8")
    return path


def _analysed(path: Path):
    """What is found, and the lines that were said of it."""
    from methods.diffusion_couple import profile

    config = profile.read_config(path.with_suffix(".yaml"))
    points = profile.read_points(path)
    found = profile.analyse(points[0], points[1], config)
    return found, [*found.notes, *getattr(found, "odd", [])]


def _result(csv: Any, settings: Any = SETTINGS):
    def run(folder: Path):
        import numpy as np

        made = csv() if callable(csv) else csv
        found, said = _analysed(_write(folder, made, settings))
        if found.table is None:
            return {"whole": True, "said": said}
        inner = found.table.D_wagner.to_numpy()[5:86]
        return {
            "mean": inner.mean() / D,
            "middle": inner[40] / D,
            "whole": bool(np.isfinite(found.table.to_numpy()).all()),
            "said": said,
        }

    return run


def _is_near(share: float = 0.03) -> Callable[[Any], bool]:
    """Wagner's D is that of the couple for Y from 0.1 to 0.9, on average and at the middle."""

    def right(found: dict[str, Any]) -> bool:
        if not found["whole"] or "mean" not in found:
            return False
        return abs(found["mean"] - 1) < share and abs(found["middle"] - 1) < 2 * share

    return right


def _says(*words: str) -> Callable[[Any], bool]:
    """A line names the odd quantity, and no number is missing."""

    def right(found: dict[str, Any]) -> bool:
        return found["whole"] and any(all(w in line for w in words) for line in found["said"])

    return right


# Files --------------------------------------------------------------------------------------


def _comma(value: float) -> str:
    return f"{value:.6f}".replace(".", ",")


def _science(value: float) -> str:
    return f"{value:.6E}".replace(".", ",")


def _thousands(value: float) -> str:
    return f"{value:,.3f}"


def _european(value: float) -> str:
    return f"{value:,.3f}".translate(str.maketrans(",.", ".,"))


def _readable() -> Iterator[tuple[str, str | bytes]]:
    """Files that mean one thing only."""
    x, N = _couple()
    plain = _table(x, N)
    for name, sign in {
        "comma": ",",
        "semicolon": ";",
        "tab": "\t",
        "bar": "|",
        "spaces": "  ",
    }.items():
        yield f"separator {name}", _table(x, N, sign)
        yield (
            f"separator {name}, further column",
            _table(x, N, sign, header="x_um{0}N_B{0}sd", N_as=lambda v, s=sign: f"{v:.6f}{s}0.01"),
        )
        if sign != ",":
            yield f"separator {name}, decimal comma", _table(x, N, sign, x_as=_comma, N_as=_comma)
            yield f"separator {name}, 1,2E-3", _table(x, N, sign, x_as=_science, N_as=_science)
    yield "columns in the other order", _table(N, x, header="N_B{}x_um")
    yield "1.2e-3", _table(x, N, x_as=lambda v: f"{v:.6e}", N_as=lambda v: f"{v:.6E}")
    yield "quoted numbers", _table(x, N, x_as=lambda v: f'"{v:.6f}"', N_as=lambda v: f'"{v:.6f}"')
    yield (
        "quoted decimal commas",
        _table(x, N, x_as=lambda v: f'"{_comma(v)}"', N_as=lambda v: f'"{_comma(v)}"'),
    )
    shifted = x + 800
    yield "1,000.0 with semicolons", _table(shifted, N, ";", x_as=_thousands)
    yield "1,000.0 in quotes", _table(shifted, N, x_as=lambda v: f'"{_thousands(v)}"')
    yield "1.000,0 with semicolons", _table(shifted, N, ";", x_as=_european, N_as=_comma)
    yield (
        "narrow spaces between thousands",
        _table(shifted, N, ";", x_as=lambda v: _thousands(v).replace(",", "\u202f")),
    )
    yield (
        "minus sign of typesetting",
        _table(x - 300, N, x_as=lambda v: f"{v:.6f}".replace("-", "\u2212")),
    )
    for name, end in {"CRLF": "\r\n", "CR": "\r", "mixed": "\r\n"}.items():
        text = _table(x, N, end=end)
        yield f"line ends {name}", text.replace("\r\n", "\n", 9) if name == "mixed" else text
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        if encoding != "utf-32":
            yield f"encoding {encoding}", plain.encode(encoding)
    yield "Latin-1 with µ", _table(x, N, header="x (µm){}N_B").encode("latin-1")
    yield "Latin-1 comment", ("# gemessen für Müller\n" + plain).encode("latin-1")
    for header in (
        "X_UM{}n_b",
        "x_µm{}N_B",
        "x [um]{}N_B",
        "x / µm{}N_B",
        " x_um {} N_B ",
        '"x_um"{}"N_B"',
    ):
        yield f"header {header}", _table(x, N, header=header)
    for units in ("um{}-", "µm{}mole fraction", "[um]{}[1]", "(µm){}"):
        yield (
            f"row of units {units}",
            _table(x, N, header="x_um{0}N_B\n" + units.replace("{}", "{0}")),
        )
    yield "trailing commas", plain.replace("\n", ",\n")
    yield "trailing commas below the header", plain.replace("\n", ",,\n").replace("B,,", "B", 1)
    yield "blank lines", plain.replace("\n", "\n\n")
    yield "lines of commas at the end", plain + ",\n,\n,\n"
    yield "comments", "# one\n# two, with a comma\n" + plain.replace("\n", " # note\n", 20)
    yield "percent comments", "% one\n" + plain
    yield "Excel's sep=", "sep=;\n" + _table(x, N, ";")
    yield "spaces around", plain.replace(",", "  ,  ")
    yield "no last line end", plain.rstrip("\n")
    rows = plain.splitlines()
    yield "falling positions", "\n".join([rows[0], *rows[:0:-1]]) + "\n"
    yield "shuffled rows", "\n".join([rows[0], *rows[1::2], *rows[2::2]]) + "\n"
    yield "every point twice", "\n".join([rows[0], *(r for row in rows[1:] for r in (row, row))])


def _unreadable() -> Iterator[tuple[str, str | bytes]]:
    """Files that can mean two things, or nothing."""
    x, N = _couple()
    plain = _table(x, N)
    rows = plain.splitlines()

    def changed(row: int, text: str) -> str:
        return "\n".join([*rows[:row], text, *rows[row + 1 :]]) + "\n"

    yield "decimal commas between commas", _table(x, N, x_as=_comma, N_as=_comma)
    yield "1,000.0 between commas", _table(x + 800, N, x_as=_thousands)
    yield "more fields than the header", plain.replace("\n", ",7\n").replace("B,7", "B", 1)
    yield (
        "an index before the columns",
        "\n".join([rows[0], *(f"{i},{r}" for i, r in enumerate(rows[1:]))]),
    )
    yield "more fields in one row", changed(20, "1,2,3")
    yield (
        "1,000 that may be 1 or 1000",
        _table(x, N, ";", x_as=lambda v: f"{round(v) + 1000:,}", N_as=lambda v: f"{round(v)}"),
    )
    yield "points and commas before decimals", _table(x, N, ";", N_as=_comma)
    for text in (
        "nan",
        "NaN",
        "",
        "inf",
        "-",
        "<0.01",
        "n.d.",
        "0.5?",
        "1e999",
        "0x10",
        "1_0",
        "=A1+1",
        "#N/A",
        "#DIV/0!",
    ):
        yield f"cell {text!r} for a composition", changed(20, f"{x[19]:.6f},{text}")
        if text in ("nan", "", "inf", "n.d."):
            yield f"cell {text!r} for a position", changed(20, f"{text},{N[19]:.6f}")
    yield "a row with one value", changed(20, "240.0")
    yield "text between the rows", changed(20, "second line scan")
    yield "a second header between the rows", changed(20, rows[0])
    yield "no header", "\n".join(rows[1:]) + "\n"
    yield "commented header", "# " + plain
    yield "only a header", rows[0] + "\n"
    for count in (1, 2, 7):
        yield f"{count} points", "\n".join(rows[: count + 1]) + "\n"
    for header in (
        "x_mm{}N_B",
        "x_m{}N_B",
        "x (nm){}N_B",
        "x_um{}N_B_pct",
        "x_um{}at.%",
        "x_um{}NB",
        "pos{}comp",
        "x{}N_B",
        "x_um{}X_UM",
        "x_um{}N_A",
    ):
        yield f"header {header}", _table(x, N, header=header)
    yield "the column twice", "\n".join(["x_um,N_B,N_B", *(f"{r},0.5" for r in rows[1:])])
    for units in ("mm{}-", "m{}-", "nm{}1", "um{}at.%", "um{}%", "s{}-"):
        yield (
            f"row of units {units}",
            _table(x, N, header="x_um{0}N_B\n" + units.replace("{}", "{0}")),
        )
    yield "header with another separator", plain.replace(",", ";", 1)
    yield "rows with another separator", rows[0] + "\n" + _table(x, N, ";").split("\n", 1)[1]
    yield "swapped columns", _table(N, x)
    yield "one position out of order", changed(30, f"9999,{N[29]:.6f}")
    yield "constant composition", _table(x, 0 * N + 0.5)
    yield "constant position", _table(0 * x + 5, N)
    yield "falls where the couple rises", _table(x, N[::-1])
    yield "empty file", ""
    yield "blank file", "\n \n\n"
    yield "NUL in the text", plain[:300] + "\0" + plain[300:]
    yield "a PNG", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9
    yield "a spreadsheet", b"PK\x03\x04" + bytes(range(256)) * 9
    yield "an old spreadsheet", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(999)
    yield "random bytes", bytes((i * 7919 + 13) % 256 for i in range(4000))
    yield "HTML", "<!DOCTYPE html><html><body>404, not found</body></html>\n"
    yield "JSON", '{"x_um": [1, 2], "N_B": [0, 1]}\n'
    yield "UTF-32", plain.encode("utf-32")
    yield "a number of 5,000 digits", changed(20, "9" * 5000 + ",0.5")
    yield "a cell of 200,000 letters", changed(20, "a" * 200_000 + ",0.5")
    yield "30,000 columns", ",".join(["x_um"] + ["y"] * 30_000) + "\n" + plain
    yield "100,000 points", "x_um,N_B\n" + "1,0.5\n" * 100_000


def _file_cases() -> Iterator[Case]:
    for name, text in _readable():
        yield Case(CSV, f"read: {name}", _result(text), _is_near())
    for name, text in _unreadable():
        yield Case(CSV, f"refused: {name}", _result(text))
    yield Case(CSV, "refused: a folder", lambda folder: _analysed(_odd_file(folder, "folder")))
    yield Case(
        CSV, "refused: a pipe", lambda folder: _analysed(_odd_file(folder, "pipe")), limit_s=5
    )
    yield Case(CSV, "refused: missing", lambda folder: _analysed(_odd_file(folder, "missing")))
    yield Case(
        CSV,
        "refused: 1,000,000 points",
        _result(lambda: "x_um,N_B\n" + "1,0.5\n" * 10**6),
        slow=True,
    )


def _odd_file(folder: Path, kind: str) -> Path:
    path = _write(folder, "")
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    return path


# Slips --------------------------------------------------------------------------------------


def _points(x: float = 1.0, N: Callable[[Any], Any] | None = None, **how: Any):
    def csv() -> str:
        places, values = _couple(**how)
        return _table(
            places * x, values if N is None else N(values), x_as=lambda v: f"{v:.9e}",
            N_as=lambda v: f"{v:.9e}",
        )  # fmt: skip

    return csv


def _slips() -> Iterator[tuple[str, Any, Any, Any]]:
    """(name, points, settings, what is right beside a refusal)."""
    yield "metres under x_um", _points(1e-6), {}, None
    yield "millimetres under x_um", _points(1e-3), {}, _says("x_um")
    yield "centimetres under x_um", _points(1e-4), {}, _says("x_um")
    yield "nanometres under x_um", _points(1e3), {}, None
    yield "inches under x_um", _points(1 / 25400), {}, _says("x_um")
    yield "hours under t_s", _points(), {"t_s": T_S / 3600}, _says("t_s")
    yield "days under t_s", _points(), {"t_s": T_S / 86400}, _says("t_s")
    yield "milliseconds under t_s", _points(), {"t_s": T_S * 1000}, _says("t_s")
    narrow = _points(low=0.12, high=0.67)
    yield "ends 0 and 1 of a couple from 0.12 to 0.67", narrow, {}, None
    yield "one end of a couple from 0.12 to 0.67", narrow, {"N_left": 0.12}, None
    yield "ends within those of the couple", _points(), {"N_left": 0.12, "N_right": 0.67}, None
    yield "ends 5 % off", narrow, {"N_left": 0.09, "N_right": 0.7}, None
    yield "ends of another couple", narrow, {"N_left": 0.7, "N_right": 1.0}, None
    yield "swapped ends", _points(), {"N_left": 1.0, "N_right": 0.0}, None
    yield "percent for fractions", _points(N=lambda N: 100 * N), {}, None
    yield "percent for fractions and ends", _points(N=lambda N: 100 * N), {"N_right": 100}, None
    yield "mass per cent over 1", _points(N=lambda N: 1.1 * N), {}, None
    yield "background of -4 %", _points(N=lambda N: N - 0.04), {}, None
    yield "dilute to nothing", _points(high=1e-9), {"N_right": 1e-9}, None
    yield (
        "no difference that a float has",
        _points(low=0.5, high=0.5),
        {"N_left": 0.5, "N_right": 0.5 + 1e-16},
        None,
    )
    yield "noise of half the range", _points(noise=0.5), {}, None
    yield "noise of 15 % of the range", _points(noise=0.15), {}, None
    yield "noise of 5 % of the range", _points(noise=0.05, n=201), {}, _says("scatter")
    yield "a hump", _points(N=_humped), {}, None
    yield "two couples in a row", _points(N=lambda N: (2 * N) % 1.000001), {}, None
    yield "a step without points in it", _points(N=lambda N: (N > 0.5) * 1.0), {}, None
    yield "one wild point", _points(N=_wild(0.2), noise=1e-3), {}, _says("N_B", "off the fit")
    yield "only the middle was measured", _points(N=lambda N: 0.45 + 0.1 * N), {}, None
    yield "marker outside", _points(), {"x_K_um": 1e5}, None
    yield "marker left of all", _points(), {"x_K_um": -1.0}, None
    for key in ("t_s", "T_C", "N_left", "V_A", "x_K_um"):
        for value in (float("inf"), float("nan")):
            yield f"{key}: {value}", _points(), {key: value}, None
    for key, value in {
        "t_s": 0, "T_C": -300, "N_left": -0.1, "N_right": 1.2, "V_A": 7e-6, "V_B": 7e3,
        "V_m": {"w": float("nan")}, "layers": 3,
    }.items():  # fmt: skip
        yield f"{key}: {value}", _points(), {key: value}, None
    yield "t_s: 1e15", _points(), {"t_s": 1e15}, None
    yield "T_C in Kelvin of a star", _points(), {"T_C": 20000}, None
    yield "V_m: {w: -100}", _points(), {"V_m": {"w": -100}}, None
    yield "V_m: {w: -20}", _points(), {"V_m": {"w": -20}}, None
    yield "V_m: {w: 30}", _points(), {"V_m": {"w": 30}}, None
    yield "V_m in m3/mol", _points(), {"V_m": {"table": [[0, 7e-6], [1, 7e-6]]}}, None
    yield (
        "V_m per formula unit at one end",
        _points(),
        {"V_m": {"table": [[0, 7], [1, 28]]}},
        _says("V_B"),
    )
    yield (
        "V_m steeper than can be",
        _points(),
        {"V_m": {"table": [[0, 7], [0.1, 60], [1, 7]]}},
        None,
    )
    yield "V_m over percent", _points(), {"V_m": {"table": [[0, 7], [100, 7]]}}, None
    yield (
        "V_m over a part of the couple",
        _points(),
        {"V_m": {"table": [[0.4, 7], [0.6, 7]]}},
        _says("V_m", "0.4"),
    )
    yield "V_m of two kinds", _points(), {"V_m": {"w": 1, "table": [[0, 7], [1, 7]]}}, None
    for key in ("t_h", "time", "N_Left", "VA", "V_a", "T_K", "x_K", "v_m"):
        yield f"unknown key {key}", _points(), {key: 1.0}, None
    for key in SETTINGS:
        yield f"without {key}", _points(), {key: None}, None
        yield f"{key} with its unit", _points(), {key: "3 units"}, None
        yield f"{key}: true", _points(), {key: True}, None
    yield "decimal comma in the YAML", _points(), {"V_A": "6,59"}, None


def _humped(N: Any) -> Any:
    import numpy as np

    return np.clip(N + 0.25 * np.exp(-(((np.arange(len(N)) - 20) / 4) ** 2)), 0, 1)


def _wild(size: float) -> Callable[[Any], Any]:
    def change(N: Any) -> Any:
        N = N.copy()
        N[len(N) // 2 - 6] += size
        return N

    return change


def _gate_cases() -> Iterator[Case]:
    for name, csv, change, right in _slips():
        settings = {
            key: value for key, value in {**SETTINGS, **change}.items() if value is not None
        }
        yield Case(GATE, name, _result(csv, settings), right)
    for name, text in {
        "empty YAML": "", "a list": "- 1\n", "a date": "t_s: 2020-01-01\n", "not YAML": "t_s: [1\n",
        "a tag": "t_s: !!python/name:os.system\n",
    }.items():  # fmt: skip
        yield Case(GATE, name, _result(_points(), text))
    layer = {"name": "Cu3Sn", "N": 0.5, "V_m": 8.6, "thickness_um": 7.0}
    for name, change in {
        "thickness in metres": {"thickness_um": 7e-6},
        "thicker than the profile": {"thickness_um": 9e3},
        "thickness nan": {"thickness_um": float("nan")}, "error above thickness": {"sd_um": 70.0},
        "place nan": {"x_left_um": float("nan")}, "place outside": {"x_left_um": 1e5},
        "volume per formula unit": {"V_m": float("inf")}, "composition in percent": {"N": 50},
        "name that is a formula": {"name": "=cmd()"}, "name with a bar": {"name": "a | b"},
    }.items():  # fmt: skip
        yield Case(
            GATE, f"layer: {name}", _result(_points(), {**SETTINGS, "layers": [layer | change]})
        )
    yield Case(
        GATE,
        "a negative intrinsic coefficient",
        _marker,
        lambda text: "-" not in text.replace("e-", ""),
    )


def _marker(folder: Path) -> str:
    path = _write(folder, _points(high=0.01)(), {**SETTINGS, "N_right": 0.01, "x_K_um": 420.0})
    found, _ = _analysed(path)
    return " ".join(str(D) for pair in found.intrinsic.values() for D in pair)


# Fits ---------------------------------------------------------------------------------------


def _fit_cases() -> Iterator[Case]:
    for n in (50, 61, 100, 200, 301, 500, 1000, 2000):
        for noise in (0.0, 0.001, 0.003):
            for seed in range(1 if noise == 0 else 3):
                yield Case(
                    FIT,
                    f"{n} points, noise {noise}, seed {seed}",
                    _result(_points(n=n, noise=noise, seed=seed)),
                    _is_near(),
                    slow=seed > 0 or n > 301,
                    limit_s=5,
                )
    yield Case(FIT, "20 points", _result(_points(n=20, noise=0.001)), _is_near())
    yield Case(
        FIT,
        "narrow couple",
        _result(
            _points(n=301, low=0.42, high=0.52, noise=1e-4),
            {**SETTINGS, "N_left": 0.42, "N_right": 0.52},
        ),
        _is_near(),
    )
    yield Case(
        FIT,
        "falling couple",
        _result(
            _points(n=301, low=1.0, high=0.0, noise=1e-3),
            {**SETTINGS, "N_left": 1.0, "N_right": 0.0},
        ),
        _is_near(),
    )
    yield Case(
        FIT, "dilute couple", _result(_points(high=1e-3), {**SETTINGS, "N_right": 1e-3}), _is_near()
    )
    yield Case(FIT, "long plateaus", _result(_long), _is_near())


def _long() -> str:
    """Forty times as long as the zone is wide, dense in the zone."""
    import numpy as np

    x, N = _couple(81)
    left, right = x[0] - np.arange(200, 0, -1) * 60, x[-1] + np.arange(1, 201) * 60
    return _table(np.r_[left, x, right], np.r_[0 * left, N, 0 * right + 1])


def _covered(folder: Path) -> float:
    """Share of the truth inside the interval, over the seeds of a couple whose D has a minimum."""
    import numpy as np

    from methods.diffusion_couple import profile, systems

    couple = systems.ni_al_like(3.0)
    config = profile.Config(
        t_s=couple.t, T_C=900, N_left=0.42, N_right=0.52, V_A=7.1, V_B=7.5,
        V_m={"table": [[0.42, 7.10], [0.50, 7.25], [0.52, 7.25 + 3 * 0.02 * 0.15 / 0.08]]},
    )  # fmt: skip
    inside = []
    for seed in range(8):
        x, N = couple.points(55, 0.0005 * np.random.default_rng(seed).standard_normal(55))
        table = profile.analyse(x, N, config).table
        truth = couple.D(table.N.to_numpy())
        inside.append(((table.D_wagner_low <= truth) & (truth <= table.D_wagner_high))[5:86].mean())
    return float(np.mean(inside))


# Folders ------------------------------------------------------------------------------------


def _run_quietly(path: Path, out: Path) -> None:
    from methods.diffusion_couple import profile

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        profile.profile_cli(path, None, out)


def _report(folder: Path, out: Path, **planted: str) -> str:
    """Run the profile with files of the person's in the way; theirs must be as they were."""
    path = _write(folder, _points()())
    for name, text in planted.items():
        (out / name.replace("_dot_", ".")).write_text(text, encoding="utf-8")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    try:
        _run_quietly(path, out)
    finally:
        for p, content in before.items():
            if not p.is_file() or p.read_bytes() != content:
                raise Lost(f"{p.name} was replaced")
    return "written"


def _overwrite_cases() -> Iterator[Case]:
    yield Case(OVERWRITE, "--out .", lambda folder: _report(folder, folder))
    for name in ("couple_dot_csv", "couple_dot_md", "couple_dot_png"):
        yield Case(
            OVERWRITE,
            f"{name.replace('_dot_', '.')} of the person's in --out",
            lambda folder, name=name: _report(folder, _made(folder / "out"), **{name: "mine"}),
        )
    yield Case(
        OVERWRITE, "--out is a file", lambda folder: _report(folder, _made_file(folder / "out"))
    )
    yield Case(
        OVERWRITE,
        "--out below a file",
        lambda folder: _report(folder, _made_file(folder / "f") / "out"),
    )
    yield Case(
        OVERWRITE, "--out cannot be written", lambda folder: _report(folder, Path("/proc/none"))
    )
    yield Case(OVERWRITE, "--out with a NUL", lambda folder: _report(folder, folder / "a\0b"))
    yield Case(OVERWRITE, "a link to the profile in --out", _linked)
    yield Case(OVERWRITE, "edited output", _edited, slow=True)
    yield Case(OVERWRITE, "again into the same folder", _again, lambda files: files == 4, slow=True)
    yield Case(OVERWRITE, "a killed write before", _killed, lambda files: files == 4, slow=True)
    yield Case(
        OVERWRITE,
        "layers before, none now",
        _other_kind,
        lambda names: "couple_layers.csv" not in names,
        slow=True,
    )
    yield Case(OVERWRITE, "repro new over a test of the author's", _scaffold)
    yield Case(OVERWRITE, "the command line, --out .", _command, slow=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _made_file(path: Path) -> Path:
    path.write_text("mine", encoding="utf-8")
    return path


def _linked(folder: Path) -> str:
    out = _made(folder / "out")
    (out / "couple.csv").symlink_to(folder / "couple.csv")
    _write(folder, "mine")
    return _report(folder, out)


def _edited(folder: Path) -> str:
    path, out = _write(folder, _points()()), folder / "out"
    _run_quietly(path, out)
    mine = (out / "couple.md").read_text(encoding="utf-8") + "\nWhat I think of it.\n"
    (out / "couple.md").write_text(mine, encoding="utf-8")
    try:
        _run_quietly(path, out)
    finally:
        if (out / "couple.md").read_text(encoding="utf-8") != mine:
            raise Lost("couple.md was replaced")
    return "written"


def _again(folder: Path) -> int:
    path, out = _write(folder, _points()()), folder / "out"
    _run_quietly(path, out)
    _run_quietly(path, out)
    return len(list(out.iterdir()))


def _killed(folder: Path) -> int:
    """The second of the files was not written any more."""
    from repro import store

    path, out = _write(folder, _points()()), folder / "out"
    atomic = store.atomic

    def dies(target: Path, *how):
        if target.suffix == ".png":
            raise KeyboardInterrupt
        return atomic(target, *how)

    store.atomic = dies
    try:
        _run_quietly(path, out)
    except KeyboardInterrupt:
        store.atomic = atomic
    _run_quietly(path, out)
    return len(list(out.iterdir()))


def _other_kind(folder: Path) -> list[str]:
    layer = {"name": "Cu3Sn", "N": 0.5, "V_m": 8.6, "thickness_um": 7.0}
    path, out = _write(folder, _points()(), {**SETTINGS, "layers": [layer]}), folder / "out"
    _run_quietly(path, out)
    _run_quietly(_write(folder, _points()()), out)
    return [p.name for p in out.iterdir()]


def _scaffold(folder: Path) -> str:
    from repro.suite import scaffold

    mine = folder / "tests" / "methods" / "my_paper" / "test_my_paper.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    try:
        scaffold.create("my-paper", folder)
    finally:
        if mine.read_text(encoding="utf-8") != "mine":
            raise Lost("the author's test was replaced")
    return "made"


def _command(folder: Path) -> Any:
    path = _write(folder, _points()())
    before = path.read_bytes()
    done = repro(folder, "run", "diffusion-couple", "--profile", "couple.csv", "--out", ".")
    if path.read_bytes() != before:
        raise Lost("couple.csv was replaced")
    return done.answer()


def cases() -> Iterator[Case]:
    import methods.diffusion_couple.profile  # noqa: F401  # once, not in every forked case

    yield from _file_cases()
    yield from _gate_cases()
    yield from _fit_cases()
    yield Case(INTERVAL, "a minimum of D, 8 seeds", _covered, lambda share: share > 0.9, slow=True)
    yield from _overwrite_cases()
