"""How the networks of the zoo are trained: the functions that ``zoo.yaml`` names.

ε-networks minimise the simple loss of DDPM (Ho et al. 2020, eq. 14), E ‖ε − ε_θ(x_t, t)‖² with
x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε. Times are stratified over a batch, t_i = ⌊T (i + u_i) / B⌋: each is
uniform, together they cover the noise levels evenly, which lowers the variance of the gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.diffusion.schedules import (
    alphas_cumprod,
    linear_betas,
    q_sample,
    stratified,
    stratified_steps,
)
from repro.errors import ReproError
from repro.nets.preconditioned import PreconditionedDenoiser
from repro.nets.unet import UNet
from repro.numbers import from_bytes
from repro.training.fit import fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Batch, Loss, Optimiser
from repro.zoo import pretrained, slices

if TYPE_CHECKING:
    from repro.job import Job


def images(split: Any, dataset: str) -> Tensor:
    """Images of a split as the zoo's networks see them: (N, C, H, W) uint8 or float32.

    Fashion-MNIST is padded with background from 28 to 32. See `scaled` for the range.
    """
    x = torch.from_numpy(np.array(split.images))
    if dataset == "cifar10":
        return x.permute(0, 3, 1, 2).contiguous()
    if dataset == "fashion-mnist":
        return F.pad(x, (2, 2, 2, 2))[:, None]
    if dataset == "digits":
        return x[:, None]
    raise ReproError(
        f"the zoo does not train on dataset '{dataset}'; use cifar10, fashion-mnist or digits"
    )


def scaled(x: Tensor, dataset: str) -> Tensor:
    """Stored images, uint8, to float32 in [-1, 1]; digits have 17 levels, others 256."""
    return x.float() / 8.0 - 1.0 if dataset == "digits" else from_bytes(x)


def _mirrored(x: Tensor, generator: Generator) -> Tensor:
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(-1), x)


def _initialised(job: Job) -> nn.Module:
    """The network with weights drawn for the job's seed; the global generator stays as it was."""
    return seeded(lambda: pretrained.build(job.params.as_dict()), job.rng("initialise"))


def trained(job: Job, network: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The weights of a network of the zoo, trained as its card says; the curve is kept."""
    p = job.params
    optimiser = Optimiser(
        lr=p.lr,
        warmup=p.warmup,
        schedule="cosine",
        ema=p.ema,
        weight_decay=p.weight_decay,
        betas=(0.9, 0.99),
    )
    return fit_and_save(job, network, loss, batch, optimiser, steps=p.steps, precision=p.precision)


def denoiser(job: Job) -> dict[str, Tensor]:
    """ε-network of DDPM on images; conditional where the network has classes.

    A label is dropped (class ``num_classes``) with probability ``drop_label``.
    """
    p = job.params
    split = job.data(p.dataset).train
    x, labels = images(split, p.dataset), torch.from_numpy(np.array(split.labels))
    network = _initialised(job)
    assert isinstance(network, UNet), "only its cards name this function"
    abar = alphas_cumprod(linear_betas()).float()
    classes = network.num_classes

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(x), (p.batch,), generator=generator)
        x0 = scaled(x[chosen], p.dataset)
        if p.mirror:
            x0 = _mirrored(x0, generator)
        t = stratified_steps(p.batch, len(abar), generator)
        noise = torch.randn(x0.shape, generator=generator)
        noisy = q_sample(x0, t, abar, noise)
        if classes is None:
            return noisy, t, noise
        y = labels[chosen]
        dropped = torch.rand(p.batch, generator=generator) < p.drop_label
        return noisy, t, noise, torch.where(dropped, classes, y)

    def loss(net: nn.Module, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
        noisy, t, noise, *y = data
        return (net(noisy, t, *y).float() - noise).square().mean()

    return trained(job, network, loss, batch)


def classifier(job: Job) -> dict[str, Tensor]:
    """Classifier of Fashion-MNIST: cross-entropy, smoothed labels, mirrored and shifted images."""
    p = job.params
    split = job.data(p.dataset).train
    x, labels = images(split, p.dataset), torch.from_numpy(np.array(split.labels))

    def batch(step: int, generator: Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(x), (p.batch,), generator=generator)
        image = _mirrored(scaled(x[chosen], p.dataset), generator)
        # The padding of 2 lets a roll by up to 2 pixels shift the image without wrapping it.
        dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
        return image.roll((dy, dx), (2, 3)), labels[chosen]

    def loss(net: nn.Module, data: tuple[Tensor, Tensor], generator: Generator) -> Tensor:
        image, y = data
        return F.cross_entropy(net(image).float(), y, label_smoothing=p.smoothing)

    return trained(job, _initialised(job), loss, batch)


def slice_denoiser(job: Job) -> dict[str, Tensor]:
    """Denoiser of randomly deformed MNI152 slices, ln σ uniform over the range of the card."""
    p = job.params
    stack = slices.training_slices(job.data(p.dataset).t1)
    low, high = math.log(p.sigma_min), math.log(p.sigma_max)

    def batch(step: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(len(stack), (p.batch,), generator=generator)
        x0 = slices.augment(stack[chosen], generator)
        u = stratified(p.batch, generator) / p.batch
        # Most of the image is decided at intermediate noise: half of the batch goes there.
        middle = torch.rand(p.batch, generator=generator) < 0.5
        inner = math.log(0.02) + math.log(100.0) * u
        log_sigma = torch.where(middle, inner, low + (high - low) * u)
        return x0, log_sigma.exp(), torch.randn(x0.shape, generator=generator)

    def loss(
        net: PreconditionedDenoiser, data: tuple[Tensor, Tensor, Tensor], generator: Generator
    ) -> Tensor:
        return net.loss(*data)

    return trained(job, _initialised(job), loss, batch)
