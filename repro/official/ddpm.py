"""DDPM on CIFAR-10, ``model-790000.ckpt`` of pesser/pytorch_diffusion: averaged weights alone.

A plain state dict of 328 tensors, from which the quantisation papers start.
"""

from __future__ import annotations

from pathlib import Path

import torch

from repro.nets.unet import UNet
from repro.official import reader

LAYOUT = reader.Layout("the DDPM checkpoint of this size (CIFAR-10: model-790000.ckpt)")


def load_ddpm(path: str | Path, network: UNet | None = None) -> UNet:
    """The U-Net of a plain state dict, float32, in eval mode.

    network: which to fill; None makes the CIFAR-10 one.
    Raises ReproError: see `reader.load`.
    """
    if network is None:
        with torch.device("meta"):
            network = UNet()
    return reader.load(path, network, LAYOUT)
