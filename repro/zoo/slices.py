"""The MNI152 template at 3 mm, and training images for a 2-D prior over its axial slices."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repro.data import items

SIZE = 64
#: Slices of the 3 mm volume (z = 72 to 107 mm) that no prior of the zoo sees in training.
HELD_OUT = range(24, 36)

# The brain of the template lies in z < 159, y in 21..212, x in 2..193 (mm): 3 x (53, 64, 64).
_Z, _Y, _X = slice(0, 159), slice(21, 213), slice(2, 194)


def volume_3mm(t1: np.ndarray) -> Tensor:
    """Template at 3 mm isotropic: (189, 233, 197) in [0, 1] at 1 mm -> (53, 64, 64) in [0, 1].

    Crops to the brain, then averages blocks of 3 x 3 x 3 voxels. Axes stay (z, y, x).
    """
    v = torch.from_numpy(np.array(t1[_Z, _Y, _X], dtype=np.float32))
    return F.avg_pool3d(v[None], 3)[0]


def training_slices(t1: np.ndarray) -> Tensor:
    """Slices of 3 mm at every offset of 1 mm that touch no held-out slice: (N, 64, 64) in [0, 1].

    A gap of one slice (3 mm) is left on either side of the held-out block. The first and last
    slices, which hold hardly any brain, are left out too.
    """
    v = torch.from_numpy(np.array(t1[_Z, _Y, _X], dtype=np.float32))
    v = F.avg_pool3d(v[None], 3, stride=(1, 3, 3))[0]
    closed = range(3 * (HELD_OUT.start - 2) + 1, 3 * (HELD_OUT.stop + 1))
    items.only("mni152", (z + k for z in range(10, 146) if z not in closed for k in range(3)))
    return v[[z for z in range(10, 146) if z not in closed]]


def augment(x: Tensor, generator: Generator) -> Tensor:
    """Random heads from slices: x (B, 64, 64) in [0, 1] -> (B, 1, 64, 64) in [0, 1].

    Mirror image, rotation up to 12°, scale and aspect by up to 10 % and 4 %, shear up to 0.08,
    shift up to 3 pixels, a smooth warp of about 1 pixel, contrast (gamma 0.8 to 1.25), gain 0.9
    to 1.
    """
    b = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, generator=generator)

    angle = uniform(-12, 12) * math.pi / 180
    scale, aspect = uniform(0.9, 1.1), uniform(0.96, 1.04)
    limit = 2 * 3 / x.shape[-1]
    shear, shift = uniform(-0.08, 0.08), torch.stack([uniform(-limit, limit) for _ in "xy"], 1)
    mirror = (torch.rand(b, generator=generator) < 0.5).float() * 2 - 1
    cos, sin = angle.cos(), angle.sin()
    linear = torch.stack(
        [
            torch.stack([mirror * cos * scale * aspect, shear - sin * scale], 1),
            torch.stack([mirror * sin * scale, cos * scale / aspect], 1),
        ],
        1,
    )
    grid = F.affine_grid(
        torch.cat([linear, shift[:, :, None]], 2), [b, 1, *x.shape[1:]], align_corners=False
    )
    coarse = torch.randn(b, 2, 5, 5, generator=generator) * (2 / x.shape[-1])
    warp = F.interpolate(coarse, x.shape[1:], mode="bicubic", align_corners=True)
    y = F.grid_sample(
        x[:, None], grid + warp.permute(0, 2, 3, 1), mode="bilinear", align_corners=False
    )
    gamma = torch.exp(uniform(-0.223, 0.223))[:, None, None, None]
    return uniform(0.9, 1.0)[:, None, None, None] * y.clamp(0, 1) ** gamma
