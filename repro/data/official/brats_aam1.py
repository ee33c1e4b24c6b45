"""BRATS 2018, Brats18_CBICA_AAM_1: the MRI test volume of DiffusionMBIR."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro.data.arrays import slice_stack
from repro.data.layouts import Layout
from repro.errors import ReproError

LAYOUT = Layout(
    name="brats-aam1",
    title="BRATS 2018, Brats18_CBICA_AAM_1, 240x240 slices",
    files=("*.npy",),
    obtain="the BRATS 2018 challenge (registration); one file a slice named by its number",
    licence="registration only, not redistributable",
)


def read(folder: Path | None = None) -> np.ndarray:
    """Read the volume, divided by its maximum plus 1e-5.

    Returns:
        float32 (Z, 240, 240) in [0, 1].

    Raises:
        ReproError: slices are missing, malformed or negative.
    """
    folder = LAYOUT.locate(folder)
    volume = slice_stack(folder, side=240)
    if volume.min() < 0:
        raise ReproError(f"{folder} has negative values; magnitude images are expected")
    return volume / (volume.max() + np.float32(1e-5))
