"""Checks that readers share: what is right passes unchanged, what is not names its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.data import foreign
from repro.errors import ReproError

KINDS = ("<i8", ">i8", "<i4", "<u2", "<f4", ">f8")


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(0, 1), st.sampled_from(KINDS))
def test_labels_of_classes_pass_and_count_from_0(labels, first, kind):
    given_labels = np.array(labels).astype(kind) + np.dtype(kind).type(first)
    found = foreign.class_labels(given_labels, len(labels), 10, "x", first=first)
    assert found.dtype == np.int64 and found.tolist() == labels


@given(st.lists(st.integers(0, 9), min_size=1), st.sampled_from([-1, 10, 255]), st.data())
def test_a_label_that_is_no_class_is_named_with_its_index(labels, wrong, data):
    at = data.draw(st.integers(0, len(labels) - 1))
    labels[at] = wrong
    with pytest.raises(ReproError, match=f"^x has the label {wrong} at index {at}; "):
        foreign.class_labels(labels, len(labels), 10, "x")


def test_a_number_with_a_fraction_in_a_table_is_named_with_its_place():
    table = np.zeros((3, 4))
    table[1, 2] = 0.5
    with pytest.raises(ReproError, match=r"^x: 0.5 at index \(1, 2\) is no whole number"):
        foreign.whole_numbers(table, "x")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n <!doctype HTML><title>", "is a web page"),
        (b"<html lang=en>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"version 2 of a text", ""),
        (b"<mediawiki xml:lang='en'>", ""),
    ],
)
def test_what_lies_in_the_place_of_a_file(head, said):
    found = foreign.mistaken(head)
    assert found.startswith(said) and bool(found) == bool(said)


def test_hidden_files_and_folders_are_no_files(tmp_path):
    for name in ("b.npy", "a.NPY", "._a.npy", ".DS_Store", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "c.npy").mkdir()
    assert [p.name for p in foreign.visible_files(tmp_path, ".npy")] == ["a.NPY", "b.npy"]
