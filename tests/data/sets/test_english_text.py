import gzip
import io
import struct
import zlib

import numpy as np
import pytest
import rdata

from repro.data.sets import english_text
from repro.errors import ReproError


def test_state_of_the_union_holds_out_round_years():
    files = {f"x/{y}_john_doe_n.txt": f"Speech of {y}.".encode() for y in (1801, 1800, 1799)}
    found = english_text.state_of_the_union(files)
    assert [(d.title, d.split) for d in found] == [
        ("1799 John Doe", "train"),
        ("1800 John Doe", "test"),
        ("1801 John Doe", "train"),
    ]
    with pytest.raises(ReproError, match="YEAR_PRESIDENT_PARTY"):
        english_text.state_of_the_union({"x/readme.txt": b""})


def test_moby_dick_by_chapter():
    raw = "".join(
        f"CHAPTER {i}. Title {i}.\n\nline one\nline two\n\nnext\n\n" for i in range(1, 121)
    )
    found = english_text.moby_dick(raw.encode())
    assert len(found) == 120 and {d.split for d in found} == {"ood"}
    assert found[1].text == "CHAPTER 2. Title 2.\nline one line two\nnext"
    with pytest.raises(ReproError, match="chapters"):
        english_text.moby_dick(b"CHAPTER 1. Loomings.\n")


def test_austen_chapters_skip_front_matter_and_volumes():
    lines = ["EMMA", "", "By Jane Austen", "", "VOLUME I", "", "CHAPTER I", "", "first", "words"]
    lines += ["", "Chapter 2", "", "second chapter said", "", "VOLUME II", "CHAPTER 3.", "third"]
    found = english_text.austen_chapters("Emma", lines)
    assert [d.text for d in found] == ["first words", "second chapter said", "third"]
    assert found[2].title == "Emma, chapter 3" and {d.split for d in found} == {"train"}
    many = [s for i in range(10) for s in (f"CHAPTER {i + 1}", "some text")]
    assert [d.split for d in english_text.austen_chapters("E", many)] == ["train"] * 9 + ["test"]


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
    assert english_text.read_rdb(rdx, blocks) == novels
    with pytest.raises(ReproError, match="cut short"):
        english_text.read_rdb(rdx, blocks[:-3])
    with pytest.raises(ReproError, match="wrong length"):
        english_text.read_rdb(rdx, b"\x7f" + blocks[1:])


def test_sources_and_splits(have):
    d = have("english-text")
    assert set(d.sources) == {"state-of-the-union", "jane-austen", "wikipedia", "moby-dick"}
    novels = {doc.title.split(",")[0] for doc in d.documents if doc.source == "jane-austen"}
    assert len(novels) == 6
    assert "It is a truth universally acknowledged" in d.train
    assert d.ood.startswith("CHAPTER 1. Loomings.") and "Ishmael" not in d.train
    years = [int(doc.title[:4]) for doc in d.documents if doc.source == "state-of-the-union"]
    assert len(years) == 233 and years == sorted(years)
    held_out = {doc.title[3] for doc in d.documents if doc.source[0] == "s" and doc.split == "test"}
    assert held_out == {"0"}
    assert not set(d.split("train")) & set(d.split("test"))
    # a test text must be nearer to the training text than the out-of-domain text is
    frequency = {}
    for word in d.train.lower().split():
        frequency[word] = frequency.get(word, 0) + 1
    unseen = {
        split: np.mean([word not in frequency for word in getattr(d, split).lower().split()])
        for split in ("test", "ood")
    }
    assert unseen["test"] < 0.5 * unseen["ood"]
