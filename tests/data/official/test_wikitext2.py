import pytest

from repro.data.official import wikitext2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            ' The 12 @,@ 5 @-@ inch " gun " ( 1 @.@ 2 kg ) , it \'s here ; see : x . \n',
            ' The 12,5-inch "gun" (1.2 kg), it\'s here; see: x.\n',
        ),
        ("dogs ' tails [ sic ] at 2 \u00b0 C", "dogs' tails [sic] at 2\u00b0C"),
    ],
)
def test_detokeniser(row, expected):
    assert wikitext2.LAYOUT.detokenise(row) == expected


def test_blank_lines_are_empty_rows(tmp_path):
    for split in wikitext2.LAYOUT.splits:
        (tmp_path / f"wiki.{split}.raw").write_text(f" \n = {split} = \n \n A row @-@ text . \n")
    rows = list(wikitext2.LAYOUT.rows("train", tmp_path))
    assert rows == ["", " = train = \n", "", " A row @-@ text . \n"]


def test_evaluated_split():
    assert wikitext2.LAYOUT.evaluated == "train"
