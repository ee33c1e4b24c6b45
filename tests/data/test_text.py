from hypothesis import given
from hypothesis import strategies as st

from repro.data import text
from repro.data.containers import Document, Text


@given(st.text())
def test_tidy_twice_changes_nothing(raw):
    once = text.tidy(raw)
    assert text.tidy(once) == once
    assert "  " not in once and "\n\n" not in once


def test_tidy_by_example():
    raw = "\u201cIt\u2019s\u201d \u2014 a\u00a0 test\u2026\r\n\n\n  next\tline \x07\n"
    assert text.tidy(raw) == '"It\'s" -- a test...\nnext line'
    wrapped = "one\ntwo\n\nthree\n   \nfour\n"
    assert text.tidy(wrapped, wrapped=True) == "one two\nthree\nfour"
    assert text.tidy("Cafe\u0301") == "Caf\u00e9"


def test_documents_round_trip():
    made = [Document("s", "t", "train", 'a "b"\n\u2603'), Document("s", "u", "ood", "")]
    packed = text.pack(made)
    assert list(packed) == [text.DOCUMENTS]
    assert text.unpack(packed[text.DOCUMENTS]) == made


def test_a_corpus_is_read_by_split(tmp_path):
    made = [
        Document("a", "1", "train", "one two"),
        Document("b", "2", "train", "three"),
        Document("a", "3", "test", "four"),
    ]
    (tmp_path / text.DOCUMENTS).write_bytes(text.pack(made)[text.DOCUMENTS])
    found = text.read_text("made", tmp_path)
    assert found == Text("made", tuple(made))
    assert (found.train, found.test, found.ood) == ("one two\n\nthree", "four", "")
    assert found.split("train", "b") == ["three"]
    assert found.sources == {"a": {"train": 2, "test": 1}, "b": {"train": 1}}
