"""What a job reads is noted by part and item, and the notes change nothing."""

import numpy as np
import pytest

from repro.data import catalogue, items
from repro.data.containers import Document, Images, Split, Text, Volumes


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (n, 4, 4), dtype=np.uint8), np.zeros(n, np.int64))


@pytest.fixture
def made(monkeypatch):
    """Data sets of the catalogue, made up."""
    sets = {
        "shapes": Images("shapes", pictures(6), pictures(3, seed=1), ("a",)),
        "copies": Images("copies", pictures(3, seed=1), pictures(2, seed=2), ("a",)),
        "words": Text(
            "words",
            (
                Document("x", "1", "train", "one"),
                Document("y", "2", "train", "two"),
                Document("x", "3", "test", "three"),
            ),
        ),
        "head": Volumes("head", *(np.zeros((5, 2, 2), np.float32),) * 3, (1.0, 1.0, 1.0)),
    }
    monkeypatch.setattr(catalogue, "load", lambda name: items.watched(sets[name]))
    monkeypatch.setattr(items, "_hashes", {})
    return sets


def noted(use, purpose="measured", **facts):
    with items.reading(items.Reading(purpose, **facts)) as job:
        use()
    return job.found


def test_what_is_opened_counts_whole(made):
    found = noted(lambda: catalogue.load("shapes").test.images)
    assert found == {"measured": {("shapes", "test"): {0, 1, 2}}}


def test_only_what_is_taken_counts(made):
    def use():
        chosen = catalogue.load("shapes").train.images[[1, 4]]
        items.only("shapes", [1, 4])
        return chosen

    assert noted(use) == {"measured": {("shapes", "train"): {1, 4}}}


def test_a_further_opening_counts_whole_again(made):
    def use():
        data = catalogue.load("shapes")
        first = data.train
        items.only("shapes", [1])
        return first, data.train

    assert noted(use)["measured"]["shapes", "train"] == set(range(6))


def test_a_glance_at_the_shape_is_no_reading(made):
    def use():
        items.glance("shapes")
        return catalogue.load("shapes").test.images.shape

    assert noted(use) == {}


def test_documents_by_split_and_source(made):
    found = noted(lambda: catalogue.load("words").split("train", "y"))
    assert found == {"measured": {("words", "train"): {1}}}
    assert noted(lambda: catalogue.load("words").test)["measured"] == {("words", "test"): {0}}


def test_documents_past_the_splits_are_all_of_them(made):
    found = noted(lambda: catalogue.load("words").documents)["measured"]
    assert found["words", "train"] == {0, 1} and found["words", "test"] == {0}


def test_made_up_items_are_known_by_their_streams(made):
    one = noted(lambda: items.made("balls", [(0, "volume", "test")]))["measured"]
    other = noted(lambda: items.made("balls", [(0, "volume", k) for k in ("train", "test")]))
    both = other["measured"]
    assert items.shared(one, both) == one and len(both["balls", "made"]) == 2
    assert not items.shared(
        one, noted(lambda: items.made("balls", [(1, "volume", "test")]))["measured"]
    )
    assert items.restored(items.recorded({"measured": both}))[0] == {"measured": both}


def test_a_card_gives_a_part_another_purpose(made):
    other = {("shapes", "train"): "calibrated"}
    found = noted(
        lambda: (catalogue.load("shapes").train, catalogue.load("shapes").test), other=other
    )
    assert set(found) == {"calibrated", "measured"}


def test_nothing_is_watched_outside_a_job(made):
    assert type(catalogue.load("shapes")) is Images


def test_items_are_known_by_content_across_parts_and_data_sets(made):
    measured, fitted = {("copies", "train"): {0, 2}}, {("shapes", "test"): {2}}
    assert items.shared(measured, fitted) == {("copies", "train"): {2}}
    assert items.shared(measured, {("shapes", "train"): {0, 1}}) == {}


def test_volumes_of_one_head_share_their_places(made):
    assert items.shared({("head", "t1"): {1, 2}}, {("head", "gm"): {2, 3}}) == {("head", "t1"): {2}}


def test_a_record_gives_back_what_was_read(made):
    found = noted(lambda: catalogue.load("shapes").test)
    kept = items.recorded(found, ["zoo/x"])
    assert items.restored(kept) == (found, ["zoo/x"])
    (row,) = kept["measured"]
    assert row["items"] == "0-2" and len(row["sha256"]) == 64


@pytest.mark.parametrize("text", ["1-", "a", "1--2", "0-99999999", "1;2"])
def test_other_texts_are_no_ranges(text):
    with pytest.raises(ValueError):
        items.numbers_of(text)


def test_ranges_and_back():
    assert items.ranges([7, 0, 1, 2, 4]) == "0-2,4,7"
    assert items.numbers_of("0-2,4,7") == {0, 1, 2, 4, 7}
