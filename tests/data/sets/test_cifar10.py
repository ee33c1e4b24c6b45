import io
import json

import numpy as np
from archives_made import cifar_records, tar_bytes
from PIL import Image

from repro.data import images
from repro.data.archives import read_members
from repro.data.sets import cifar10


def test_cifar_mosaic_and_binary_versions_agree(tmp_path):
    rng = np.random.default_rng(1)
    pixels, labels = rng.integers(0, 256, (6, 4, 32, 32, 3), np.uint8), rng.integers(0, 10, (6, 4))
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    png, raw = {}, {}
    for name, x, y in zip(names, pixels, labels, strict=True):
        stream = io.BytesIO()
        Image.fromarray(x.reshape(len(x), 1024, 3)).save(stream, "PNG")
        png[f"package/{name}.png"] = stream.getvalue()
        raw[f"cifar-10-batches-bin/{name}.bin"] = cifar_records(x, y)
    png["package/train_lables.json"] = json.dumps(labels[:5].ravel().tolist()).encode()
    png["package/test_lables.json"] = json.dumps(labels[5].tolist()).encode()
    (tmp_path / "png.tgz").write_bytes(tar_bytes(png))
    (tmp_path / "raw.tar.gz").write_bytes(tar_bytes(raw))
    one = cifar10.decode({"png.tgz": tmp_path / "png.tgz"})
    two = images.cifar_binary(read_members(tmp_path / "raw.tar.gz", ["*/*.bin"]))
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
        assert one[key].dtype == two[key].dtype
    np.testing.assert_array_equal(one["train_images"][7], pixels[1, 3])


def test_published_counts(have):
    d = have("cifar10")
    assert d.train.images.shape == (50000, 32, 32, 3) and d.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(d.train.labels).tolist() == [5000] * 10
    assert np.bincount(d.test.labels).tolist() == [1000] * 10
    means = d.train.images.reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert d.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert d.test.labels[:5].tolist() == [3, 8, 8, 0, 6]
