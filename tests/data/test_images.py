import gzip

import numpy as np
import pytest
from archives_made import cifar_records, idx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from repro.data import images
from repro.errors import ReproError


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=6)), st.booleans())
def test_idx_round_trip(array, zipped):
    data = gzip.compress(idx(array)) if zipped else idx(array)
    np.testing.assert_array_equal(images.read_idx(data), array)


def test_idx_errors():
    good = idx(np.zeros((3, 4), np.uint8))
    for bad in (good[:-1], good + b"x", good[:6], b"", b"\x00\x00\x0d" + good[3:]):
        with pytest.raises(ReproError):
            images.read_idx(bad)
    with pytest.raises(ReproError, match="damaged"):
        images.read_idx(gzip.compress(good)[:-9])


def test_idx_splits():
    rng = np.random.default_rng(0)
    made = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (2, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(2, dtype=np.uint8),
    }
    files = {f"some/folder/{k}.gz": gzip.compress(idx(v)) for k, v in made.items()}
    arrays = images.idx_splits(files)
    np.testing.assert_array_equal(arrays["test_images"], made["t10k-images-idx3-ubyte"])
    assert arrays["train_labels"].dtype == np.int64
    with pytest.raises(ReproError, match="t10k-labels-idx1-ubyte is missing"):
        images.idx_splits({k: v for k, v in files.items() if "t10k-labels" not in k})
    files["some/folder/t10k-labels-idx1-ubyte.gz"] = idx(np.arange(3, dtype=np.uint8))
    with pytest.raises(ReproError, match="differ in number"):
        images.idx_splits(files)


@pytest.fixture
def cifar():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, 4, 32, 32, 3), np.uint8)
    return pixels, rng.integers(0, 10, (6, 4))


def test_cifar_errors(cifar):
    pixels, labels = cifar
    data = cifar_records(pixels[0], labels[0])
    with pytest.raises(ReproError, match="3073-byte"):
        images.cifar_records(data[:-1])
    with pytest.raises(ReproError, match="labels above 9"):
        images.cifar_records(cifar_records(pixels[0], labels[0] + 10))
    with pytest.raises(ReproError, match=r"data_batch_2\.bin is missing"):
        images.cifar_binary({"data_batch_1.bin": data, "test_batch.bin": data})
