import pytest

from repro.data import corpora, tokens
from repro.data.official import wikitext2
from repro.errors import ReproError


def test_substitutions_come_one_after_another():
    apply = corpora.substituter([(r"a", "b"), (r"bb", "c")])
    assert apply("aa b") == "c b"


def test_rows_without_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one"}\n\n{"txt": 1}\n')
    rows = corpora.json_texts(path)
    assert next(rows) == "one"
    with pytest.raises(ReproError, match=r"x\.jsonl:3 is not"):
        next(rows)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ReproError, match="not readable UTF-8"):
        list(corpora.lines(tmp_path / "x.txt"))


def test_blocks_count_empty_rows_and_drop_per_batch(tmp_path, tokenizer):
    for split in wikitext2.LAYOUT.splits:
        (tmp_path / f"wiki.{split}.raw").write_text("")
    (tmp_path / "wiki.train.raw").write_text(" \n" * 999 + " ab \n" + " \n" * 7)
    blocks = wikitext2.LAYOUT.blocks(tokenizer, tmp_path, length=500)
    # batch 1: 999 lone end-of-text tokens, then " ab\n" and its own: 1 004 tokens, two blocks
    assert blocks.shape == (2, 500) and (blocks[:, :499] == tokens.GPT2_EOS).all()
    # batch 2 of 7 rows: one block of five, two tokens dropped
    blocks = wikitext2.LAYOUT.blocks(tokenizer, tmp_path, length=5)
    assert len(blocks) == 200 + 1 and blocks[-1].tolist() == [tokens.GPT2_EOS] * 5
