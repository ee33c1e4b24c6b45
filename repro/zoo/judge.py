"""How generated images are judged: by the features of a classifier of the zoo.

Every method that samples images of one dataset is judged by the same network against the same
real images, from as many samples, so that its numbers stand beside those of the others: the
Fréchet distance, and precision and recall, of penultimate features. None of them is an FID.

The classifier of digits sees images of 8 x 8 enlarged to the 32 x 32 of `Classifier`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.data import items
from repro.errors import ReproError
from repro.metrics.fid import frechet_from_features, precision_recall
from repro.nets.classifier import Classifier
from repro.numbers import clipped, finite, to_bytes
from repro.training.seeding import seeded
from repro.zoo import pretrained
from repro.zoo.train import images, scaled, trained

if TYPE_CHECKING:
    from repro.job import Job

SIDE = 32
# Precision and recall compare every sample with every real image: some suffice.
NEIGHBOURS = 2000


def enlarged(x: Tensor) -> Tensor:
    """Images (B, C, H, W) at the 32 x 32 of the classifier, each pixel repeated.

    Raises ReproError where 32 is no multiple of the side.
    """
    side = x.shape[-1]
    if x.shape[-2] != side or SIDE % side:
        raise ReproError(
            f"images of {tuple(x.shape[-2:])} pixels cannot be enlarged to {SIDE} x {SIDE} by "
            "repeating pixels; give square images with a side that divides it"
        )
    return F.interpolate(x, scale_factor=SIDE // side, mode="nearest") if side != SIDE else x


class Judge:
    """Distances of a job's samples to real images of its dataset.

    job: its card declares `dataset`, `classifier` (a zoo model that it lists), `samples` (how many
    images are generated), `real` (how many test images they are compared with) and lists the
    dataset under `data`.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.p = job, job.params

    def pictures(self, n: int, split: str, stream: str) -> Tensor:
        """n distinct real images (n, C, H, W) in [-1, 1], or all there are, drawn from a split."""
        data = images(getattr(self.job.data(self.p.dataset), split), self.p.dataset)
        chosen = torch.randperm(len(data), generator=self.job.rng(stream))[:n]
        items.only(self.p.dataset, chosen.tolist())
        return scaled(data[chosen], self.p.dataset).to(self.job.device)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of the images."""
        items.glance(self.p.dataset)
        return tuple(images(self.job.data(self.p.dataset).test, self.p.dataset).shape[1:])

    @cached_property
    def noise(self) -> Tensor:
        """Standard normal (samples, C, H, W): what deterministic samplers of a seed start from."""
        generator = self.job.rng("evaluation")
        return torch.randn(self.p.samples, *self.shape, generator=generator).to(self.job.device)

    @cached_property
    def _network(self) -> Classifier:
        return pretrained.of_type(Classifier, self.job, self.p.classifier)

    @torch.inference_mode()
    def _batched(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # Out of range is not seen on a screen either, so it must not move the features.
        found = [
            function(enlarged(clipped(part.to(self.job.device).float()))) for part in x.split(256)
        ]
        return finite(torch.cat(found), "what the classifier makes of pictures")

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (n, C, H, W) in about [-1, 1], clipped to it -> (n, F)."""
        return self._batched(self._network.features, x)

    def probabilities(self, x: Tensor) -> Tensor:
        """What the classifier takes images for: (n, C, H, W) in about [-1, 1] -> (n, classes)."""
        return self._batched(self._network, x).softmax(1)

    @cached_property
    def real_features(self) -> Tensor:
        """Features of `real` test images, the same for all arms of a seed."""
        return self.features(self.pictures(self.p.real, "test", "real"))

    def frechet(self, x: Tensor) -> float:
        """Fréchet distance of images (n, C, H, W) to the real ones; nothing is recorded."""
        return frechet_from_features(self.features(x), self.real_features)

    def measure(self, x: Tensor, **at: object) -> float:
        """Record `frechet`, `precision` and `recall` of images (n, C, H, W); returns the first."""
        fake, real = self.features(x), self.real_features
        distance = frechet_from_features(fake, real)
        self.job.measure("frechet", distance, **at)
        precision, recall = precision_recall(real[:NEIGHBOURS], fake[:NEIGHBOURS])
        self.job.measure("precision", precision, **at)
        self.job.measure("recall", recall, **at)
        return distance

    def save_grid(self, x: Tensor, name: str, count: int = 10) -> None:
        """Keep the first images as uint8 under a name, for the method's figures."""
        self.job.save(name, to_bytes(x[:count]).cpu())


def classifier(job: Job) -> dict[str, Tensor]:
    """The classifier of small images: cross-entropy on enlarged, shifted images."""
    p = job.params
    split = job.data(p.dataset).train
    x, labels = images(split, p.dataset), torch.from_numpy(np.array(split.labels))
    network = seeded(lambda: pretrained.build(p.as_dict()), job.rng("initialise"))

    def batch(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(x), (p.batch,), generator=generator)
        # A shift by half a pixel of the original: background comes in, nothing wraps.
        picture = F.pad(enlarged(scaled(x[chosen], p.dataset)), (2, 2, 2, 2), value=-1.0)
        top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
        return picture[..., top : top + SIDE, left : left + SIDE], labels[chosen]

    def loss(net: nn.Module, data: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        picture, y = data
        return F.cross_entropy(net(picture).float(), y, label_smoothing=p.smoothing)

    return trained(job, network, loss, batch)
