"""Files that the paper starts from: OpenAI's Improved-DDPM checkpoints and `.npz` image batches.

| file | network |
| --- | --- |
| cifar10_uncond_50M_500K.pt | `networks.unet("cifar10")`, 446 tensors |
| imagenet64_uncond_100M_1500K.pt | `networks.unet("imagenet64")`, 450 tensors |

Diffusion behind them: cosine schedule, T = 4000 with labels rescaled to 0..1000, ε and Σ learned,
x̂_0 clipped to [-1, 1]. The paper publishes no quantised checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from methods.ptq4dm.networks import ImprovedUNet, unet
from repro.errors import ReproError
from repro.numbers import from_bytes, to_bytes
from repro.official import files, reader

LAYOUT = reader.Layout("the released unconditional Improved-DDPM checkpoint of this size")
IMAGES = "a batch of images as an .npz whose arr_0 is uint8 (N, H, W, 3)"


def load_checkpoint(path: str | Path, network: str | ImprovedUNet) -> ImprovedUNet:
    """The network of a released checkpoint, a plain state dict of averages, in eval mode.

    network: "cifar10" or "imagenet64", or an `ImprovedUNet` (on any device, the meta device too)
        whose tensors the file must match one to one.
    Raises ReproError: see `repro.official.reader.load`.
    """
    if isinstance(network, str):
        with torch.device("meta"):
            network = unet(network)
    return reader.load(path, network, LAYOUT)


def load_images(path: str | Path) -> Tensor:
    """Images of an evaluation batch as (N, 3, H, W) float32 in [-1, 1].

    The file is an `.npz` whose `arr_0` is uint8 (N, H, W, 3), the layout of sample files and of
    reference batches. Raises ReproError on any other file.
    """
    path = Path(path)
    images = files.read_arrays(path, IMAGES, ("arr_0",))["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        wrong = f"`arr_0` is {images.dtype} of shape {images.shape}"
        raise files.refusal(path, wrong, f"give {IMAGES}")
    return from_bytes(torch.from_numpy(images).permute(0, 3, 1, 2))


def save_images(path: str | Path, x: Tensor) -> None:
    """Write samples (N, 3, H, W) in [-1, 1] as the `.npz` that the ADM evaluator reads.

    What `load_images` then reads are the levels next to the samples. Raises ReproError: see
    `repro.numbers.clipped`, and where the shape is another.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ReproError(f"samples of shape {tuple(x.shape)} are no pictures; give (N, 3, H, W)")
    images = to_bytes(x).permute(0, 2, 3, 1)
    np.savez(path, arr_0=images.contiguous().cpu().numpy())
