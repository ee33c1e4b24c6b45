import gzip

import numpy as np
import pytest

from repro.data.sets import digits
from repro.errors import ReproError


def test_digits_of_both_spellings(monkeypatch):
    monkeypatch.setattr(digits, "TRAIN", 2)
    table = np.random.default_rng(0).integers(0, 17, (3, 65)) % 10
    floats = "\n".join(",".join(f"{v:.18e}" for v in row) for row in table)
    integers = "\n".join(",".join(str(v) for v in row) for row in table)
    one, two = digits.decode(gzip.compress(floats.encode())), digits.decode(integers.encode())
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    np.testing.assert_array_equal(one["test_images"][0].ravel(), table[2, :64])
    np.testing.assert_array_equal(one["train_labels"], table[:2, 64])
    with pytest.raises(ReproError, match="65 columns"):
        digits.decode(b"1,2,3\n4,5,6\n")


def test_published_counts(have):
    d = have("digits")
    assert d.train.images.shape == (1500, 8, 8) and d.test.images.shape == (297, 8, 8)
    assert d.train.images.max() == 16 and len(d.classes) == 10
    # the class counts that the test set of the original publication states
    counts = np.bincount(np.concatenate([d.train.labels, d.test.labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
