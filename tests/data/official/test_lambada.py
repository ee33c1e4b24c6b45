import json

from repro.data.official import lambada


def test_detokeniser():
    assert lambada.detokenise(" \u201cYes,\u201d he said. \n") == '\n"Yes," he said.'


def test_rows_are_passages(tmp_path):
    rows = [{"text": "one"}, {"text": "two words"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "lambada_test.jsonl").write_text(text)
    assert list(lambada.LAYOUT.rows("test", tmp_path)) == ["one", "two words"]
