import pytest

from repro.data.official import ptb


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("<unk> does n't own N N N shares of it 's", "? doesn't own 1 1 1 shares of it's"),
        ("the firms ' costs rose $ N or # N 1\\/2", "the firms' costs rose $1 or #1 1/2"),
    ],
)
def test_detokeniser(row, expected):
    assert ptb.detokenise(row) == expected


def test_rows_are_stripped(tmp_path):
    for split in ptb.LAYOUT.splits:
        (tmp_path / f"ptb.{split}.txt").write_text(f" a {split} row N \n <unk> \n")
    assert list(ptb.LAYOUT.rows("valid", tmp_path)) == ["a valid row N", "<unk>"]
