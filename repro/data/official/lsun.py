"""LSUN images as npz batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repro.data.arrays import npz_batches
from repro.data.layouts import Layout

LAYOUT = Layout(
    name="lsun",
    title="LSUN images as npz batches",
    files=("*.npz",),
    obtain="the LSUN project, exported to npz with the key arr_0 (uint8, N x H x W x 3)",
    licence="research use",
)


def batches(folder: Path | None = None) -> Iterator[np.ndarray]:
    """Yield the image batches, one npz file after another by name.

    Yields:
        uint8 (N, H, W, 3).

    Raises:
        ReproError: no file is there, or one is not a batch of images.
    """
    return npz_batches(LAYOUT.locate(folder))
