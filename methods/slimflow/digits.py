"""The reading that small networks without convolutions allow: flows of 8 x 8 digits.

A teacher learns a first flow on real digits and their mirror images; its pairs, by Euler's method,
train small second flows, wide and narrow, and one-step students, fresh or from the second flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.slimflow import method as slim
from methods.slimflow.training import drawn
from repro.diffusion import flow
from repro.metrics.fid import frechet_from_features
from repro.training.fit import fit
from repro.training.seeding import seeded
from repro.training.settings import Optimiser
from repro.zoo.judge import Judge
from repro.zoo.train import images, scaled

if TYPE_CHECKING:
    from repro.job import Job

TIMES = 16
FLOWS = ("teacher", "wide", "narrow")
STUDENTS = ("scratch", "from-flow")


class MLP(nn.Module):
    """v(x, 999 t) of images (B, 1, 8, 8): layers of one width on pixels and 16 features of t."""

    def __init__(self, depth: int, width: int, pixels: int = 64) -> None:
        super().__init__()
        sizes = [pixels + TIMES, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.out = nn.Linear(width, pixels)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        frequencies = 2.0 ** torch.arange(TIMES // 2, device=x.device)
        angle = times[:, None] / flow.TIME_SCALE * frequencies
        h = torch.cat([x.flatten(1), angle.sin(), angle.cos()], dim=1)
        for layer in self.layers:
            h = F.silu(layer(h))
        return self.out(h).view_as(x)


def build(job: Job, name: str) -> MLP:
    """A network by name, its weights from the seed's stream."""
    p = job.params
    depth, width = {"teacher": p.teacher, "narrow": p.narrow}.get(name, p.wide)
    return seeded(lambda: MLP(depth, width), job.rng("initialise", name)).to(job.device)


def mirrored_digits(job: Job, split: str) -> Tensor:
    """Digits of a split and their mirror images, (2 N, 1, 8, 8) in [-1, 1]."""
    x = scaled(images(getattr(job.data("digits"), split), "digits"), "digits")
    return torch.cat([x, x.flip(-1)])


def train(job: Job) -> dict[str, Tensor]:
    """All networks of a seed; a state dict whose names start with `<network>/`."""
    p, states = job.params, {}

    def fitted(name: str, network: MLP, loss, data: dict[str, Tensor], steps: int) -> MLP:
        def batch(step: int, generator: Generator):
            return drawn(data, p.batch, True, generator)

        optimiser = Optimiser(lr=p.lr, warmup=p.warmup, schedule="cosine", ema=p.ema)
        result = fit(job, network, loss, batch, optimiser, steps=steps, name=name)
        states.update({f"{name}/{k}": v for k, v in result.state_dict.items()})
        return network

    def flow_loss(beta: float):
        def loss(net: nn.Module, d, generator: Generator) -> Tensor:
            v = flow.network_velocity(net)
            return slim.annealing_reflow_loss(v, d.z, d.x, d.t, beta, d.fresh)

        return loss

    def distil_loss(net: nn.Module, d, generator: Generator) -> Tensor:
        return slim.distil_loss(flow.network_velocity(net), d.z, d.x, slim.squared)

    real = mirrored_digits(job, "train")
    # With β = 1 the noises of the pairs are not used.
    data = {"z": torch.zeros_like(real), "x": real}
    teacher = fitted("teacher", build(job, "teacher"), flow_loss(1.0), data, p.teacher_steps)
    z = torch.randn(p.pairs, 1, 8, 8, generator=job.rng("pairs"))
    v = flow.network_velocity(teacher)
    data = {"z": z, "x": flow.euler(v, z.to(job.device), p.solver_steps).cpu()}
    for name in ("narrow", "wide"):
        second = fitted(name, build(job, name), flow_loss(0.0), data, p.flow_steps)
    student = build(job, "scratch")
    fitted("scratch", student, distil_loss, data, p.student_steps)
    fitted("from-flow", second, distil_loss, data, p.student_steps)
    return states


def measure(job: Job) -> None:
    """Fréchet distances of all networks of a seed to real digits and their mirror images."""
    p, judge = job.params, Judge(job)
    state = job.model("digits-flows")
    trained = job.model_params("digits-flows")
    real = judge.features(mirrored_digits(job, "train"))
    for name in (*FLOWS, *STUDENTS):
        depth, width = {"teacher": trained.teacher, "narrow": trained.narrow}.get(
            name, trained.wide
        )
        network = MLP(depth, width)
        network.load_state_dict(
            {k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")}
        )
        v = flow.network_velocity(network.to(job.device).eval().requires_grad_(False))
        for nfe in p.nfe if name in FLOWS else [1]:
            x = flow.euler(v, judge.noise, nfe, eps=slim.EPS)
            distance = frechet_from_features(judge.features(x), real)
            job.measure("frechet_digits", distance, network=name, nfe=nfe)
        if name in FLOWS:
            bend = flow.straightness(v, judge.noise[: p.straight], p.straight_steps, eps=slim.EPS)
            job.measure("straightness", bend, network=name)
