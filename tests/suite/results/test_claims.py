"""``results/claims.json`` and its CSV: every claim with what decides it, and no NaN."""

import csv
import io
import json
import math
import shutil
import sys

import jsonschema
import pytest
import yaml

from repro.errors import ReproError
from repro.places import ROOT
from repro.suite import cli
from repro.suite.commands import claims as command
from repro.suite.export import claims, models
from repro.suite.report import formatting, inputs
from repro.suite.results import check, publish
from tests.suite.results.conftest import COMMIT, edit, run_all


def read(published):
    """The committed file, held against the schema."""
    found = json.loads((published.results / "claims.json").read_text("utf-8"))
    path = ROOT / "workflow" / "schemas" / "repro-claims.schema.yaml"
    jsonschema.validate(found, yaml.safe_load(path.read_text("utf-8")))
    return found


def test_a_claim_has_its_check_interval_runs_and_commit(published):
    found = read(published)
    report = inputs.load("toy", inputs.Committed("small", published.results / "small"))
    claim = next(one for one in found["claims"] if one["claim"] == "smaller")
    (one,) = claim["checks"]
    judged = next(c for c in report.checks if c["id"] == "smaller")
    assert (claim["scale"], claim["paper"], claim["kind"]) == ("small", "toy", "empirical")
    assert (claim["verdict"], claim["deciding"]) == ("reproduced", "smaller")
    assert claim["findings"] == ["The gain is smaller."] and claim["paper_method"] == 1
    assert one["interval"] == formatting.margin(judged)
    assert [one["margin_low"], one["margin_high"]] == [judged["margin_low"], judged["margin_high"]]
    assert one["by_ratio"] and one["effect"] == math.exp(judged["margin"])
    assert one["commits"] == [COMMIT] and one["n_seeds"] == 4
    assert set(one["runs"]) == {f"{arm}/{seed}" for arm in ("ours", "base") for seed in range(4)}
    assert one["needs"] == [] and one["control"] is None
    assert one["absent"] == {"least": "the card names none"}
    records = (published.results / claim["records"]).read_text()
    assert all(f"toy,{run.replace('/', ',')}," in records for run in one["runs"])
    assert (published.results / claim["measurements"]).is_file()
    untested = next(c for c in found["claims"] if c["claim"] == "identity")
    assert untested["verdict"] == "untested" and untested["deciding"] is untested["tier"] is None


def test_the_table_says_the_same(published):
    text = (published.results / "claims.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    found = read(published)["claims"]
    assert list(rows[0]) == list(claims.columns()) and len(rows) == len(found)
    for row, claim in zip(rows, found, strict=True):
        assert row["statement"] == claim["statement"] and row["verdict"] == claim["verdict"]
        one = next((c for c in claim["checks"] if c["id"] == claim["deciding"]), None)
        assert row["check.margin"] == ("" if one is None else repr(one["margin"]))
        assert one is None or json.loads(row["check.runs"]) == one["runs"]


def test_preconditions_and_controls_say_how_they_came_out(published):
    def gated(card):
        card["preconditions"] = {
            "small-loss": {"expect": "loss[ours, steps=4] < 10", "why": "w"},
            "large-loss": {"expect": "loss[ours, steps=4] > 10", "why": "w"},
        }
        one = card["claims"]["smaller"]["checks"][0]
        one |= {"needs": ["small-loss", "large-loss"], "control": {"ours": "count"}}
        one["expect"] = "loss[ours, steps=4] < loss[base, steps=4]"

    def measured(card):
        card["measurements"]["loss"]["at"]["arms"] = ["ours", "base", "worse"]
        card["arms"]["worse"] = {**card["arms"]["base"], "params": {"steps": [4], "gain": 9.0}}

    edit(published.root, measured)
    edit(published.root, gated, "checks.yaml")
    edit(
        published.root,
        lambda card: card["claims"]["smaller"]["checks"][0].update(control={"ours": "worse"}),
        "checks.yaml",
    )
    run_all(published.options)
    publish.publish(published.options, published.results, ["toy"])
    claim = next(one for one in read(published)["claims"] if one["claim"] == "smaller")
    (one,) = claim["checks"]
    assert {need["id"]: need["holds"] for need in one["needs"]} == {
        "small-loss": True,
        "large-loss": False,
    }
    assert one["control"]["verdict"] == "contradicted"
    assert one["control"]["expect"] == "loss[worse, steps=4] < loss[base, steps=4]"
    assert one["verdict"] == claim["verdict"] == "inconclusive" and "large-loss" in claim["reason"]
    assert check.check(published.results) == []


def test_what_cannot_be_judged_is_named_and_stops_nothing(published):
    shutil.copytree(published.folder, published.results / "gpu" / "toy")
    edit(
        published.root, lambda card: card["scales"].update(gpu={"seeds": 5, "params": {"width": 3}})
    )
    run_all(published.options)
    publish.publish(published.options, published.results, ["toy"])
    found = read(published)
    assert {one["scale"] for one in found["claims"]} == {"small"}
    (left,) = found["not_judged"]
    assert (left["scale"], left["paper"]) == ("gpu", "toy") and "lacks seed 4" in left["reason"]


def test_a_number_that_is_none_is_null_with_a_reason():
    judged = {"margin": 800.0, "margin_low": -1.0, "margin_high": math.nan, "by_ratio": True}
    found = claims._numbers({**judged, "least": None, "smallest_detectable": 0.5, "p": None})
    assert found["effect"] == (None, "beyond the range of numbers")
    assert found["margin_high"] == (None, "not a number") == found["effect_high"]
    assert found["margin"][0] == 800.0 and found["effect_low"][0] == math.exp(-1)
    assert found["p"][0] is None and "nothing is tested" in found["p"][1]


def test_a_number_that_is_none_is_never_written():
    with pytest.raises(ValueError, match="finite number"):
        models.Data(name="n", title="", licence="", citation="", megabytes=math.nan, here=True)


@pytest.mark.parametrize(
    ("said", "checks", "due"),
    [
        ("untested", [], None),
        ("reproduced", ["exact reproduced -", "reduced reproduced .01"], 1),
        ("reproduced", ["reduced reproduced .001", "reduced reproduced .01"], 1),
        ("contradicted", ["reduced reproduced .04", "reduced contradicted .01"], 1),
        ("contradicted", ["reduced contradicted .02", "reduced contradicted .01"], 1),
        ("contradicted", ["exact contradicted -", "reduced contradicted .01"], 0),
        ("inconclusive", ["exact reproduced -", "reduced inconclusive .3"], 1),
        ("reproduced", ["exact reproduced -", "exact reproduced -"], 0),
    ],
)
def test_the_check_that_decides(said, checks, due):
    made = []
    for words in checks:
        tier, verdict, p = words.split()
        made.append({"tier": tier, "verdict": verdict, "p": None if p == "-" else float(p)})
    found = claims.deciding(made, said)
    assert found is (None if due is None else made[due])


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def told(published, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")

    def call(*words):
        monkeypatch.setattr(
            sys, "argv", ["repro", "claims", "--results", str(published.results), *words]
        )
        capsys.readouterr()
        assert cli.command() == 0
        return capsys.readouterr().out

    return call


def test_claims_are_chosen_by_paper_scale_kind_and_verdict(told):
    def ids(*words):
        return [one["claim"] for one in json.loads(told(*words, "--json"))["claims"]]

    assert ids() == ids("toy") == ids("--scale", "small") == ["smaller", "identity"]
    assert ids("--kind", "theorem") == ["identity"] == ids("--verdict", "untested")
    assert ids("--kind", "theorem", "--kind", "empirical") == ["smaller", "identity"]
    assert ids("--kind", "theorem", "--verdict", "reproduced") == []


def test_claims_as_json_csv_and_for_people(told, published):
    text = told("--json")
    assert text.isascii()
    assert json.loads(text) == json.loads((published.results / "claims.json").read_text())
    assert told("--csv") == (published.results / "claims.csv").read_text()
    shown = told()
    assert "smaller" in shown and "reproduced" in shown and "[×" in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"as_json": True, "as_csv": True}, "give one of them"),
        ({"papers": ["tay"]}, r"no method `tay` \(did you mean `toy`"),
        ({"scale": ["smal"]}, r"no scale `smal` \(did you mean `small`"),
        ({"scale": ["gpu"]}, "no committed results of these"),
        ({"kind": ["theory"]}, "--kind takes empirical, theorem.*not `theory`"),
        ({"verdict": ["true"]}, "--verdict takes reproduced"),
    ],
)
def test_what_claims_refuse(given, said, published):
    with pytest.raises(ReproError, match=said):
        command.claims(results=published.results, **given)
