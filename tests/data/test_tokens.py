import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.data import tokens
from repro.errors import ReproError

# --- characters -----------------------------------------------------------------------------------


@given(st.text())
def test_cleaning_characters_twice_changes_nothing(raw):
    once = tokens.clean_chars(raw)
    assert tokens.clean_chars(once) == once
    assert set(once) <= set(tokens.CHAR_ALPHABET)
    assert "  " not in once and once == once.strip(" ")
    assert not re.search(r" [.,;:]|[.,;:]{2}", once)


@given(st.text())
def test_character_codes_decode_to_the_cleaned_text(raw):
    codes = tokens.char_corpus(raw)
    assert codes.dtype == np.uint8 and (codes < 31).all()
    assert tokens.char_decode(codes) == tokens.clean_chars(raw)


def test_characters_by_example():
    assert len(tokens.CHAR_ALPHABET) == 31
    assert tokens.clean_chars("Don\u2019t!? (Well--3,500 people), caf\u00e9: End.") == (
        "dont. well people, cafe: end."
    )
    assert tokens.char_corpus("Ab z.").tolist() == [0, 1, 26, 25, 27]
    with pytest.raises(ReproError, match="from 0 to 30"):
        tokens.char_decode(np.array([31]))


# --- blocks ---------------------------------------------------------------------------------------


def test_tokeniser_merges_and_decodes(tokenizer):
    ids = tokenizer.encode("the path\nthere").ids
    assert len(ids) == len("the path\nthere") - 3
    assert tokenizer.decode(ids) == "the path\nthere"


def test_blocks_keep_order_and_drop_one_remainder(tokenizer):
    documents = ["abc", "", "defgh"]
    eos = 999
    stream = []
    for d in documents:
        stream += [*tokenizer.encode(d).ids, eos]
    blocks = tokens.token_blocks(documents, 4, tokenizer, eos=eos)
    assert blocks.dtype == np.int64
    assert blocks.ravel().tolist() == stream[: len(stream) // 4 * 4]
    assert tokens.token_blocks([], 4, tokenizer).shape == (0, 4)
    assert tokens.token_blocks(["a"], 4, tokenizer).shape == (0, 4)
    with pytest.raises(ReproError, match="positive length"):
        tokens.token_blocks(documents, 0, tokenizer)


def test_blocks_of_the_evaluation_rule_drop_a_remainder_per_batch(tokenizer):
    rows = ["ab"] * 5  # three tokens each with the end-of-text token
    blocks = tokens.token_blocks(rows, 4, tokenizer, rows_per_batch=2, eos=999)
    a, b = tokenizer.encode("ab").ids
    assert blocks.tolist() == [[a, b, 999, a]] * 2  # 6, 6 and 3 tokens: 1 + 1 + 0 blocks
    whole = tokens.token_blocks(rows, 4, tokenizer, eos=999)
    assert len(whole) == 3


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(1, 7))
def test_batches_without_the_rule_do_not_show(tokenizer, lengths, length):
    documents = (["a" * n for n in lengths] * 1001)[:1001]  # one more than an internal batch
    total = sum(len(d) + 1 for d in documents)
    blocks = tokens.token_blocks(documents, length, tokenizer)
    assert len(blocks) == total // length
    stream = [t for d in documents for t in [*([tokenizer.token_to_id("a")] * len(d)), 50256]]
    assert blocks.ravel().tolist() == stream[: total // length * length]
