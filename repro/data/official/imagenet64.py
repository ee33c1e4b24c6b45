"""ImageNet downsampled to 64×64 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repro.data.arrays import npz_batches
from repro.data.layouts import Layout

SIDE = 64

LAYOUT = Layout(
    name="imagenet64",
    title="ImageNet downsampled to 64x64",
    files=("*.npz",),
    obtain="image-net.org, downsampled images, npz format; or a batch with the key arr_0",
    licence="ImageNet terms: non-commercial research",
)


def batches(folder: Path | None = None) -> Iterator[np.ndarray]:
    """Yield the image batches, one npz file after another by name.

    Yields:
        uint8 (N, 64, 64, 3).

    Raises:
        ReproError: no file is there, or one is not a batch of images of that size.
    """
    return npz_batches(LAYOUT.locate(folder), SIDE)
