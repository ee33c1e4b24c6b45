"""Comparisons across methods, on invented runs."""

import csv

import pytest
import yaml

from repro.errors import ReproError
from repro.suite.report import comparisons, inputs
from repro.suite.report.site import build
from tests.suite.report import synthetic

CARD = {
    "title": "Quality against bits",
    "caption": "All by the same noises.",
    "measurements": ["fid", "size", "entropy"],
    "figure": ["fid"],
    "rows": [
        {"group": "W8A8", "label": "uniform", "method": "eight-bit", "arm": "uniform"},
        {"group": "W8A8", "label": "biased", "method": "eight-bit", "arm": "biased"},
        {"group": "float", "label": "full", "method": "eight-bit", "arm": "full"},
        {"group": "float", "label": "text", "method": "masked-text", "arm": "cached"},
    ],
}


@pytest.fixture
def compared(bare):
    folder = bare.root / "comparisons"
    folder.mkdir()

    def write(card):
        (folder / "bits.yaml").write_text(yaml.safe_dump(card))
        places = [bare.out / kind / "comparisons" for kind in ("tables", "figures")]
        comparisons.write(inputs.load_all(bare.source), *places, root=bare.root)
        return sorted(path.name for place in places for path in place.glob("*"))

    bare.write = write
    return bare


def test_rows_of_several_papers_stand_in_one_table(compared):
    assert set(compared.write(CARD)) == {"bits.md", "bits.csv", "bits.png", "bits.svg", "bits.json"}
    text = (compared.out / "tables" / "comparisons" / "bits.md").read_text()
    body = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split("|")[2].strip() for line in body] == [
        "What",
        "uniform",
        "biased",
        "full",
        "text",
    ]
    # The best of each group is marked, and only against its own group.
    assert body[1].count("**") == 2 and "**" not in body[3]
    rows = list(csv.DictReader((compared.out / "tables/comparisons/bits.csv").open()))
    reports = inputs.load_all(compared.source)
    results = next(r.results for r in reports if r.paper.slug == "eight-bit")
    uniform = next(r for r in rows if r["label"] == "uniform" and r["measurement"] == "fid")
    assert float(uniform["mean"]) == results.values("fid", "uniform").mean()


def site_of(compared, reports):
    index = build.write([build.Scale(compared.source, reports)], compared.out / "site")
    return {path.name: path.read_text(encoding="utf-8") for path in index.parent.glob("*.html")}


def test_the_site_has_a_page_for_them(compared):
    reports = inputs.load_all(compared.source)
    pages = site_of(compared, reports)
    assert "comparisons.html" not in pages and "comparisons.html" not in pages["index.html"]
    compared.write(CARD)
    pages = site_of(compared, reports)
    assert 'href="comparisons.html"' in pages["index.html"]
    assert "Quality against bits" in pages["comparisons.html"]
    assert "pictures/comparisons-small-bits.svg" in pages["comparisons.html"]


def test_mistakes_are_named(compared):
    with pytest.raises(ReproError, match=r"bits.yaml: rows.0.labl: unknown key"):
        compared.write(CARD | {"rows": [{**CARD["rows"][0], "labl": "x"}]})
    wrong = {**CARD["rows"][0], "at": {"steps": 4}}
    with pytest.raises(ReproError, match=r"nothing measured as fid\[uniform, steps=4\]"):
        compared.write(CARD | {"rows": [wrong]})


def test_nothing_ran_nothing_written(compared):
    assert compared.write(CARD | {"rows": CARD["rows"][-1:]}) == []
    # one paper alone is no comparison
    assert compared.write(CARD | {"rows": CARD["rows"][:3]}) == []
    reports = inputs.load_all(compared.source)
    (card,) = comparisons.load(compared.root).values()
    assert comparisons.found(card, reports) == []
    assert list(comparisons.ran(reports, compared.root)) == []
    assert "comparisons.html" not in site_of(compared, reports)


ALONG = CARD | {
    "along": "steps",
    "measurements": ["nfe", "fid"],
    "figure": ["nfe"],
    "rows": [
        {"group": "text", "label": "a", "method": "masked-text", "arm": "cached",
         "models": ["denoiser"]},
        {"group": "text", "label": "b", "method": "masked-text", "arm": "baseline"},
        {"group": "images", "label": "c", "method": "eight-bit", "arm": "uniform",
         "at": {"steps": 1}, "pictures": "samples"},
    ],
}  # fmt: skip


def test_a_row_along_a_coordinate_has_a_line_for_each_value(compared, monkeypatch):
    reports = inputs.load_all(compared.source)
    card = comparisons.Comparison(**(ALONG | {"rows": ALONG["rows"][:2]}))
    text = next(r for r in reports if r.paper.slug == "masked-text")
    steps, values = text.results.sweep("nfe", "cached", "steps")
    expanded = comparisons._points(card, text, card.rows[0])
    assert [row.at for row in expanded] == [{"steps": s} for s in steps]
    assert text.results.values("nfe", "cached", **expanded[-1].at).tolist() == values[-1].tolist()


def test_curves_samples_and_the_cost_of_training(compared):
    # Both papers have to measure along the coordinate: the images get theirs here.
    along = {"name": "fid", "at": {"steps": 1}, "value": 9.0}
    synthetic.edit(
        compared, "eight-bit", "uniform", lambda record: record["measurements"].append(along)
    )
    compared.write(ALONG | {"figure": ["nfe", "fid"]})
    text = (compared.out / "tables" / "comparisons" / "bits.md").read_text()
    head, *body = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in head[1:5]] == ["Setting", "What", "Paper", "STEPS"]
    assert head[-2].strip() == "training (min)"
    costs = {line[2].strip(): line[-2].strip() for line in body}
    assert float(costs["a"]) > 0 and costs["b"] == costs["c"] == "–"
    assert len([line for line in body if line[2].strip() == "a"]) > 1
    assert (compared.out / "figures/comparisons/bits.png").stat().st_size > 10_000


def test_pictures_are_those_of_the_coordinate_that_the_strip_names(compared, monkeypatch):
    along = {"name": "fid", "at": {"steps": 7}, "value": 9.0}
    synthetic.edit(
        compared, "eight-bit", "uniform", lambda record: record["measurements"].append(along)
    )
    asked = []
    array = inputs.Results.array

    def seen(self, arm, seed, name):
        asked.append(name)
        return array(self, arm, seed, "samples")

    monkeypatch.setattr(inputs.Results, "array", seen)
    image = {**ALONG["rows"][-1], "at": {}, "pictures": "samples-{steps}"}
    compared.write(ALONG | {"figure": ["nfe", "fid"], "rows": [*ALONG["rows"][:2], image]})
    assert asked == ["samples-7"]


def test_a_model_that_was_not_made_is_named(compared):
    wrong = {**ALONG["rows"][0], "models": ["denoisr"]}
    image = {**CARD["rows"][0]}
    with pytest.raises(ReproError, match="unknown `denoisr`"):
        compared.write(CARD | {"measurements": ["nfe", "fid"], "rows": [
            {**wrong, "at": {"steps": 64}}, image]})  # fmt: skip
