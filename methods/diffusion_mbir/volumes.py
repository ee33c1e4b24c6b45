"""Test and training volumes, and their figures of merit in the three planes.

Axes are (z, y, x); values lie in [0, 1]. Planes: axial (x, y), coronal (z, x), sagittal (z, y).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from repro.metrics.image import psnr, ssim

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}


def ellipsoids(
    rng: np.random.Generator, slices: int, width: int, *, count: int = 14, blur: float = 0.7
) -> np.ndarray:
    """A body with random ellipsoids in it, smoothed; (slices, width, width) float32 in [0, 1].

    The objects fill a cube of side ``width``, of which the central ``slices`` are returned: as in a
    scan, the first and the last slice differ, although D_z ties them.

    Parameters
    ----------
    rng : random stream
    slices, width : Z ≤ W, voxels (isotropic)
    count : ellipsoids inside the body
    blur : deviation of the Gaussian smoothing, voxels
    """
    u = np.linspace(-1.0, 1.0, width)
    middle = (width - slices) // 2
    z, y, x = np.meshgrid(u[middle : middle + slices], u, u, indexing="ij", sparse=True)

    def inside(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        # A random rotation: the Q of a Gaussian matrix. Each row is one axis of the ellipsoid.
        axes = np.linalg.qr(rng.standard_normal((3, 3)))[0] / radii[:, None]
        offsets = axes @ centre
        forms = (a * z + b * y + c * x - d for (a, b, c), d in zip(axes, offsets, strict=True))
        return sum(form**2 for form in forms) < 1.0

    body = np.array([1.3, 0.85, 0.7]) * rng.uniform(0.9, 1.05, 3)
    upright = (z / body[0]) ** 2 + (y / body[1]) ** 2 + (x / body[2]) ** 2 < 1.0
    volume = rng.uniform(0.25, 0.45) * upright
    for _ in range(count):
        centre = rng.uniform(-0.55, 0.55, 3) * np.array([1.6, 1.0, 0.85])
        radii = rng.uniform(0.08, 0.4, 3)
        volume = np.where(inside(centre, radii) & upright, rng.uniform(0.0, 1.0), volume)
    return np.clip(gaussian_filter(volume, blur), 0.0, 1.0).astype(np.float32)


def to_stack(volume: np.ndarray | Tensor) -> Tensor:
    """(Z, H, W) to the (Z, 1, H, W) of the method."""
    return torch.as_tensor(volume, dtype=torch.float32)[:, None]


def plane_metrics(x: Tensor, truth: Tensor) -> dict[str, tuple[float, float]]:
    """Mean PSNR (dB) and SSIM over the slices of each plane, data range 1, x clipped to it.

    x and truth are (Z, 1, H, W), Z ≥ 11. Slices in which the truth is all zero are left out. Extra
    key ``volume``: PSNR of the whole volume, and the mean of the three planes' SSIM.
    """
    a, b = x[:, 0].clamp(0, 1).cpu().numpy(), truth[:, 0].cpu().numpy()
    out = {}
    for plane, axis in PLANES.items():
        p, q = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
        kept = q.any(axis=(1, 2))
        p, q = p[kept], q[kept]
        out[plane] = (
            float(np.mean(psnr(p, q, 1.0, per_image=True))),
            float(np.mean(ssim(p, q, 1.0, per_image=True))),
        )
    out["volume"] = (float(psnr(a, b, 1.0)), float(np.mean([out[k][1] for k in PLANES])))
    return out


def z_roughness(x: Tensor) -> float:
    """Mean |x[k + 1] − x[k]| over neighbouring slices, without the wrap."""
    return float((x[1:] - x[:-1]).abs().mean())
