"""Comparisons across methods, on invented runs."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from repro.errors import ReproError
from repro.suite.cards import comparisons as cards
from repro.suite.cards import library
from repro.suite.report import compared as ran
from repro.suite.report import comparison_figures, comparisons, inputs, style
from repro.suite.report.results import NotKept
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
    (card,) = cards.load(compared.root).values()
    assert ran.found(card, reports) == []
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
    card = cards.Comparison(**(ALONG | {"rows": ALONG["rows"][:2]}))
    text = next(r for r in reports if r.paper.slug == "masked-text")
    steps, values = text.results.sweep("nfe", "cached", "steps")
    expanded = list(ran._points(card, text, card.rows[0]))
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
    assert head[-2].strip() == "training, min (wall)"
    costs = {line[2].strip(): line[-2].strip() for line in body}
    assert costs["a"] == "3.5" and costs["b"] == costs["c"] == "–"  # 212 s, three seeds
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


def test_an_earlier_drawing_is_taken_over_only_if_it_shows_the_same_numbers(compared, monkeypatch):
    def missing(self, arm, seed, name):
        raise NotKept(f"the arrays of {arm} are not here")

    along = {"name": "fid", "at": {"steps": 1}, "value": 9.0}
    synthetic.edit(
        compared, "eight-bit", "uniform", lambda record: record["measurements"].append(along)
    )
    compared.write(ALONG | {"figure": ["nfe", "fid"]})
    earlier = compared.out / "figures" / "comparisons"
    kept = earlier.with_name("kept")
    earlier.rename(kept)
    (kept / "bits.png").write_bytes(b"an earlier drawing")
    monkeypatch.setattr(inputs.Results, "array", missing)

    def drawn():
        places = [compared.out / kind / "comparisons" for kind in ("tables", "figures")]
        reports = inputs.load_all(compared.source)
        taken = comparisons.write(reports, *places, root=compared.root, kept=kept)
        return taken, (places[1] / "bits.png").read_bytes() == b"an earlier drawing"

    assert drawn() == (["bits"], True)
    synthetic.edit(
        compared, "eight-bit", "uniform",
        lambda record: [m.update(value=2 * m["value"]) for m in record["measurements"]],
    )  # fmt: skip
    # Without its pictures, but with the numbers of today.
    assert drawn() == ([], False)
    monkeypatch.undo()
    about = json.loads((earlier / "bits.json").read_text())
    assert about["shows"] != json.loads((kept / "bits.json").read_text())["shows"]


def test_a_model_that_was_not_made_is_named(compared):
    wrong = {**ALONG["rows"][0], "models": ["denoisr"]}
    image = {**CARD["rows"][0]}
    with pytest.raises(ReproError, match="unknown `denoisr`"):
        compared.write(CARD | {"measurements": ["nfe", "fid"], "rows": [
            {**wrong, "at": {"steps": 64}}, image]})  # fmt: skip


# Rows that are written once -----------------------------------------------------------------------

EACH = {
    "group": "W{bits}",
    "label": "{how}, {bits} bits",
    "method": "eight-bit",
    "arm": "{how}",
    "pictures": "samples-{how}-{nfe}",
    "at": {"bits": 8},
    "each": {"how": ["uniform", "biased"], "part": [1, 2]},
}


def card_of(compared, **given):
    (compared.root / "comparisons" / "bits.yaml").write_text(yaml.safe_dump(CARD | given))
    return cards.load(compared.root)["bits"]


def test_a_row_stands_for_every_combination_of_its_values(compared):
    words = {"how": {"biased": "biased to the end"}, "bits": {"8": "8A8"}}
    card = card_of(compared, rows=[EACH, CARD["rows"][-1]], words=words, along="nfe")
    assert [row.at for row in card.rows[:4]] == [
        {"bits": 8, "how": how, "part": part} for how in ("uniform", "biased") for part in (1, 2)
    ]
    assert {row.group for row in card.rows[:4]} == {"W8A8"}
    assert card.rows[0].label == "uniform, 8A8 bits"
    assert card.rows[3].label == "biased to the end, 8A8 bits"
    # An arm and an array are called by the value, not by its word; the last of them varies.
    assert card.rows[3].arm == "biased" and card.rows[3].pictures == "samples-biased-{nfe}"
    assert [bool(row.each) for row in card.rows] == [True] * 4 + [False]
    assert card.rows[4].label == "text"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"each": {"how": []}}, r"rows.0.each.how: .*at least 1 item"),
        ({"each": {"bits": [4]}}, r"rows.0.each: `bits` stands in `at` too"),
        ({"each": {"how": ["uniform", "uniform"]}}, r"rows.0.each.how: `uniform` stands twice"),
        ({"label": "{hw}"}, r"rows.0.label: unknown placeholder `{hw}` \(did you mean `how`"),
        ({"group": "{nfe}"}, r"rows.0.group: unknown placeholder `{nfe}`"),
        ({"pictures": "{steps}"}, r"rows.0.pictures: unknown placeholder `{steps}`"),
        ({"arm": "{how}-{part}"}, r"rows.0.arm: unknown `uniform-1`"),
        ({"each": {"how": ["uniform"], "part": [*range(1001)]}}, r"rows.0.each: .*1000 rows"),
    ],
)
def test_a_row_that_cannot_be_written_out_is_refused(compared, change, said):
    with pytest.raises(ReproError, match=rf"^\S*comparisons/bits.yaml: {said}") as error:
        card_of(compared, rows=[EACH | change, CARD["rows"][-1]], along="nfe")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [({"hwo": {}}, "words: unknown `hwo`"), ({"how": {"bias": "x"}}, "words.how: unknown `bias`")],
)
def test_a_word_for_nothing_is_refused(compared, words, said):
    with pytest.raises(ReproError, match=said):
        card_of(compared, rows=[EACH, CARD["rows"][-1]], words=words, along="nfe")


# Above the floor ----------------------------------------------------------------------------------

FLOORS = {"fid": [{"method": "eight-bit", "arm": "full"}]}


def found_with(compared, **given):
    reports = inputs.load_all(compared.source)
    card = card_of(compared, **given)
    by_slug = {report.paper.slug: report for report in reports}
    return ran.Compared(card, by_slug, ran.found(card, reports))


def fid(compared, arm):
    reports = inputs.load_all(compared.source)
    return next(r.results for r in reports if r.paper.slug == "eight-bit").values("fid", arm)


def by_label(compared):
    return {row.label: values for row, values in compared.rows}


def test_a_distance_stands_beside_how_far_it_is_above_its_floor(compared):
    made = found_with(compared, floor=FLOORS)
    assert made.quantities == ["fid", "fid above its floor", "size", "entropy"]
    above = by_label(made)["uniform"]["fid above its floor"]
    assert above.tolist() == (fid(compared, "uniform") - fid(compared, "full")).tolist()
    assert "fid above its floor" not in by_label(made)["text"]
    table = comparisons.table("bits", made)
    assert table.columns[3:5] == ["FID ↓", "above its floor ↓"]
    shown = {row[1].text: row[4].text for row in table.rows}
    assert shown["text"] == "–"
    mean, half = shown["uniform"].split(" ± ")
    record = next(
        r for r in table.records if r["label"] == "uniform" and "above" in r["measurement"]
    )
    assert float(mean) == pytest.approx(above.mean(), abs=0.005)
    # 6.97 standard errors: the limit of three seeds by which checks are judged.
    width = 6.97 * above.std(ddof=1) / np.sqrt(3)
    assert record["half_width"] == pytest.approx(width) and float(half) == round(width, 2)


def test_a_floor_of_other_seeds_is_its_mean(compared):
    card = compared.root / "methods" / "eight_bit" / "experiment.yaml"
    experiment = yaml.safe_load(card.read_text())
    experiment["arms"]["full"]["deterministic"] = True
    card.write_text(yaml.safe_dump(experiment))
    library.forget()
    synthetic.attest(compared.root, compared.work, "eight-bit")
    made = found_with(compared, floor=FLOORS)
    above = by_label(made)["uniform"]["fid above its floor"]
    assert above.shape == (3,) and len(fid(compared, "full")) == 1
    assert above.tolist() == (fid(compared, "uniform") - fid(compared, "full")[0]).tolist()


def test_rows_without_a_floor_are_counted(compared):
    rows = [*CARD["rows"], {**CARD["rows"][3], "arm": "baseline", "label": "clock"}]
    given = {"measurements": ["entropy", "fid"], "figure": ["entropy"]}
    floor = {"entropy": [{"method": "eight-bit", "arm": "full"}]}
    # The rows of images have no entropy, and the floor of those that have one has no run.
    made = found_with(compared, rows=rows, floor=floor, **given)
    assert made.quantities == ["entropy", "fid"] and made.floor_note() == ""
    own = {**rows[3], "floor": {"method": "masked-text", "arm": "baseline"}}
    made = found_with(compared, rows=[*rows[:3], own, rows[4]], floor=floor, **given)
    assert by_label(made)["text"].keys() == {"entropy", "entropy above its floor"}
    assert "“–” and not in the figure: 1 row of MaskedText." in made.floor_note()
    assert made.drawn == ["entropy above its floor"]
    words = comparison_figures.words(made)["caption"]
    assert words == "All by the same noises. Not shown for want of a floor: 1 row of MaskedText."
    (panel,) = comparison_figures.draw(made).axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["text"]


def samples(compared, arm, count):
    def change(record):
        record["params"] = {**record["params"], "samples": count}

    synthetic.edit(compared, "eight-bit", arm, change)


def test_a_floor_of_another_number_of_samples_is_refused(compared):
    samples(compared, "uniform", 512)
    with pytest.raises(ReproError, match=r"eight-bit/uniform \(samples 512\) .*not said"):
        found_with(compared, floor=FLOORS)
    samples(compared, "full", 2000)
    with pytest.raises(ReproError, match=r"\(samples 512\) .*eight-bit/full \(samples 2000\)"):
        found_with(compared, floor=FLOORS)
    # A row that says nothing of samples has nothing to compare; a floor for 2000 is not for 512.
    made = found_with(compared, floor={"fid": [{**FLOORS["fid"][0], "n": 2000}]})
    assert "fid above its floor" not in by_label(made)["uniform"]
    assert "fid above its floor" in by_label(made)["full"]
    samples(compared, "full", 512)
    assert "fid above its floor" in by_label(found_with(compared, floor=FLOORS))["uniform"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"floor": {"fd": []}}, "floor: unknown `fd`"),
        ({"floor": {"fid": [{"method": "eight-bit", "arm": "ful"}]}}, "floor.fid.0.arm: unknown"),
        ({"floor": {"fid": FLOORS["fid"] * 2}}, "floor.fid.1: `eight-bit` has a floor already"),
        ({"rows": [{**CARD["rows"][0], "floor": FLOORS["fid"][0]}]}, "rows.0.floor: of no meas"),
        ({"best": 0}, "best: .*greater than or equal to 1"),
    ],
)
def test_mistakes_of_floors_are_named(compared, given, said):
    with pytest.raises(ReproError, match=rf"comparisons/bits.yaml: {said}"):
        card_of(compared, **given)


def test_what_is_not_above_its_floor_is_marked_at_the_edge(compared):
    made = found_with(compared, floor=FLOORS)
    assert np.all(by_label(made)["full"]["fid above its floor"] == 0)
    (panel,) = comparison_figures.draw(made).axes
    edge = [line for line in panel.lines if line.get_marker() == "<"]
    assert panel.get_xscale() == "log" and len(edge) == 1
    assert edge[0].get_xdata().tolist() == [0]
    assert comparison_figures.words(made)["caption"].endswith(comparison_figures.EDGE_NOTE)
    # Without anything positive the axis is not logarithmic and everything has its place.
    rows = [CARD["rows"][2], CARD["rows"][3]]
    made = found_with(compared, floor=FLOORS, rows=rows)
    (panel,) = comparison_figures.draw(made).axes
    assert panel.get_xscale() == "linear"
    assert comparison_figures.EDGE_NOTE not in comparison_figures.words(made)["caption"]


def test_curves_mark_the_edge_too(compared):
    for arm, value in (("uniform", 9.0), ("biased", 2.0), ("full", 2.0)):
        along = [{"name": "fid", "at": {"steps": x}, "value": value} for x in (1, 4)]
        synthetic.edit(
            compared,
            "eight-bit",
            arm,
            lambda record, along=along: record["measurements"].extend(along),
        )
    floor = {"fid": [{**FLOORS["fid"][0], "at": {"steps": 4}}]}
    rows = [*CARD["rows"][:2], ALONG["rows"][1]]
    given = {"along": "steps", "measurements": ["nfe", "fid"], "figure": ["fid"], "rows": rows}
    made = found_with(compared, floor=floor, **given)
    with style.context():
        panels = [ax for ax in comparison_figures.draw(made).axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in panels] == ["W8A8"]
    edge = [line for line in panels[0].lines if line.get_marker() == "v"]
    assert [line.get_xdata().tolist() for line in edge] == [[1, 4]]
    assert panels[0].get_yscale() == "log" and panels[0].get_ylim()[0] > 0


# Columns of several papers ------------------------------------------------------------------------


def test_a_row_without_a_measurement_is_no_candidate_for_the_best(compared):
    table = comparisons.table("bits", found_with(compared))
    size = {row[1].text: row[4] for row in table.rows}
    assert (size["text"].text, size["text"].mark) == ("–", "")
    assert size["full"].text == "6.25" and size["full"].mark == ""  # alone in its group
    assert comparisons.GROUP_NOTE in table.notes


def test_units_that_differ_stand_in_the_cells(compared):
    card = compared.root / "methods" / "masked_text" / "experiment.yaml"
    experiment = yaml.safe_load(card.read_text())
    experiment["measurements"]["size"] = {"unit": "kB", "direction": "lower", "format": ".0f"}
    card.write_text(yaml.safe_dump(experiment))
    library.forget()
    size = {"name": "size", "at": {}, "value": 3.0}
    synthetic.edit(
        compared, "masked-text", "cached", lambda record: record["measurements"].append(size)
    )
    made = found_with(compared)
    table = comparisons.table("bits", made)
    assert table.columns[4] == "Weights ↓"
    size = {row[1].text: row[4] for row in table.rows}
    assert size["full"].text == "6.25 MB" and size["text"].text == "3 kB"
    assert size["full"].mark == size["text"].mark == ""  # 3 kB are not compared with 6.25 MB
    made = found_with(compared, figure=["size"])
    with pytest.raises(ReproError, match="draws `size`, which is in MB and kB"):
        comparison_figures.draw(made)


def test_the_best_of_each_group_stand_above_the_full_table(compared):
    made = found_with(compared, best=1)
    full = comparisons.table("bits", made)
    short = comparisons.best(made, full)
    fids = {arm: fid(compared, arm).mean() for arm in ("uniform", "biased")}
    first = min(fids, key=fids.get)
    assert [row[1].text for row in short.rows] == [first, "full"]
    assert short.notes[-1].startswith("Further rows")  # three seeds do not tell the two apart
    made = found_with(compared, best=2)
    short = comparisons.best(made, comparisons.table("bits", made))
    # By its first measurement: a group's rows that lack it are not ranked.
    assert [row[0].text for row in short.rows] == ["W8A8", "W8A8", "float"]
    assert [row[3].mark for row in short.rows] == ["best", "best", ""]
    assert len(short.notes) == 1
    text = comparisons.files("bits", made)["bits.md"]
    parts = ["# Quality against bits", "## Best in each group", "## All rows"]
    assert [line for line in text.splitlines() if line.startswith("#")] == parts
    page = site_of(compared, inputs.load_all(compared.source))["comparisons.html"]
    assert "<summary>All 4 rows</summary>" in page and page.count("<table>") == 2
    card_of(compared)
    page = site_of(compared, inputs.load_all(compared.source))["comparisons.html"]
    assert "<summary>All" not in page and page.count("<table>") == 1


def test_of_crossed_rows_the_figure_shows_the_best_of_each_group(compared):
    made = found_with(compared, best=1)
    crossed = {"each": {"how": ["uniform", "biased"]}}
    rows = [
        (row.model_copy(update=crossed) if row.group == "W8A8" else row, values)
        for row, values in made.rows
    ]
    made = replace(made, rows=rows)
    fids = {arm: fid(compared, arm).mean() for arm in ("uniform", "biased")}
    (panel,) = comparison_figures.draw(made).axes
    labels = [text.get_text() for text in panel.get_yticklabels()]
    assert labels == [min(fids, key=fids.get), "full"]
    caption = comparison_figures.words(made)["caption"]
    assert caption.endswith("Of rows that are crossed, the best 1 of each group.")


@pytest.mark.parametrize("key", ["at", "each"])
@pytest.mark.parametrize("name", ["arm", "measurement"])
def test_a_coordinate_that_is_called_as_a_place_is_refused(compared, key, name):
    row = CARD["rows"][0] | {key: {name: ["uniform"] if key == "each" else "uniform"}}
    with pytest.raises(ReproError, match=rf"rows.0.{key}: `{name}` is no coordinate"):
        card_of(compared, rows=[row, CARD["rows"][-1]])
