r"""The classifier that guides: $p_\phi(y | x_t, t)$ of noisy images, trained at every time step.

As that of guided-diffusion it is the encoder half of a U-Net with a time embedding, so that it
knows how noisy its input is. Linear betas, T = 1000, as for the networks of the zoo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.diffusion.schedules import alphas_cumprod, linear_betas, q_sample, stratified_steps
from repro.nets.unet import Downsample, ResidualBlock, TimeEmbedding
from repro.numbers import argmax
from repro.training.fit import fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Optimiser
from repro.zoo.train import images, scaled

if TYPE_CHECKING:
    from repro.job import Job

NAME = "noisy-classifier"
"""What the card calls the trained classifier."""


class _Level(nn.Module):
    """Residual blocks of one resolution, and what halves it."""

    downsample: Downsample

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleList()


class NoisyClassifier(nn.Module):
    """Logits of classes of noisy images: x (B, C, H, W), times t (B,) -> (B, classes).

    resolution: height and width, divisible by patch * 2^(len(mult) - 1). patch: p x p pixels become
    channels, so that the network works at resolution / p. channels, mult: width of the first
    level, and the factor of each. blocks: residual blocks a level. groups: of every GroupNorm.
    """

    def __init__(
        self,
        *,
        resolution: int = 32,
        in_channels: int = 1,
        classes: int = 10,
        channels: int = 24,
        mult: Sequence[int] = (1, 2, 4),
        blocks: int = 1,
        patch: int = 2,
        groups: int = 8,
    ) -> None:
        super().__init__()
        self.classes, self.patch = classes, patch
        embedding = 4 * channels
        self.temb = TimeEmbedding(channels)
        self.conv_in = nn.Conv2d(in_channels * patch**2, channels, 3, padding=1)
        width, levels = channels, []
        for i, factor in enumerate(mult):
            level = _Level()
            for _ in range(blocks):
                level.block.append(
                    ResidualBlock(width, channels * factor, embedding, groups=groups)
                )
                width = channels * factor
            if i < len(mult) - 1:
                level.downsample = Downsample(width)
            levels.append(level)
        self.down = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        side = resolution // patch // 2 ** (len(mult) - 1)
        # Positions are kept: an average over the image would forget where an edge lies.
        self.head = nn.Linear(width * side**2, classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        temb = self.temb(t)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        for level in self.down:
            assert isinstance(level, _Level)
            for block in level.block:
                h = block(h, temb)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.head(F.silu(self.norm_out(h)).flatten(1))


def train(job: Job) -> dict[str, Tensor]:
    """A model of the card: cross-entropy on noised training images, times stratified in a batch."""
    p = job.params
    split = job.data(p.dataset).train
    x, labels = images(split, p.dataset), torch.from_numpy(np.array(split.labels))
    abar = alphas_cumprod(linear_betas()).float()
    network = seeded(lambda: NoisyClassifier(**p.encoder), job.rng("initialise"))

    def batch(step: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(len(x), (p.batch,), generator=generator)
        t = stratified_steps(p.batch, len(abar), generator)
        x0 = scaled(x[chosen], p.dataset)
        return q_sample(x0, t, abar, torch.randn(x0.shape, generator=generator)), t, labels[chosen]

    def loss(net: nn.Module, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        noisy, t, y = data
        return F.cross_entropy(net(noisy, t).float(), y)

    optimiser = Optimiser(
        lr=p.lr, warmup=p.warmup, schedule="cosine", ema=p.ema, weight_decay=p.weight_decay,
        betas=(0.9, 0.99),
    )  # fmt: skip
    return fit_and_save(job, network, loss, batch, optimiser, steps=p.steps, precision=p.precision)


def load(job: Job) -> NoisyClassifier:
    """The trained classifier, in eval mode, without gradients of its weights."""
    network = NoisyClassifier(**job.model_params(NAME).encoder)
    network.load_state_dict(job.model(NAME))
    return network.eval().requires_grad_(False).to(job.device)


@torch.inference_mode()
def accuracy(job: Job) -> None:
    """Share of test images whose class the classifier tells, at several times."""
    p, network = job.params, load(job)
    split = job.data(p.dataset).test
    x0, labels = images(split, p.dataset)[: p.real], torch.from_numpy(np.array(split.labels))
    abar = alphas_cumprod(linear_betas()).float()
    x0, labels = scaled(x0, p.dataset), labels[: p.real].to(job.device)
    for t in p.times:
        times = torch.full((len(x0),), t)
        noise = torch.randn(x0.shape, generator=job.rng("accuracy", t))
        noisy = q_sample(x0, times, abar, noise)
        told = torch.cat(
            [
                argmax(network(part.to(job.device), s.to(job.device)), 1, "logits")
                for part, s in zip(noisy.split(256), times.split(256), strict=True)
            ]
        )
        job.measure("accuracy", (told == labels).double().mean(), t=t)
