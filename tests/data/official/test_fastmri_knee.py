import numpy as np
import pytest
from archives_made import write_slices

from repro.data.official import fastmri_knee
from repro.errors import ReproError


def test_slices_are_kept_as_they_are(root):
    volume = np.random.default_rng(0).random((2, 320, 320)) * 3
    folder = root / "official" / "fastmri-knee"
    write_slices(folder, volume)
    np.testing.assert_array_equal(fastmri_knee.read(), volume.astype(np.float32))
    np.save(folder / "2.npy", volume[0, :100])
    with pytest.raises(ReproError, match="is expected"):
        fastmri_knee.read()
