"""Bounded reading: what is read, and what is refused with file and line."""

import pytest

from repro import documents, store
from repro.errors import ReproError


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "file"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_plain_values(written):
    text = """
int: -3
float: [1.5, .5, 2., 1e-3, 1E+3, -2.5e-2]
bool: [true, False]
none: [null, ~, ]
text: [2026-02-30, "yes", '010', a:b, 1e, 1.2.3, "1_000"]
merged: {<<: [{a: 1, b: 2}, {b: 3, c: 4}], a: 9}
alias: [&one {x: 1}, *one]
"""
    assert documents.read_yaml(written(text)) == {
        "int": -3,
        "float": [1.5, 0.5, 2.0, 1e-3, 1e3, -2.5e-2],
        "bool": [True, False],
        "none": [None, None],
        "text": ["2026-02-30", "yes", "010", "a:b", "1e", "1.2.3", "1_000"],
        "merged": {"a": 9, "b": 2, "c": 4},
        "alias": [{"x": 1}, {"x": 1}],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: no", "line 2: `no` is read as true or false"),
        ("a: 1\nb: 010", "line 2: `010` is read as another number"),
        ("a: 1\nb: 1:30", "line 2: `1:30` is read as another number"),
        ("a: 1\nb: .inf", "line 2: `.inf` is not a finite number"),
        ("a: 1\nb: 1e999", "line 2: `1e999` is not a finite number"),
        ("a: 1\nb: !!set {c}", "line 2: the tag !!set is not read"),
        ("a: 1\n2: b", "line 2: the key `2` is not text"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2: the key `c` stands twice"),
        ("a: 1\nb: &c [*c]", "line 2: an alias stands inside"),
        ("a: 1\nb: ]", "line 2: not valid YAML: "),
        (f"a: 1\nb: {'[' * 65}{']' * 65}", "line 2: is nested deeper than 64 levels"),
    ],
)
def test_traps_are_named_with_their_line(written, text, message):
    with pytest.raises(ReproError) as caught:
        documents.read_yaml(written(text))
    assert f"file {message}" in str(caught.value)


def test_limits_are_where_they_say(written):
    deepest = documents.DEEPEST
    assert documents.read_yaml(written("[" * deepest + "]" * deepest)) is not None
    most = written(f"[{', '.join(['x'] * (documents.MOST_NODES - 1))}]")
    assert len(documents.read_yaml(most)) == documents.MOST_NODES - 1
    with pytest.raises(ReproError, match="more than 200000 values"):
        documents.read_yaml(written(f"[{', '.join(['x'] * documents.MOST_NODES)}]"))
    assert documents.parse_json("[" * deepest + "]" * deepest) is not None
    with pytest.raises(ValueError, match="deeper than 64"):
        documents.parse_json("[" * (deepest + 1) + "]" * (deepest + 1))


def test_text_is_utf8_with_newlines(written):
    assert documents.read_text(written(b"\xef\xbb\xbfa\r\nb\rc\n")) == "a\nb\nc\n"
    with pytest.raises(ReproError, match="line 2: is not UTF-8 .byte 0xe9."):
        documents.read_text(written(b"a\n\xe9\n"))
    with pytest.raises(ReproError, match="larger than"):
        documents.read_text(written(b"12345"), largest=4)
    assert documents.read_text(written(b"1234"), largest=4) == "1234"


def test_json_of_another_kind_is_named_with_its_remedy(written, tmp_path):
    assert store.read_json(written('{"a": 1}')) == {"a": 1}
    assert store.read_json(written("[1]"), list) == [1]
    with pytest.raises(ReproError, match="expected keys and values, found a list; delete it"):
        store.read_json(written("[1]"))
    with pytest.raises(ReproError, match="expected a list, found keys and values; delete it"):
        store.read_json(written("{}"), list)
    with pytest.raises(ReproError, match="No such file.*run its job first"):
        store.read_json(tmp_path / "missing.json")


@pytest.mark.parametrize("text", ["a\nb", "a\u2028b", "a\x1bb", "a\ud800b", "a" * 1000])
def test_what_a_message_shows_is_one_printable_line(text):
    line = documents.one_line(text)
    assert line.isprintable() and len(line) <= 300
    assert line.encode()


def test_numbers_too_large_to_print_are_described():
    assert documents.quoted(10**5000) == "a large int"
