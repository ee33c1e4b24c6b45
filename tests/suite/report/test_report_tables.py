from __future__ import annotations

import csv
import time

import pytest
import yaml

from repro.errors import ReproError
from repro.suite.report import inputs, tables
from repro.suite.report.formatting import summarise
from tests.suite.report import synthetic


def load(place, slug):
    return inputs.load(slug, place.source)


def read(place, slug, name):
    return (place.out / "tables" / slug / name).read_text(encoding="utf-8")


def test_claims_table_has_every_claim(invented):
    text = read(invented, "masked-text", "claims.md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    # heading, rule, seven claims of which one has two checks
    assert len(lines) == 2 + 8
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[1:6] == [
        "exact",
        "✓ reproduced",
        "`abs(error[exact, item=closed-form]) <= 1e-9`",
        "3.1e-16 <= 1e-09",
        "1e−9",
    ]
    assert "162265682 == 162265682" in lines[3]
    contradicted = next(line for line in lines if "✗ contradicted" in line)
    assert "0.01485 < 0.5" in contradicted
    assert "61.99 → 61.52 (not comparable)" in contradicted
    untested = lines[-1]
    assert "– untested" in untested
    assert "needs the paper's own models or data" in untested
    assert "162,265,682 (comparable)" in text
    assert "0.393 (from the formula) (not comparable)" in text


def test_wall_clock_numbers_stand_only_in_cost(invented):
    for name in ("claims.md", "claims.csv", "measurements.md", "measurements.csv"):
        assert "2.475" not in read(invented, "masked-text", name)
    assert "Latency" not in read(invented, "masked-text", "measurements.md")
    cost = read(invented, "masked-text", "cost.md")
    assert "2.475 >= 2" in cost
    assert "## Latency (ms) ↓" in cost
    assert "| Denoiser   | model  |       3 |      3 min 32 s | 10 min 36 s |" in cost


def test_tables_but_cost_do_not_depend_on_the_clock(bare):
    def written():
        tables.write(inputs.load("masked-text", bare.source), bare.out / "tables" / "masked-text")
        folder = bare.out / "tables" / "masked-text"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before = written()

    def change(record):
        record |= {"started": "2030-01-01T00:00:00+00:00", "wall_s": 999.0, "peak_memory_mb": 1.0}
        for measured in record["measurements"]:
            if measured["name"] == "latency":
                measured["value"] *= 1.25

    synthetic.edit(bare, "masked-text", "*", change)
    after = written()
    assert {name for name in before if before[name] != after[name]} == {"cost.md", "cost.csv"}


def test_card_table(invented):
    assert read(invented, "masked-text", "quality.md") == (
        "# Likelihood and entropy\n\n"
        "One scoring for all networks: the same masks, the same windows.\n\n"
        "| Arm        |   Test loss (nats/char) ↓ |   Entropy (nats) ↑ |\n"
        "|:-----------|--------------------------:|-------------------:|\n"
        "| Cached     |         **2.288 ± 0.010** |  **2.794 ± 0.046** |\n"
        "| With clock |           _2.296 ± 0.010_ |    _2.780 ± 0.006_ |\n\n"
        "Mean ± half-width of the interval by which checks are judged, over 3 seeds; one that "
        "ran once has none.\n\n"
        "Best mean in bold; means that the seeds cannot tell from it in italics.\n"
    )


def test_csv_keeps_full_precision(invented):
    rows = list(csv.DictReader(read(invented, "masked-text", "quality.csv").splitlines()))
    values = load(invented, "masked-text").results.values("nll", "cached")
    row = next(r for r in rows if r["measurement"] == "nll" and r["arm"] == "cached")
    assert float(row["mean"]) == summarise(values).mean
    assert float(row["half_width"]) == summarise(values).half
    assert float(row["minimum"]) == values.min()
    assert row["n_seeds"] == "3"
    assert row["unit"] == "nats/char"


def test_sweep_is_taller_than_wide(invented):
    sweep = next(
        t
        for t in tables.measurement_tables(load(invented, "masked-text"))
        if t.id == "measurements-nfe"
    )
    assert sweep.columns == ["steps", "Cached", "With clock"]
    assert [row[0].text for row in sweep.rows] == [str(n) for n in synthetic.STEPS]
    assert [(cell.text, cell.mark) for cell in sweep.rows[-1][1:]] == [
        ("50.5 ± 0.5", "best"),
        ("128.0", ""),
    ]


def test_measurements_of_one_arm_share_a_table(bare):
    folder = bare.work / "runs" / "masked-text" / "exact" / "0"
    (folder / "record.json").unlink()
    folder.rmdir()
    rows = [
        (name, {"size": size, "width": width}, value)
        for size, width, value in (("small", 1024, 7.0), ("large", 64, 8.0), ("large", 128, 9.0))
        for name in ("params", "loss")
    ]
    rows.append(("error", {"item": "x"}, 0.5))
    synthetic.write_record(folder, "masked-text", "exact", 0, rows)
    synthetic.keep_verdicts(bare, "masked-text")
    found = {t.id: t for t in tables.measurement_tables(load(bare, "masked-text"))}
    shared = found["measurements-exact"]
    assert shared.title == "Identities"
    assert shared.columns == ["size", "width", "Parameters", "Training loss (nats)"]
    assert shared.numeric == [False, True, True, True]
    assert [[cell.text for cell in row] for row in shared.rows] == [
        ["large", "64", "8", "8"],
        ["large", "128", "9", "9"],
        ["small", "1024", "7", "7"],
    ]
    assert found["measurements-error"].columns == ["item", "Identities"]


def test_coordinates_that_differ_share_a_column(bare):
    folder = bare.work / "runs" / "masked-text" / "exact" / "0"
    (folder / "record.json").unlink()
    folder.rmdir()
    rows = [("error", {"item": "x"}, 0.5), ("error", {"n": 4, "l": 2}, 0.25)]
    synthetic.write_record(folder, "masked-text", "exact", 0, rows)
    synthetic.keep_verdicts(bare, "masked-text")
    found = {t.id: t for t in tables.measurement_tables(load(bare, "masked-text"))}
    table = found["measurements-error"]
    assert table.columns == ["At", "Identities"]
    assert [row[0].text for row in table.rows] == ["item=x", "l=2, n=4"]


@pytest.mark.parametrize(
    ("values", "direction", "marks"),
    [
        ({"a": [1.0, 1.1, 0.9], "b": [5.0, 5.1, 4.9]}, "lower", {"a": "best"}),
        ({"a": [1.0, 1.1, 0.9], "b": [5.0, 5.1, 4.9]}, "higher", {"b": "best"}),
        ({"a": [1.0, 1.1, 0.9], "b": [1.05, 1.15, 0.95]}, "lower", {"a": "best", "b": "tie"}),
        ({"a": [1.0], "b": [1.0001]}, "lower", {"a": "best"}),
        ({"a": [1.0], "b": [1.0]}, "lower", {}),
        ({"a": [1.0], "b": [2.0]}, "none", {}),
        ({"a": [1.0]}, "lower", {}),
    ],
)
def test_marks(values, direction, marks):
    summaries = {key: summarise(found) for key, found in values.items()}
    assert tables.marked(summaries, direction) == marks


def test_reserved_and_empty_tables(bare):
    path = bare.root / "methods" / "eight_bit" / "experiment.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    card["tables"][0]["id"] = "cost"
    path.write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    inputs.library.forget()
    with pytest.raises(ReproError, match="a table may not be called 'cost'"):
        tables.write(inputs.load("eight-bit", bare.source), bare.out / "tables" / "eight-bit")


def test_pipes_do_not_break_a_table():
    table = tables.Table("t", "T", "", ["a|b"], [False], [[tables.Cell("c|d\ne", "best")]])
    assert table.markdown().splitlines()[-1] == "| **c\\|d e** |"


def test_tables_of_a_method_are_fast(bare):
    started = time.perf_counter()
    tables.write(inputs.load("masked-text", bare.source), bare.out / "tables" / "masked-text")
    assert time.perf_counter() - started < 3
