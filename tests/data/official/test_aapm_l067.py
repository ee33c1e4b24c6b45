import numpy as np
import pytest
from archives_made import write_slices

from repro.data.official import aapm_l067
from repro.errors import ReproError


def test_volume(root):
    volume = np.random.default_rng(0).random((3, 256, 256))
    folder = root / "official" / "aapm-l067"
    write_slices(folder, volume, "L067_{:04d}.npy")
    np.testing.assert_array_equal(aapm_l067.read(), volume.astype(np.float32))
    np.save(folder / "3.npy", volume[0] * 2)
    with pytest.raises(ReproError, match=r"scale to \[0, 1\]"):
        aapm_l067.read()
