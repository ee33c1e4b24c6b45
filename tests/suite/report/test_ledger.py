from __future__ import annotations

import csv
import dataclasses
import re
import shutil

import pytest

from repro import store
from repro.errors import ReproError
from repro.suite.report import inputs, ledger, summary
from repro.suite.results import layout
from tests.suite.report import synthetic


def rows(path):
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def committed(invented, tmp_path):
    """The invented results in the layout of `results/`."""
    folder = tmp_path / "results" / "small"
    reports = inputs.load_all(invented.source)
    layout.write(folder, layout.of_scale("small", reports))
    for report in reports:
        slug = report.paper.slug
        layout.write(folder / slug, layout.of_method(report))
        shutil.copytree(invented.out / "figures" / slug, folder / slug / "figures")
    return folder.parent


def test_claims_csv(invented):
    found = rows(invented.out / "claims.csv")
    assert list(found[0]) == [
        *("method", "claim", "check", "tier", "verdict", "expect", "observed"),
        *("margin", "margin_low", "margin_high", "smallest_detectable", "by_ratio"),
        *("link", "p", "n_seeds", "paper", "comparable", "timing", "reason"),
    ]
    assert len(found) == 3 + 8
    by_claim = {row["claim"]: row for row in found}
    loser = by_claim["losses-differ"]
    assert loser["verdict"] == "contradicted"
    assert float(loser["margin_high"]) < 0
    assert loser["comparable"] == "false"
    assert by_claim["faster"]["timing"] == "true"
    untested = by_claim["zero-shot"]
    assert (untested["verdict"], untested["check"], untested["margin"]) == ("untested", "", "")
    assert untested["tier"] == "paper"


def test_runs_csv_round_trips_every_number(invented):
    found = rows(invented.out / "runs.csv")
    frame = {
        (r["arm"], int(r["seed"]), r["measurement"], r["at"]): float(r["value"])
        for r in found
        if r["method"] == "masked-text"
    }
    card = inputs.load("masked-text", invented.source)
    assert len(frame) == len(card.results.frame)
    for row in card.results.frame.itertuples(index=False):
        assert frame[row.arm, row.seed, row.measurement, row.at_key] == row.value
    assert {r["timing"] for r in found if r["measurement"] == "latency"} == {"true"}
    assert {r["timing"] for r in found if r["measurement"] != "latency"} == {"false"}


def test_scale_ledger_counts(invented):
    text = (invented.out / "ledger.md").read_text(encoding="utf-8")
    assert re.search(r"\| EightBit +\| +1 \| +0 \| +1 \| +0 \| +\| +1 of 1 \|", text)
    assert re.search(r"\| MaskedText +\| +2 \| +1 \| +1 \| +1 \| +1 of 1 \| +1 of 1 \|", text)
    assert re.search(r"\| \*\*all\*\* +\| +3 \| +1 \| +2 \| +1 \| +1 of 1 \| +2 of 2 \|", text)
    assert re.search(r"\d of \d comparisons of random arms are decided", text)
    assert "needs paper" in text


def test_readme_of_the_results(committed, invented):
    text = ledger.readme(committed, invented.root)
    assert "✗ contradicted (reduced): `0.01485 < 0.5`" in text
    assert "✓ reproduced (exact): `3.1e-16 <= 1e-09`" in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (committed / target).is_file(), target
    headings = {line[3:].lower() for line in text.splitlines() if line.startswith("## ")}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings
    assert "smoke" not in text


def test_overview_links_to_the_readme(committed, invented):
    text = ledger.overview(committed, invented.root)
    assert re.search(
        r"\| \[MaskedText\]\(results/README.md#maskedtext\) +\| small +\| +2 \| +1 \| +1 \| +1 \|",
        text,
    )


def test_damaged_claims_are_named(committed, invented):
    path = committed / "small" / "eight-bit" / "claims.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("verdict", "word", 1), "utf-8")
    with pytest.raises(ReproError, match=r"eight-bit/claims.csv: its columns are not method"):
        ledger.readme(committed, invented.root)


def test_a_scale_without_methods_is_left_out(committed, invented):
    (committed / "gpu").mkdir()
    assert "gpu" not in ledger.overview(committed, invented.root)
    shutil.rmtree(committed / "small")
    assert "MaskedText" not in ledger.overview(committed, invented.root)


def test_environment_names_no_machine(invented):
    found = ledger.environment(inputs.load_all(invented.source))
    assert found["devices"] == ["Invented CPU at 2.4 GHz, 2 cores"]
    assert found["runs"] == 7 + 9 + synthetic.SEEDS
    assert found["first_start"] == "2026-01-02T03:00:05+00:00"


def test_the_summary_has_a_line_a_method_and_one_of_all(invented):
    text, bits, every = sorted(
        summary.lines(inputs.load_all(invented.source)),
        key=lambda line: ("masked-text", "eight-bit", "all").index(line.name),
    )
    assert (bits.passed, bits.certain, bits.failed) == (1, 1, [])
    assert (text.passed, text.certain) == (2, 2)
    assert text.counts == {"reproduced": 4, "contradicted": 1, "inconclusive": 1, "untested": 1}
    # one exact run, three seeds of two arms, three models
    assert text.seconds == pytest.approx(41.5 + 2 * (3 * 41.5 + 21) + 3 * 212)
    assert every.seconds == text.seconds + bits.seconds and every.certain == 3


def test_the_summary_names_what_fails_and_what_is_shared(bare):
    path = bare.work / "verdicts" / "eight-bit.json"
    judged = store.read_sealed(path)
    size = next(check for check in judged["checks"] if check["tier"] == "structural")
    size["verdict"] = "contradicted"
    store.write_sealed(path, judged)
    (report,) = [r for r in inputs.load_all(bare.source) if r.paper.slug == "eight-bit"]
    model = {"method": "zoo", "arm": "net", "seed": 0, "wall_s": 5.0}
    report = dataclasses.replace(report, zoo_records=[model])
    bits, shared, every = summary.lines([report, report])[1:]
    assert bits.failed == [size["id"]] and bits.passed == 0
    assert (shared.name, shared.seconds, every.failed) == ("shared models", 5.0, 2 * bits.failed)
