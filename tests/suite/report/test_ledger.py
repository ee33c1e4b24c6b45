from __future__ import annotations

import csv
import re
import shutil

import pytest

from repro.errors import ReproError
from repro.suite.report import ledger, page
from repro.suite.report.results import Results
from tests.suite.report import synthetic


def rows(path):
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def committed(invented, tmp_path):
    results = tmp_path / "results"
    for name in ("claims.csv", "environment.json"):
        (results / "small").mkdir(parents=True, exist_ok=True)
        shutil.copy(invented.out / name, results / "small" / name)
    for kind in ("tables", "figures"):
        shutil.copytree(invented.out / kind, results / "small" / kind)
    return results


def test_claims_csv(invented):
    found = rows(invented.out / "claims.csv")
    assert list(found[0]) == [
        *("method", "claim", "check", "tier", "verdict", "expect", "observed"),
        *("margin", "margin_low", "margin_high", "smallest_detectable", "n_seeds"),
        *("paper", "comparable", "timing", "reason"),
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
    results = Results
    frame = {
        (r["arm"], int(r["seed"]), r["measurement"], r["at"]): float(r["value"])
        for r in found
        if r["method"] == "masked-text"
    }
    card = ledger.inputs.load("masked-text", invented.scale, invented.work, invented.root)
    assert isinstance(card.results, results)
    assert len(frame) == len(card.results.frame)
    for row in card.results.frame.itertuples(index=False):
        assert frame[row.arm, row.seed, row.measurement, row.at_key] == row.value
    assert {r["timing"] for r in found if r["measurement"] == "latency"} == {"true"}
    assert {r["timing"] for r in found if r["measurement"] != "latency"} == {"false"}


def test_scale_ledger_counts(invented):
    text = (invented.out / "ledger.md").read_text(encoding="utf-8")
    assert re.search(r"\| EightBit +\| +2 \| +0 \| +1 \| +0 \|", text)
    assert re.search(r"\| MaskedText +\| +5 \| +1 \| +0 \| +1 \|", text)
    assert re.search(r"\| \*\*all\*\* +\| +7 \| +1 \| +1 \| +1 \|", text)
    assert "needs paper" in text


def test_no_verdicts_is_an_error(tmp_path, invented):
    with pytest.raises(ReproError, match="no verdicts at scale small"):
        ledger.write_ledger("small", tmp_path, tmp_path / "out", invented.root)
    with pytest.raises(ReproError, match="no verdicts at scale small"):
        page.write_page("small", tmp_path, tmp_path / "out", invented.root)


def test_readme_of_the_results(committed, invented):
    text = ledger.results_readme(committed, invented.root)
    assert (committed / "README.md").read_text(encoding="utf-8") == text
    assert "✗ contradicted (reduced): `0.01485 < 0.5`" in text
    assert "✓ reproduced (exact): `3.1e-16 <= 1e-09`" in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (committed / target).is_file(), target
    headings = {line[3:].lower() for line in text.splitlines() if line.startswith("## ")}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings
    assert "smoke" not in text


def test_readme_says_that_smoke_is_no_evidence(committed, invented):
    shutil.copytree(committed / "small", committed / "smoke")
    assert "`smoke` only exercises the code" in ledger.results_readme(committed, invented.root)


def test_overview_links_to_the_readme(committed, invented):
    text = ledger.overview(committed, invented.root)
    assert re.search(
        r"\| \[MaskedText\]\(results/README.md#maskedtext\) +\| small +\| +5 \| +1 \| +0 \| +1 \|",
        text,
    )


def test_damaged_claims_are_named(committed, invented):
    path = committed / "small" / "claims.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("verdict", "word", 1), "utf-8")
    with pytest.raises(ReproError, match=r"claims.csv lacks the columns verdict"):
        ledger.results_readme(committed, invented.root)
    path.unlink()
    with pytest.raises(ReproError, match="no <scale>/claims.csv"):
        ledger.results_readme(committed, invented.root)


def test_environment_names_no_machine(invented):
    found = ledger.environment(ledger.inputs.load_all("small", invented.work, invented.root))
    assert found["devices"] == ["Invented CPU at 2.4 GHz, 2 cores"]
    assert found["runs"] == 7 + 9 + synthetic.SEEDS
    assert found["first_start"] == "2026-01-02T03:00:05+00:00"
