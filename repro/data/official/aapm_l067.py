"""AAPM 2016 low-dose CT, patient L067: the CT test volume of DiffusionMBIR."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from repro.data.arrays import slice_stack
from repro.data.layouts import Layout
from repro.errors import ReproError

LAYOUT = Layout(
    name="aapm-l067",
    title="AAPM 2016 low-dose CT, patient L067, 256x256 slices",
    files=("*.npy",),
    obtain="the AAPM Low Dose CT Grand Challenge (registration); rebinned to fan beam, FBP, "
    "256x256, one file a slice named by its number, values in [0, 1]",
    licence="registration only, not redistributable",
)


def read(folder: Path | None = None) -> np.ndarray:
    """Read the volume: 448 slices of 256×256, values in [0, 1].

    Returns:
        float32 (Z, 256, 256).

    Raises:
        ReproError: slices are missing, malformed or outside [0, 1].
    """
    folder = LAYOUT.locate(folder)
    volume = slice_stack(folder, side=256)
    if volume.min() < 0 or volume.max() > 1:
        raise ReproError(
            f"{folder} has values from {volume.min():.3g} to {volume.max():.3g}; scale to [0, 1]"
        )
    return volume
