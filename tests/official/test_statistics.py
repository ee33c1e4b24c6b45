"""Statistics of features."""

import numpy as np
import pytest

from repro.official.statistics import load_statistics
from tests.official.making import refused


def test_statistics(tmp_path):
    path = tmp_path / "imagenet-64x64.npz"
    mu, sigma = np.arange(3.0), np.eye(3, dtype=np.float32)
    np.savez(path, mu=mu, sigma=sigma, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    found = load_statistics(path)
    assert np.array_equal(found[0], mu) and found[1].dtype == np.float64


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ("which do not fit", {"mu": np.zeros(3), "sigma": np.eye(2)}),
        ("which do not fit", {"mu": np.zeros((3, 1)), "sigma": np.eye(3)}),
        ("lacks `mu`: it holds `arr_0`", {"arr_0": np.zeros(3)}),
        ("lacks `sigma`: it holds `mu`", {"mu": np.zeros(3)}),
        ("`mu` holds NaN", {"mu": np.full(3, np.nan), "sigma": np.eye(3)}),
        ("`sigma` is int64", {"mu": np.zeros(3), "sigma": np.eye(3, dtype=int)}),
        ("holds Python objects", {"mu": np.array([None, 1]), "sigma": np.eye(3)}),
    ],
)
def test_other_files_are_refused(tmp_path, message, content):
    np.savez(tmp_path / "x.npz", **content)
    refused(lambda: load_statistics(tmp_path / "x.npz"), "x.npz", message, "; ")
