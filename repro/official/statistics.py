"""Mean and covariance of the features of real images, as the authors of metrics hand them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro.metrics.fid import covariance_factor
from repro.official import files

WHAT = "the statistics of features as an .npz with the arrays mu and sigma"


def load_statistics(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of features, float64, from an .npz with `mu` and `sigma`.

    Other arrays in the file, such as images, are not read. EDM's ``imagenet-64x64.npz`` and ADM's
    reference batches are such files; pickled statistics are refused.

    Raises ReproError: missing, damaged, without both, of shapes that do not fit, not finite, or
    with a `sigma` that is no covariance (see `repro.metrics.fid.covariance_factor`).
    """
    path = Path(path)
    arrays = files.read_arrays(path, WHAT, ("mu", "sigma"))
    mu, sigma = arrays["mu"], arrays["sigma"]
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            wrong = f"`{name}` is {array.dtype} where floats are due"
            raise files.refusal(path, wrong, f"give {WHAT}")
        if not np.isfinite(array).all():
            raise files.refusal(path, f"`{name}` holds NaN or infinity", f"fetch {WHAT} again")
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        wrong = f"`mu` has shape {mu.shape} and `sigma` {sigma.shape}, which do not fit"
        raise files.refusal(path, wrong, f"give {WHAT}")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    covariance_factor(sigma, f"`sigma` of {path}")
    return mu, sigma
