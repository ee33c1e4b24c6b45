"""fastMRI knee magnitude slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro.data.arrays import slice_stack
from repro.data.layouts import Layout
from repro.errors import ReproError

LAYOUT = Layout(
    name="fastmri-knee",
    title="fastMRI knee, 320x320 magnitude slices",
    files=("*.npy",),
    obtain="the fastMRI data set (registration); one file a slice named by its number",
    licence="registration only, not redistributable",
)


def read(folder: Path | None = None) -> np.ndarray:
    """Read the slices as they are stored.

    Returns:
        float32 (Z, 320, 320).

    Raises:
        ReproError: slices are missing, malformed or negative.
    """
    folder = LAYOUT.locate(folder)
    volume = slice_stack(folder, side=320)
    if volume.min() < 0:
        raise ReproError(f"{folder} has negative values; magnitude images are expected")
    return volume
