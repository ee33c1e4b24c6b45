"""The networks of the paper at their true sizes, by the names of its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repro.nets.ddpmpp import DDPMpp, DDPMppConfig
from repro.nets.edm import DhariwalUNet, SongUNet

SLIM: dict[str, Any] = dict(ch_mult=(1, 2, 2), num_res_blocks=2)
TINY: dict[str, Any] = dict(nf=64, ch_mult=(1, 1, 2), num_res_blocks=1)
IMAGENET: dict[str, Any] = dict(attention=(32, 16), blocks=2, channels=128, dropout=0.13)


@dataclass(frozen=True)
class Published:
    """One network of the paper: how it is built, and what it is called with.

    augmentation: weights of the map of augmentation labels, which EDM's teachers hold beside.
    """

    build: Callable[[], nn.Module]
    resolution: int
    classes: int = 0
    augmentation: int = 0

    def meta(self) -> nn.Module:
        """The network on the meta device, in eval mode: shapes without weights."""
        with torch.device("meta"):
            return self.build().eval()

    def example(self, batch: int = 1, device: str | torch.device = "meta") -> tuple[Tensor, ...]:
        """Inputs of the network: images, times, and labels where it has classes."""
        size = self.resolution
        x = torch.zeros(batch, 3, size, size, device=device)
        label = (torch.zeros(batch, self.classes, device=device),) if self.classes else ()
        return x, torch.zeros(batch, device=device), *label


def _flow(resolution: int, **options: Any) -> Published:
    config = DDPMppConfig(image_size=resolution, **options)
    return Published(lambda: DDPMpp(config), resolution)


def _imagenet(mult: tuple[int, ...]) -> Published:
    return Published(lambda: DhariwalUNet(mult=mult, **IMAGENET), 64, 1000)


NETWORKS: dict[str, Published] = {
    "rf-teacher": _flow(32),
    "cifar-27.9": _flow(32, **SLIM),
    "cifar-15.7": _flow(32, nf=96, **SLIM),
    "cifar-7.0": _flow(32, nf=64, **SLIM),
    "cifar-3.4": _flow(32, **TINY),
    "ffhq-27.9": _flow(64, **SLIM),
    "ffhq-15.7": _flow(64, nf=96, **SLIM),
    "ffhq-7.0": _flow(64, nf=64, **SLIM),
    "ffhq-3.4": _flow(64, **TINY),
    "imagenet-80.7": _imagenet((1, 2, 2, 4)),
    "imagenet-44.7": _imagenet((1, 2, 2, 2)),
    "edm-cifar": Published(SongUNet, 32, augmentation=9 * 128),
    "edm-ffhq": Published(
        lambda: SongUNet(resolution=64, mult=(1, 2, 2, 2)), 64, augmentation=9 * 128
    ),
    "edm-imagenet": Published(DhariwalUNet, 64, 1000),
}
