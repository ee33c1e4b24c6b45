import numpy as np

from repro.data import tokens


def test_articles_and_splits(have):
    d = have("wikipedia-excerpt")
    titles = {doc.title for doc in d.documents}
    assert {"Anarchism", "Autism", "Abraham Lincoln"} <= titles and len(titles) == 96
    assert d.ood == "" and not {x for x in "{}|" if x in d.test}
    words = d.sources["wikipedia"]
    assert words["train"] > 350_000 and words["test"] > 20_000


def test_as_characters(have):
    codes = tokens.char_corpus(have("wikipedia-excerpt").train)
    assert set(np.unique(codes)) == set(range(31)) and len(codes) > 2_000_000
