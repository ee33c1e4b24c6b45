r"""Training of the models that are superposed: $E \lvert \varepsilon + m(x_t, t) \rvert^2$.

Times are those of the paper, $u_0 + \sqrt{2} k \bmod 1$ over a batch. Models of the halves of a
dataset and of all of it get the same start, batches, steps and optimiser. Image models start from
an ε-network of the zoo (`networks.ScheduleMatched`) where the card names one.

Departures from the paper, for cost: AdamW with the gradient's norm clipped (not its elements), a
cosine decay, no dropout, no mirror images, no dequantisation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from methods.superdiff import method as sd
from methods.superdiff.networks import ResidualMLP, ScheduleMatched
from repro.errors import ReproError
from repro.nets.unet import UNet
from repro.training.fit import fit_and_save
from repro.training.seeding import seeded
from repro.training.settings import Batch, Optimiser
from repro.zoo import pretrained
from repro.zoo.train import images, scaled

if TYPE_CHECKING:
    from repro.job import Job

HALVES = {"a": range(5), "b": range(5, 10), "all": range(10)}

MODES = ((-1.5, 1.5), (1.5, 1.5), (-1.5, -1.5), (1.5, -1.5))
"""Means of the four Gaussians of the plane; the model "up" learns the first two, "down" the rest"""
DEVIATION = 0.4


def build(job: Job, p: Any, dim: int) -> ScheduleMatched | ResidualMLP:
    """The untrained network of a model's parameters, for samples of `dim` numbers.

    job: its card lists the zoo model whose architecture `p.start` names.
    """
    if p.start:
        network = pretrained.build(job.model_params(p.start).as_dict())
        assert isinstance(network, UNet), "the cards start from networks of noise"
        return ScheduleMatched(network)
    return ResidualMLP(dim, p.width, p.blocks)


def load(job: Job, name: str, dim: int) -> nn.Module:
    """A model that `train` or `train_planar` made, in eval mode on the job's device."""
    network = build(job, job.model_params(name), dim)
    network.load_state_dict(job.model(name))
    return network.to(job.device).eval().requires_grad_(False)


def noised(x0: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t (B,) float64 and the noise, for clean samples x0 (B, ...)."""
    t = sd.low_discrepancy(len(x0), float(torch.rand((), generator=generator)))
    noise = torch.randn(x0.shape, generator=generator)
    shape = (-1,) + (1,) * (x0.ndim - 1)
    a, s = (v.float().reshape(shape) for v in (torch.exp(sd.log_alpha(t)), sd.sigma(t)))
    return a * x0 + s * noise, t, noise


def loss(net: nn.Module, data: tuple[Tensor, ...], generator: Generator) -> Tensor:
    x, t, noise = data
    return (noise + net(x, t.cpu()).float()).square().mean()


def _fit(job: Job, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    p = job.params
    optimiser = Optimiser(lr=p.lr, warmup=p.warmup, schedule="cosine", ema=p.ema, betas=(0.9, 0.99))
    return fit_and_save(
        job, network, loss, batch, optimiser, steps=p.updates, precision=p.training_precision
    )


def _initialised(job: Job, dim: int) -> nn.Module:
    """All models of a seed start alike; those of a half differ from each other by data alone."""
    network = seeded(lambda: build(job, job.params, dim), job.rng("initialise"))
    if isinstance(network, ScheduleMatched):
        network.network.load_state_dict(job.model(job.params.start))
    return network


def train(job: Job) -> dict[str, Tensor]:
    """A model of the classes 0-4 (`a`), 5-9 (`b`) or of `all` classes of an image dataset."""
    p = job.params
    if p.half not in HALVES:
        raise ReproError(f"there is no half `{p.half}`; choose one of {', '.join(HALVES)}")
    split = job.data(p.dataset).train
    wanted = np.isin(np.array(split.labels), list(HALVES[p.half]))
    x = images(split, p.dataset)[torch.from_numpy(wanted)]

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        chosen = torch.randint(len(x), (p.batch,), generator=generator)
        return noised(scaled(x[chosen], p.dataset), generator)

    return _fit(job, _initialised(job, math.prod(x.shape[1:])), batch)


def planar(n: int, modes: list[int], generator: Generator) -> Tensor:
    """n points (n, 2) of the equal mixture of some of the four Gaussians."""
    means = torch.tensor(MODES)[modes]
    chosen = torch.randint(len(modes), (n,), generator=generator)
    return means[chosen] + DEVIATION * torch.randn(n, 2, generator=generator)


def train_planar(job: Job) -> dict[str, Tensor]:
    """A model of some of the four Gaussians of the plane."""
    p = job.params

    def batch(step: int, generator: Generator) -> tuple[Tensor, ...]:
        return noised(planar(p.batch, p.modes, generator), generator)

    return _fit(job, _initialised(job, 2), batch)
