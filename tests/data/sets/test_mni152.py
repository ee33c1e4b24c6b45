import gzip

import nibabel
import numpy as np
import pytest

from repro.data.sets import mni152
from repro.errors import ReproError


def test_nifti_comes_axial_first_in_ras():
    values = np.random.default_rng(2).integers(0, 256, (4, 5, 6), np.uint8)  # x, y, z
    affine = np.diag([-2.0, 3.0, 1.0, 1.0])  # stored right to left
    data = nibabel.Nifti1Image(values, affine).to_bytes()
    volume, spacing = mni152.nifti(gzip.compress(data), "v")
    assert volume.shape == (6, 5, 4) and spacing == (1.0, 3.0, 2.0)
    np.testing.assert_array_equal(volume, values[::-1].transpose(2, 1, 0))
    broken = nibabel.Nifti1Image(values.astype(np.float32) + 0.5, affine).to_bytes()
    with pytest.raises(ReproError, match="volume of bytes"):
        mni152.nifti(broken, "v")


def test_the_average_head(have):
    d = have("mni152")
    for volume in (d.t1, d.gm, d.wm):
        assert volume.shape == (189, 233, 197) and volume.dtype == np.float32
        assert volume.min() == 0 and volume.max() == 1
    assert d.spacing_mm == (1.0, 1.0, 1.0)
    # left and right halves of an average head mirror each other; other axes do not
    t1 = d.t1[60:120]
    mirrored = np.corrcoef(t1.ravel(), t1[:, :, ::-1].ravel())[0, 1]
    assert mirrored > 0.98 > np.corrcoef(t1.ravel(), t1[:, ::-1].ravel())[0, 1]
    # the cerebellum lies low and at the back: tissue at the lowest slices has small y
    y = np.arange(233)
    low, high = d.gm[20:30].sum((0, 2)), d.gm[100:110].sum((0, 2))
    assert (low @ y) / low.sum() < (high @ y) / high.sum()
