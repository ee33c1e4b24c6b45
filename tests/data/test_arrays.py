import numpy as np
import pytest
from archives_made import write_slices

from repro.data import arrays
from repro.errors import ReproError


def test_npz_layouts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "b.npz", arr_0=pixels, arr_1=np.arange(4))
    flat = pixels.transpose(0, 3, 1, 2).reshape(4, -1)
    np.savez(tmp_path / "a.npz", data=flat, labels=np.arange(1, 5), mean=np.zeros(192))
    for name in ("a.npz", "b.npz"):
        found, labels = arrays.npz_images(tmp_path / name)
        np.testing.assert_array_equal(found, pixels)
        assert labels.tolist() == [0, 1, 2, 3] and labels.dtype == np.int64
    np.savez(tmp_path / "c.npz", pixels)
    assert arrays.npz_images(tmp_path / "c.npz")[1] is None
    assert [len(batch) for batch in arrays.npz_batches(tmp_path)] == [4, 4, 4]


def test_npz_errors(tmp_path):
    path = tmp_path / "x.npz"
    for made, reason in (
        ({"images": np.zeros(3)}, "arr_0 is expected"),
        ({"arr_0": np.zeros((2, 8, 8, 3))}, "uint8"),
        ({"data": np.zeros((2, 100), np.uint8)}, "not a batch"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "not a batch"),
    ):
        np.savez(path, **made)
        with pytest.raises(ReproError, match=reason):
            arrays.npz_images(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ReproError, match="plain numpy file"):
        arrays.npz_images(path)


def test_slices_come_in_numerical_order(tmp_path):
    volume = np.random.default_rng(0).random((12, 4, 5))
    write_slices(tmp_path, volume)
    found = arrays.slice_stack(tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, volume.astype(np.float32))


def test_slice_errors(tmp_path):
    with pytest.raises(ReproError, match=r"no \.npy slices"):
        arrays.slice_stack(tmp_path)
    for values, reason in (
        (np.zeros(3), "2-D slice"),
        (np.zeros((2, 3)), "is expected"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.zeros((4, 4), complex), "2-D slice"),
        (np.array([[{}]], dtype=object), "plain numpy file"),
    ):
        np.save(tmp_path / "0.npy", values, allow_pickle=True)
        with pytest.raises(ReproError, match=reason):
            arrays.slice_stack(tmp_path, side=4)
    np.save(tmp_path / "0.npy", np.zeros((4, 4)))
    np.save(tmp_path / "1.npy", np.zeros((4, 5)))
    with pytest.raises(ReproError, match=r"\(4, 4\) is expected"):
        arrays.slice_stack(tmp_path)
    np.save(tmp_path / "a00.npy", np.zeros((4, 4)))
    with pytest.raises(ReproError, match="slice number of its own"):
        arrays.slice_stack(tmp_path)
