import numpy as np
import pytest

from repro.data.official import imagenet64
from repro.errors import ReproError


def test_batches_come_by_name(root):
    with pytest.raises(ReproError, match="missing"):
        imagenet64.batches()
    folder = root / "official" / "imagenet64"
    folder.mkdir(parents=True)
    for i in (1, 0):
        pixels = np.full((i + 1, 64, 64, 3), i, np.uint8)
        pixels[0, 0, 0] = 9
        np.savez(folder / f"{i}.npz", arr_0=pixels)
    found = list(imagenet64.batches())
    assert [(len(x), int(x[0, 1, 1, 0])) for x in found] == [(1, 0), (2, 1)]
