import gzip
import io
import json
import struct

import nibabel
import numpy as np
import pytest
from archives_made import tar_bytes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from repro.data import images
from repro.data.archives import read_members
from repro.errors import ReproError


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


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


def test_digits_of_both_spellings(monkeypatch):
    monkeypatch.setattr(images, "DIGITS_TRAIN", 2)
    table = np.random.default_rng(0).integers(0, 17, (3, 65)) % 10
    floats = "\n".join(",".join(f"{v:.18e}" for v in row) for row in table)
    integers = "\n".join(",".join(str(v) for v in row) for row in table)
    one, two = images.digits(gzip.compress(floats.encode())), images.digits(integers.encode())
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    np.testing.assert_array_equal(one["test_images"][0].ravel(), table[2, :64])
    np.testing.assert_array_equal(one["train_labels"], table[:2, 64])
    with pytest.raises(ReproError, match="65 columns"):
        images.digits(b"1,2,3\n4,5,6\n")


@pytest.fixture
def cifar():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (6, 4, 32, 32, 3), np.uint8)
    return pixels, rng.integers(0, 10, (6, 4))


def binary(pixels, labels):
    flat = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.concatenate([labels[:, None].astype(np.uint8), flat], 1).tobytes()


def test_cifar_mosaic_and_binary_versions_agree(tmp_path, cifar):
    pixels, labels = cifar
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    png, raw = {}, {}
    for name, x, y in zip(names, pixels, labels, strict=True):
        stream = io.BytesIO()
        Image.fromarray(x.reshape(len(x), 1024, 3)).save(stream, "PNG")
        png[f"package/{name}.png"] = stream.getvalue()
        raw[f"cifar-10-batches-bin/{name}.bin"] = binary(x, y)
    png["package/train_lables.json"] = json.dumps(labels[:5].ravel().tolist()).encode()
    png["package/test_lables.json"] = json.dumps(labels[5].tolist()).encode()
    (tmp_path / "png.tgz").write_bytes(tar_bytes(png))
    (tmp_path / "raw.tar.gz").write_bytes(tar_bytes(raw))
    one = images.cifar_package(tmp_path / "png.tgz")
    two = images.cifar_binary(read_members(tmp_path / "raw.tar.gz", ["*/*.bin"]))
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
        assert one[key].dtype == two[key].dtype
    np.testing.assert_array_equal(one["train_images"][7], pixels[1, 3])


def test_cifar_errors(cifar):
    pixels, labels = cifar
    data = binary(pixels[0], labels[0])
    with pytest.raises(ReproError, match="3073-byte"):
        images.cifar_records(data[:-1])
    with pytest.raises(ReproError, match="labels above 9"):
        images.cifar_records(binary(pixels[0], labels[0] + 10))
    with pytest.raises(ReproError, match=r"data_batch_2\.bin is missing"):
        images.cifar_binary({"data_batch_1.bin": data, "test_batch.bin": data})


def test_nifti_comes_axial_first_in_ras():
    values = np.random.default_rng(2).integers(0, 256, (4, 5, 6), np.uint8)  # x, y, z
    affine = np.diag([-2.0, 3.0, 1.0, 1.0])  # stored right to left
    data = nibabel.Nifti1Image(values, affine).to_bytes()
    volume, spacing = images.nifti(gzip.compress(data), "v")
    assert volume.shape == (6, 5, 4) and spacing == (1.0, 3.0, 2.0)
    np.testing.assert_array_equal(volume, values[::-1].transpose(2, 1, 0))
    broken = nibabel.Nifti1Image(values.astype(np.float32) + 0.5, affine).to_bytes()
    with pytest.raises(ReproError, match="volume of bytes"):
        images.nifti(broken, "v")
