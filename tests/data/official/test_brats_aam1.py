import numpy as np
import pytest
from archives_made import write_slices

from repro.data.official import brats_aam1
from repro.errors import ReproError


def test_volume_is_scaled_by_its_maximum(root):
    volume = np.random.default_rng(0).random((2, 240, 240)) * 900
    folder = root / "official" / "brats-aam1"
    write_slices(folder, volume)
    scaled = brats_aam1.read()
    assert scaled.dtype == np.float32 and scaled.max() <= 1
    np.testing.assert_allclose(scaled, volume / (volume.max() + 1e-5), rtol=1e-6)
    np.save(folder / "2.npy", -volume[0])
    with pytest.raises(ReproError, match="negative values"):
        brats_aam1.read()
