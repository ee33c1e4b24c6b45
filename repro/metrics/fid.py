r"""Distances between two sets of feature vectors.

The Fréchet distance of two Gaussians,

$$ d^2 = \lVert \mu_1 - \mu_2 \rVert^2 + \mathrm{tr}\, \Sigma_1 + \mathrm{tr}\, \Sigma_2
         - 2\, \mathrm{tr} (\Sigma_1 \Sigma_2)^{1/2} $$

needs no matrix square root. With any factors $\Sigma_i = F_i F_i^\top$ the eigenvalues of
$\Sigma_1 \Sigma_2$ are those of the symmetric matrix $K K^\top$ with $K = F_1^\top F_2$, and the
trace is the sum of their square roots. The symmetric root $F = \Sigma^{1/2}$ is one choice; pivoted
Cholesky factors are cheaper, and as narrow as the rank. So are the centred features themselves,
where there are fewer samples than dimensions.

It is called FID when the features are those of the Inception network that Heusel et al. (2017)
used, on many images; with other features, name the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from repro.errors import ReproError
from repro.metrics import arrays
from repro.metrics.arrays import to_numpy
from repro.numbers import finite

__all__ = [
    "GaussianStatistics",
    "clean_fid",
    "covariance_factor",
    "frechet_distance",
    "frechet_from_features",
    "gaussian_statistics",
    "inception_features",
    "precision_recall",
]

INCEPTION_FILE = "inception-2015-12-05.pt"

ROUNDING = 1e-6
"""How far a covariance may be from symmetric and from positive semi-definite, of its norm.

The norm is Frobenius'. A sample covariance of fewer samples than dimensions has eigenvalues of
about -1e-16 of it; a cast to float32 moves eigenvalues by up to 2^-24 of it, and sums in float32 by
somewhat more."""


class GaussianStatistics:
    r"""Mean and covariance of a stream of feature batches, in float64.

    Batches are merged by the update of Chan et al. (1979), which does not cancel where
    $E[x x^\top] - \mu \mu^\top$ would. Memory: O(D²), whatever the number of samples.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None

    def update(self, features: Any) -> GaussianStatistics:
        """Takes a batch of features (N, D), which changes nothing if N = 0; returns itself.

        Raises:
            ReproError: if the shape is not (N, D) with the D of earlier batches, or a value is not
                finite.
        """
        x = arrays.features(features)
        if self._mean is not None and x.shape[1] != len(self._mean):
            raise ReproError(
                f"features of shape {x.shape} cannot be added; "
                "give (N, D) with the same D in every batch"
            )
        if not len(x):
            return self
        n, mean = len(x), x.mean(axis=0)
        centred = x - mean
        scatter = centred.T @ centred
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = n, mean, scatter
            return self
        total, delta = self.count + n, mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(delta, delta * (self.count * n / total))
        self._mean = self._mean + delta * (n / total)
        self.count = total
        return self

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean (D,) and the unbiased covariance (D, D), float64.

        Raises:
            ReproError: with fewer than two samples.
        """
        if self._mean is None or self._scatter is None or self.count < 2:
            raise ReproError(f"{self.count} feature vectors have no covariance; give 2 or more")
        return self._mean, self._scatter / (self.count - 1)


def gaussian_statistics(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean (D,) and unbiased covariance (D, D) of features, in float64.

    Arguments:
        features: one array or tensor of shape (N, D), or an iterable of batches (N_i, D), which is
            consumed batch by batch.

    Raises:
        ReproError: with fewer than two samples, or batches of different D.
    """
    statistics = GaussianStatistics()
    for batch in [features] if hasattr(features, "shape") else features:
        statistics.update(batch)
    return statistics.result()


def frechet_distance(mu1: Any, cov1: Any, mu2: Any, cov2: Any) -> float:
    """Returns the squared Fréchet (2-Wasserstein) distance of two Gaussians.

    Covariances may be singular. At D = 2048 it is several times as fast as the matrix square root
    of the product, and needs no ridge on the diagonal.

    Arguments:
        mu1, mu2: means, shape (D,).
        cov1, cov2: covariances, symmetric positive semi-definite, shape (D, D).

    Returns:
        The distance in squared units of the features; never below 0.

    Raises:
        ReproError: if shapes differ, a value is not finite, or a covariance is not symmetric or
            not positive semi-definite (see `covariance_factor`).

    Source:
        Dowson and Landau, The Fréchet distance between multivariate normal distributions (1982);
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule (2017).
    """
    mu1, mu2 = (np.atleast_1d(to_numpy(mu, np.float64)) for mu in (mu1, mu2))
    cov1, cov2 = (np.atleast_2d(to_numpy(cov, np.float64)) for cov in (cov1, cov2))
    D = len(mu1)
    if mu1.shape != mu2.shape or cov1.shape != (D, D) or cov2.shape != (D, D):
        raise ReproError(
            f"Gaussians of shapes {mu1.shape}, {cov1.shape} and {mu2.shape}, {cov2.shape} cannot "
            "be compared; use the same features for both"
        )
    trace = float(np.trace(cov1) + np.trace(cov2))
    return _distance(mu1, mu2, trace, covariance_factor(cov1), covariance_factor(cov2))


def frechet_from_features(a: Any, b: Any) -> float:
    """Returns the squared Fréchet distance of Gaussians fitted to two sets of features.

    Arguments:
        a, b: features of shape (N, D) and (M, D). Where both N and M are below D, no D x D matrix
            is formed.

    Returns:
        The distance in squared units of the features; never below 0.

    Raises:
        ReproError: if shapes do not match, a value is not finite or a set has fewer than 2 rows.
    """
    a, b = (arrays.features(x) for x in (a, b))
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ReproError(
            f"features of shapes {a.shape} and {b.shape} cannot be compared; "
            "give (N, D) and (M, D) with at least 2 rows each"
        )
    if max(len(a), len(b)) >= a.shape[1]:
        return frechet_distance(*gaussian_statistics(a), *gaussian_statistics(b))
    mu1, mu2 = a.mean(axis=0), b.mean(axis=0)
    F1, F2 = ((x - mu).T / np.sqrt(len(x) - 1) for x, mu in ((a, mu1), (b, mu2)))
    return _distance(mu1, mu2, float((F1**2).sum() + (F2**2).sum()), F1, F2)


def _distance(
    mu1: np.ndarray, mu2: np.ndarray, trace: float, F1: np.ndarray, F2: np.ndarray
) -> float:
    """Returns the distance from the means, the sum of traces, and factors (D, r1), (D, r2)."""
    from scipy.linalg import eigvalsh

    mean_part = float(((mu1 - mu2) ** 2).sum())
    if not np.isfinite(mean_part + trace):
        raise ReproError("features are not finite; check the images and the feature network")
    K = F1.T @ F2
    K = K if K.shape[0] <= K.shape[1] else K.T
    product = finite(K @ K.T, "products of covariances")
    eigenvalues = eigvalsh(product, check_finite=False) if K.size else np.zeros(1)
    # Of positive semi-definite covariances: what is negative here is rounding.
    return max(0.0, mean_part + trace - 2 * float(np.sqrt(eigenvalues.clip(min=0)).sum()))


def covariance_factor(cov: np.ndarray, what: str = "a covariance") -> np.ndarray:
    """Returns F of shape (D, rank) with F F^T = cov, by Cholesky with complete pivoting.

    Arguments:
        cov: shape (D, D), float64.
        what: what the error calls it.

    Raises:
        ReproError: if it is not finite, not symmetric, or not positive semi-definite, within
            `ROUNDING`.
    """
    from scipy.linalg import eigvalsh
    from scipy.linalg.lapack import dpstrf

    remedy = "compute it from features"
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(cov))
    if not np.isfinite(norm):
        raise ReproError(f"{what} is not finite; {remedy}")
    if np.abs(cov - cov.T).max(initial=0.0) > ROUNDING * norm:
        raise ReproError(f"{what} is not symmetric; {remedy}")
    scale = float(cov.diagonal().max(initial=0.0))
    # Ten roundings of the largest entry: below that a pivot is noise.
    L, pivots, rank, _ = dpstrf(cov, lower=1, tol=10 * np.finfo(np.float64).eps * scale)
    if rank < len(cov):  # a full rank shows that all eigenvalues are positive
        lowest = float(eigvalsh(cov, subset_by_index=(0, 0))[0])
        if lowest < -ROUNDING * norm:
            raise ReproError(
                f"{what} is not positive semi-definite (an eigenvalue is {lowest:.3g}); {remedy}"
            )
    F = np.empty((len(cov), rank))
    F[pivots - 1] = np.tril(L)[:, :rank]
    return F


def precision_recall(real: Any, fake: Any, k: int = 3) -> tuple[float, float]:
    r"""Returns improved precision and recall of fake features.

    Each set's manifold is the union of balls around its points, with the distance to the $k$-th
    nearest other point as radius. Precision is the fraction of fake points inside the real
    manifold, recall the fraction of real points inside the fake one.

    Arguments:
        real: features, shape (N, D).
        fake: features, shape (M, D).
        k: neighbours, 1 <= k < min(N, M).

    Returns:
        precision, recall, both in [0, 1].

    Raises:
        ReproError: if a set has k points or fewer, shapes do not match, or a value is not finite.

    Source:
        Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models
        (2019), eqs. 1-3.
    """
    real, fake = arrays.features(real, "real features"), arrays.features(fake, "fake features")
    if real.shape[1] != fake.shape[1]:
        raise ReproError(
            f"features of shapes {real.shape} and {fake.shape} cannot be compared; "
            "give (N, D) and (M, D)"
        )
    if k != int(k) or not 1 <= k < min(len(real), len(fake)):
        raise ReproError(f"k = {k} neighbours need more than k points; give more samples")
    centre = real.mean(axis=0)  # distances by differences of norms lose digits far from the origin
    real, fake = real - centre, fake - centre
    radius_real, radius_fake = (
        np.concatenate([np.partition(d, k, axis=1)[:, k] for _, d in _squared_distances(x, x)])
        for x in (real, fake)
    )
    finite(np.concatenate([radius_real, radius_fake]), "squared distances of features")
    inside, covered = np.zeros(len(fake), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows, d in _squared_distances(fake, real):
        inside[rows] = (d <= radius_real).any(axis=1)
        covered |= (d <= radius_fake[rows, None]).any(axis=0)
    return float(inside.mean()), float(covered.mean())


def _squared_distances(
    a: np.ndarray, b: np.ndarray, rows: int = 2048
) -> Iterable[tuple[slice, np.ndarray]]:
    """Yields consecutive rows of a (N, D) and their squared distances (rows, M) to all of b."""
    b_norm = (b**2).sum(axis=1)
    for start in range(0, len(a), rows):
        block = slice(start, start + rows)
        d = a[block] @ b.T
        d *= -2
        d += b_norm
        d += (a[block] ** 2).sum(axis=1)[:, None]
        yield block, np.maximum(d, 0, out=d)


def inception_features(
    weights: str | Path | None = None, device: str = "cpu"
) -> Callable[[Any], np.ndarray]:
    """Returns the feature function of clean-fid: its resizing and its Inception network.

    Arguments:
        weights: the TorchScript file `inception-2015-12-05.pt`, or None for the one under
            `downloads` in the data cache. It is never downloaded.
        device: where the network runs.

    Returns:
        A function of images (B, H, W, 3), uint8, to features (B, 2048), float32. Each image is
        resized to 299 x 299 by anti-aliased bicubic interpolation without quantisation.

    Raises:
        ReproError: if the weights file is missing.

    Source:
        Parmar et al., On Aliased Resizing and Surprising Subtleties in GAN Evaluation (2022).
    """
    path = _inception_path(weights)
    import torch
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import make_resizer

    # Same as clean-fid's mode "clean", which insists on a fixed folder and on a download.
    network = InceptionV3W(str(path.parent), download=False, resize_inside=False).to(device).eval()
    resize = make_resizer("PIL", False, "bicubic", (299, 299))

    def features(images: Any) -> np.ndarray:
        resized = np.stack([resize(image) for image in _colour_bytes(images)])
        with torch.inference_mode():
            x = torch.from_numpy(resized).permute(0, 3, 1, 2).to(device)
            return network(x).cpu().numpy()

    return features


def clean_fid(
    real: Any, fake: Any, weights: str | Path | None = None, device: str = "cpu", batch: int = 64
) -> float:
    """Returns the FID of two sets of images, as clean-fid defines it (mode "clean").

    Arguments:
        real, fake: images of shape (N, H, W, 3), uint8.
        weights, device: see `inception_features`.
        batch: images per network call.

    Raises:
        ReproError: if the weights file is missing, or images are not (N, H, W, 3) uint8.
    """
    real, fake = _colour_bytes(real), _colour_bytes(fake)
    features = inception_features(weights, device)
    statistics = [
        gaussian_statistics(features(x[i : i + batch]) for i in range(0, len(x), batch))
        for x in (real, fake)
    ]
    return frechet_distance(*statistics[0], *statistics[1])


def _colour_bytes(images: Any) -> np.ndarray:
    images = to_numpy(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise ReproError(
            f"images of shape {images.shape} and type {images.dtype} cannot be scored; "
            "give (N, H, W, 3) uint8"
        )
    return images


def _inception_path(weights: str | Path | None) -> Path:
    if weights is None:
        from repro.data.cache import root

        path = root() / "downloads" / INCEPTION_FILE
    else:
        path = Path(weights)
    if not path.is_file():
        raise ReproError(
            f"{path} is missing: the Inception network of FID is not shipped; "
            f"`repro fetch --only inception-2015-12-05` gets NVIDIA's TorchScript file of it "
            "(StyleGAN2-ADA metrics)"
        )
    if path.name != INCEPTION_FILE:
        raise ReproError(f"{path} is not named as clean-fid expects; call it {INCEPTION_FILE}")
    return path
