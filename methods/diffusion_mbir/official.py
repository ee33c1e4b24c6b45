"""Released checkpoints and test volumes of DiffusionMBIR.

A checkpoint is a ``torch.save`` dictionary ``{optimizer, model, ema, step}``:

``model``  state dict whose keys start with ``module.`` (DataParallel), e.g.
           ``module.all_modules.4.Conv_0.weight``, and ``module.sigmas`` (N,)
``ema``    ``{decay, num_updates, shadow_params}``; ``shadow_params`` lists the averages of the
           *trainable* parameters in the order of the network. The fixed Fourier frequencies
           ``module.all_modules.0.W`` are not among them and come from ``model``

The test volumes (AAPM L067, BRATS AAM_1) are folders of ``<number>.npy`` slices, which
``repro.data.official`` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data.official import aapm_l067, brats_aam1
from repro.errors import ReproError
from repro.nets.ncsnpp import NCSNpp, NCSNppConfig
from repro.official import reader

CT = NCSNppConfig()
"""AAPM 256 × 256 slices."""

MRI = NCSNppConfig(image_size=320)
"""fastMRI knee 320 × 320 slices; the same layers, attention at 40 × 40."""

VOLUMES: dict[str, Callable[[Path | None], np.ndarray]] = {
    "aapm-l067": aapm_l067.read,
    "brats-aam1": brats_aam1.read,
}

LAYOUT = reader.Layout(
    "the released checkpoint_185.pth (CT) or checkpoint_95.pth (MRI)",
    group="model",
    averages=("ema", "shadow_params"),
    own=("sigmas",),
)
"""The network is conditioned on σ itself, so that its table of noise levels may have any length."""


def load_score(
    path: Path | str,
    config: NCSNppConfig = CT,
    device: torch.device | str = "cpu",
    *,
    ema: bool = True,
) -> NCSNpp:
    """The released score network, float32, in evaluation mode, without gradients.

    ema: with its averaged weights, as the paper samples, or else with those of the last step.

    Raises
    ------
    ReproError : see :func:`repro.official.reader.load`.
    """
    # Fresh weights would be drawn from the global stream only to be overwritten.
    network = NCSNpp(config, generator=torch.Generator().manual_seed(0))
    return reader.load(path, network, LAYOUT, ema=ema).to(device).requires_grad_(False)


def load_volume(name: str, folder: Path | None = None) -> Tensor:
    """A released test volume as (Z, 1, H, W) in [0, 1]; ``name`` is a key of :data:`VOLUMES`.

    Raises
    ------
    ReproError : unknown name, or missing or malformed slices.
    """
    if name not in VOLUMES:
        raise ReproError(f"no released volume {name!r}; use {' or '.join(VOLUMES)}")
    return torch.from_numpy(VOLUMES[name](folder))[:, None]
