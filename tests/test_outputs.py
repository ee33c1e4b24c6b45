import pytest

from repro.errors import ReproError
from repro.outputs import Folder


def folder(tmp_path):
    return Folder(tmp_path / "out", "couple", "name another folder")


def test_files_are_written_replaced_and_swept(tmp_path):
    out = folder(tmp_path)
    out.claim(["a.csv", "b.md"])
    assert not out.path.exists()  # a claim leaves nothing behind
    out.write({"a.csv": b"1", "b.md": b"2"})
    out.write({"a.csv": b"3", "c.png": b"4"})
    assert {p.name: p.read_bytes() for p in out.path.iterdir() if p.suffix != ".json"} == {
        "a.csv": b"3",
        "c.png": b"4",
    }


def test_a_file_edited_since_is_the_persons(tmp_path):
    out = folder(tmp_path)
    out.write({"a.csv": b"1", "b.md": b"2"})
    (out.path / "a.csv").write_bytes(b"mine")
    for contents in ({"a.csv": b"3"}, {"a.csv": b"3", "b.md": b"4"}):
        with pytest.raises(ReproError, match=r"a\.csv is there and was not made"):
            out.write(contents)
    out.write({"b.md": b"4"})
    assert (out.path / "a.csv").read_bytes() == b"mine"


def test_two_titles_share_a_folder(tmp_path):
    one, other = folder(tmp_path), Folder(tmp_path / "out", "other", "go away")
    one.write({"couple.csv": b"1"})
    other.write({"other.csv": b"2"})
    one.write({"couple.csv": b"3"})
    with pytest.raises(ReproError, match="was not made.*go away"):
        other.claim(["couple.csv"])


def test_a_damaged_list_is_no_licence(tmp_path):
    out = folder(tmp_path)
    out.write({"a.csv": b"1"})
    for text in ("{", "[]", '{"files": 3}', '{"files": {"../a.csv": ["00"]}}'):
        out.list.write_text(text)
        with pytest.raises(ReproError) as caught:
            out.claim(["a.csv"])
        assert "\n" not in str(caught.value)


def test_an_input_is_never_replaced_though_it_was_made_here(tmp_path):
    out = folder(tmp_path)
    out.write({"a.csv": b"1"})
    with pytest.raises(ReproError, match="is read and would be replaced"):
        out.claim(["a.csv"], [out.path / "a.csv"])


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none", "a\0b"])
def test_what_cannot_be_written_is_said_before(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReproError, match="cannot be written.*name another folder"):
        Folder(tmp_path / place, "couple", "name another folder").claim(["a.csv"])
