import numpy as np
import pytest
from archives_made import cifar_records, tar_bytes

from repro.data.official import cifar10_binary


@pytest.mark.parametrize("kind", ["", "cifar-10-batches-bin", "archive"])
def test_archive_and_folders(tmp_path, kind):
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    made = {
        n: (rng.integers(0, 256, (3, 32, 32, 3), np.uint8), rng.integers(0, 10, 3)) for n in names
    }
    raw = {f"{n}.bin": cifar_records(*made[n]) for n in names}
    if kind == "archive":
        members = {f"cifar-10-batches-bin/{n}": v for n, v in raw.items()}
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar_bytes(members))
    else:
        (tmp_path / kind).mkdir(exist_ok=True)
        for name, data in raw.items():
            (tmp_path / kind / name).write_bytes(data)
    arrays = cifar10_binary.read(tmp_path)
    np.testing.assert_array_equal(arrays["train_images"][3:6], made["data_batch_2"][0])
    np.testing.assert_array_equal(arrays["test_labels"], made["test_batch"][1])
