import pytest

from repro.data.official import wikitext103


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (" = = Plot = = \n", " == Plot ==\n"),
        (" = = = Cast = = = \n", " === Cast ===\n"),
    ],
)
def test_detokeniser(row, expected):
    assert wikitext103.LAYOUT.detokenise(row) == expected


def test_blank_lines_are_empty_rows(tmp_path):
    for split in wikitext103.LAYOUT.splits:
        (tmp_path / f"wiki.{split}.raw").write_text(f" \n = {split} = \n \n A row @-@ text . \n")
    rows = list(wikitext103.LAYOUT.rows("train", tmp_path))
    assert rows == ["", " = train = \n", "", " A row @-@ text . \n"]


def test_evaluated_split():
    assert wikitext103.LAYOUT.evaluated == "test"
