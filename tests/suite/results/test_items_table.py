"""``items.csv`` gives back what runs and models read, and tells nothing from not recorded."""

from repro.suite import records


def record(arm, items):
    return {"method": "toy", "arm": arm, "seed": 0, "items": items}


PART = {"data": "digits", "part": "test", "items": "0-2,5", "sha256": "ab"}
RUNS = [
    record("net", {"measured": [PART], "not recorded": ["zoo/x", "zoo/y"]}),
    record("count", {}),
    record("old", None),
]
MODELS = [record("net", {"trained": [{**PART, "part": "train"}]})]


def restored(tmp_path, kind, found):
    bare = [{**one, "items": None} for one in found]
    return [one["items"] for one in records._with_items(tmp_path, kind, bare)]


def test_runs_and_models_of_one_name_are_kept_apart(tmp_path):
    (tmp_path / "items.csv").write_text(records.items_csv(RUNS, MODELS))
    assert restored(tmp_path, "run", RUNS) == [one["items"] for one in RUNS]
    assert restored(tmp_path, "model", MODELS) == [one["items"] for one in MODELS]


def test_nothing_recorded_is_no_file(tmp_path):
    assert records.items_csv([record("old", None)], []) is None
    assert restored(tmp_path, "run", RUNS) == [None] * 3


def test_the_table_is_the_same_from_what_it_gave_back(tmp_path):
    models = [{**one, "sha256": "of the weights"} for one in MODELS]
    text = records.items_csv(RUNS, models)
    assert "of the weights" not in text and "{" not in text
    (tmp_path / "items.csv").write_text(text)
    again = [
        records._with_items(tmp_path, kind, [{**one, "items": None} for one in found])
        for kind, found in (("run", RUNS), ("model", models))
    ]
    assert records.items_csv(*again) == text
