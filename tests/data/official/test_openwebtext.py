import gzip

from repro.data.official import openwebtext


def test_documents_of_all_kinds_of_files(tmp_path):
    (tmp_path / "b.txt").write_text("line one\nline two\n")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n\n{"text": "second"}\n')
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "third"}\n'))
    (tmp_path / "notes.md").write_text("not a document")
    rows = list(openwebtext.LAYOUT.rows("train", tmp_path))
    assert rows == ["first", "second", "line one\nline two\n", "third"]
