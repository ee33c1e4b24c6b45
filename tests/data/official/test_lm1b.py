import pytest

from repro.data.official import lm1b
from repro.errors import ReproError


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            'He said : " I \'m here , " ( at $ 5 ) and left ! Is it so ? Yes .',
            'He said: "I\'m here," (at $5) and left! Is it so? Yes.',
        ),
        ("See http : / / example.org and and / or .", "See http://example.org and and/or."),
    ],
)
def test_detokeniser(row, expected):
    assert lm1b.detokenise(row) == expected


def test_shards_come_in_order(tmp_path):
    for stem, kind in (("training", "news.en-"), ("heldout", "news.en.heldout-")):
        folder = tmp_path / f"{stem}-monolingual.tokenized.shuffled"
        folder.mkdir()
        for i in (1, 0):
            (folder / f"{kind}0000{i}-of-00002").write_text(f"{stem} shard {i} .\n")
    for split, stem in (("train", "training"), ("test", "heldout")):
        rows = list(lm1b.LAYOUT.rows(split, tmp_path))
        assert rows == [f"{stem} shard 0 .", f"{stem} shard 1 ."]


def test_a_split_without_shards(tmp_path):
    folder = tmp_path / "heldout-monolingual.tokenized.shuffled"
    folder.mkdir()
    (folder / "news.en.heldout-00000-of-00001").write_text("a row .\n")
    with pytest.raises(ReproError, match="put the shards there"):
        list(lm1b.LAYOUT.rows("train", tmp_path))
