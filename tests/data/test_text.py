import bz2
import gzip
import io
import re
import struct
import zlib

import numpy as np
import pytest
import rdata
from hypothesis import given
from hypothesis import strategies as st

from repro.data import text, tokens
from repro.errors import ReproError

BPE_ALPHABET = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE with single characters and one merge, `th`."""
    symbols = [*BPE_ALPHABET, "th"]
    return tokens.build_gpt2({s: i for i, s in enumerate(symbols)}, [("t", "h")])


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


def test_merges_are_read_in_order():
    assert tokens.parse_merges("#version: 0.2\n\u0120 t\nh e\n") == [("\u0120", "t"), ("h", "e")]


# --- cleaning -------------------------------------------------------------------------------------


@given(st.text())
def test_tidy_twice_changes_nothing(raw):
    once = text.tidy(raw)
    assert text.tidy(once) == once
    assert "  " not in once and "\n\n" not in once


def test_tidy_by_example():
    raw = "\u201cIt\u2019s\u201d \u2014 a\u00a0 test\u2026\r\n\n\n  next\tline \x07\n"
    assert text.tidy(raw) == '"It\'s" -- a test...\nnext line'
    wrapped = "one\ntwo\n\nthree\n   \nfour\n"
    assert text.tidy(wrapped, wrapped=True) == "one two\nthree\nfour"
    assert text.tidy("Cafe\u0301") == "Caf\u00e9"


WIKITEXT = """{{Infobox
| a = {{nested|b}}
}}<!-- a comment -->
'''Albedo''' is the ''[[albedo|reflecting power]]'' of a [[plane]].<ref>{{c}}</ref><ref name="y" />
[[File:a.jpg|thumb|A picture of [[snow]] and ice with a long caption]]
{| class="wikitable"
| cell || {{template}}
|}
== Terms ({{lang|la|x}}) ==
The [http://example.org observed value] is close to one &mdash; or {{f|2}} ({{l|y}}; white) here.
* a list item which is dropped as a whole
Short line.
=== References ===
These words of the references section must not stay here.
==== Deeper ====
Nor may these words which belong to a subsection of it.
=== History ===
These words follow a heading of the same level.
== Physics ==
A formula <math>x < y</math> between words of a sentence.
A {{broken template that nothing closes loses the whole line.
[[de:Albedo]] [[Category:Optics]]
"""


def test_wikitext_becomes_prose():
    assert text.plain_wikitext(WIKITEXT).split("\n") == [
        "Albedo is the reflecting power of a plane.",
        "The observed value is close to one -- or (white) here.",
        "These words follow a heading of the same level.",
        "A formula between words of a sentence.",
        "A broken template that nothing closes loses the whole line.",
    ]


def export(pages):
    redirect_tag = '<redirect title="x"/>'
    body = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns>{redirect_tag * redirect}"
        f"<revision><text>{content}</text></revision></page>"
        for title, ns, redirect, content in pages
    )
    root = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">'
    return bz2.compress(f"{root}{body}</mediawiki>".encode())


def test_wikipedia_keeps_articles_and_splits_every_tenth():
    long = "word " * 120
    pages = [(f"A{i}", 0, False, long) for i in range(20)]
    pages[3:3] = [("R", 0, True, long), ("Talk", 1, False, long), ("Stub", 0, False, "too short")]
    found = text.wikipedia(export(pages))
    assert [d.title for d in found] == [f"A{i}" for i in range(20)]
    assert [d.title for d in found if d.split == "test"] == ["A9", "A19"]
    with pytest.raises(ReproError, match="damaged"):
        text.wikipedia(export(pages)[:-20])


def test_state_of_the_union_holds_out_round_years():
    files = {f"x/{y}_john_doe_n.txt": f"Speech of {y}.".encode() for y in (1801, 1800, 1799)}
    found = text.state_of_the_union(files)
    assert [(d.title, d.split) for d in found] == [
        ("1799 John Doe", "train"),
        ("1800 John Doe", "test"),
        ("1801 John Doe", "train"),
    ]
    with pytest.raises(ReproError, match="YEAR_PRESIDENT_PARTY"):
        text.state_of_the_union({"x/readme.txt": b""})


def test_moby_dick_by_chapter():
    raw = "".join(
        f"CHAPTER {i}. Title {i}.\n\nline one\nline two\n\nnext\n\n" for i in range(1, 121)
    )
    found = text.moby_dick(raw.encode())
    assert len(found) == 120 and {d.split for d in found} == {"ood"}
    assert found[1].text == "CHAPTER 2. Title 2.\nline one line two\nnext"
    with pytest.raises(ReproError, match="chapters"):
        text.moby_dick(b"CHAPTER 1. Loomings.\n")


def test_austen_chapters_skip_front_matter_and_volumes():
    lines = ["EMMA", "", "By Jane Austen", "", "VOLUME I", "", "CHAPTER I", "", "first", "words"]
    lines += ["", "Chapter 2", "", "second chapter said", "", "VOLUME II", "CHAPTER 3.", "third"]
    found = text.austen_chapters("Emma", lines)
    assert [d.text for d in found] == ["first words", "second chapter said", "third"]
    assert found[2].title == "Emma, chapter 3" and {d.split for d in found} == {"train"}
    many = [s for i in range(10) for s in (f"CHAPTER {i + 1}", "some text")]
    assert [d.split for d in text.austen_chapters("E", many)] == ["train"] * 9 + ["test"]


def r_serialise(value):
    stream = io.BytesIO()
    rdata.write_rds(stream, value, compression="gzip")
    return gzip.decompress(stream.getvalue())


def test_r_lazy_load_data_base():
    novels = {"emma": ["CHAPTER I", "caf\u00e9"], "persuasion": ["x"]}
    blocks, index = b"", {}
    for name, lines in novels.items():
        raw = r_serialise(np.array(lines, dtype=object))
        block = struct.pack(">I", len(raw)) + zlib.compress(raw)
        index[name] = np.array([len(blocks), len(block)], np.int32)
        blocks += block
    rdx = gzip.compress(r_serialise({"variables": index}))
    assert text.read_rdb(rdx, blocks) == novels
    with pytest.raises(ReproError, match="cut short"):
        text.read_rdb(rdx, blocks[:-3])
    with pytest.raises(ReproError, match="wrong length"):
        text.read_rdb(rdx, b"\x7f" + blocks[1:])


def test_documents_round_trip():
    made = [text.Document("s", "t", "train", 'a "b"\n\u2603'), text.Document("s", "u", "ood", "")]
    packed = text.pack(made)
    assert list(packed) == [text.DOCUMENTS]
    assert text.unpack(packed[text.DOCUMENTS]) == made
