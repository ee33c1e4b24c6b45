"""The arms of the experiment: what is measured of its models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.slimflow import consistency, official
from methods.slimflow import method as slim
from methods.slimflow.networks import NETWORKS
from methods.slimflow.training import autocast, load_flow, teacher_network, teacher_velocity
from repro.diffusion import flow
from repro.metrics.cost import count_macs, count_parameters, interleaved
from repro.nets.unet import UNet
from repro.numbers import to_bytes
from repro.zoo.judge import Judge

if TYPE_CHECKING:
    from repro.job import Job


def latency(job: Job) -> None:
    """Time of one evaluation of published networks with random weights, over the 1-RF teacher's."""
    p, functions = job.params, {}
    generator = torch.Generator().manual_seed(0)
    for name in ("rf-teacher", *p.networks):
        network = NETWORKS[name].meta().to_empty(device=job.device).eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
        functions[name] = partial(_evaluate, network, NETWORKS[name].example(p.batch, job.device))
    rounds = interleaved(functions, p.repeats)
    for name in p.networks:
        ratio = rounds.ratio(name, "rf-teacher")
        job.measure("latency_ratio", ratio.median, network=name)


@torch.inference_mode()
def _evaluate(network: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> None:
    network(*arguments)


def _measure(
    job: Job, v: flow.Velocity, network: nn.Module, *, eps: float, in_float32_up_to: int = 0
) -> Judge:
    """Quality by evaluations, straightness and the cost of one evaluation of a flow."""
    judge, p = Judge(job), job.params
    for nfe in p.nfe:
        precise = nfe <= in_float32_up_to
        with nullcontext() if precise else autocast(job):
            x = flow.euler(v, judge.noise, nfe, eps=eps, batch=p.sample_batch)
        judge.measure(x, nfe=nfe)
        judge.save_grid(x, f"pictures-{nfe}")
    bend = flow.straightness(v, judge.noise[: p.straight], p.straight_steps, eps=eps)
    job.measure("straightness", bend)
    one = judge.noise[:1], torch.zeros(1, device=job.device)
    job.measure("parameters", count_parameters(network))
    job.measure("gmac", count_macs(network, *one).total / 1e9)
    return judge


def teacher(job: Job) -> None:
    """The teacher's ODE read as a flow: Euler in t, which is DDIM."""
    network, v = teacher_network(job, job.model("teacher")), teacher_velocity(job)
    # The first step divides the rounding of the noise by t = 0.006, and few steps keep it.
    _measure(job, v, network, eps=0.0, in_float32_up_to=4)


def mirror(job: Job) -> None:
    """How far the teacher's images of mirrored noises are from its images mirrored.

    The mean squared difference over that of unrelated images: 0 of an equivariant teacher.
    """
    p, v, z = job.params, teacher_velocity(job), Judge(job).noise
    with autocast(job):
        x, mirrored = (
            flow.euler(v, noise, p.steps, eps=0.0, batch=p.sample_batch).float()
            for noise in (z, z.flip(-1))
        )
    unrelated = slim.squared(x, x.roll(1, 0))
    job.measure("asymmetry", float(slim.squared(mirrored.flip(-1), x) / unrelated))


def floor(job: Job) -> None:
    """As many training images as the other arms have samples: real against real."""
    judge = Judge(job)
    judge.measure(judge.pictures(job.params.samples, "train", "floor"))


def _trained(job: Job) -> str:
    """The one model of the arm that is not of the zoo."""
    (name,) = (n for n in job.model_paths if not n.startswith("zoo/"))
    return name


def small_flow(job: Job) -> None:
    """A small flow of the card by Euler's method, and what an adaptive solver needs of it."""
    p, name = job.params, _trained(job)
    v = load_flow(job, name)
    network = UNet(**job.model_params(name).unet).to(job.device).eval()
    judge = _measure(job, v, network, eps=slim.EPS)
    # In float32: bfloat16 has no digits for the tolerances of an adaptive solver.
    found = flow.rk45(v, judge.noise[: p.adaptive], eps=slim.EPS, rtol=p.rtol, atol=p.rtol)
    job.measure("adaptive_evaluations", found.nfe)


def student(job: Job) -> None:
    """A one-step student of the card."""
    judge, name = Judge(job), _trained(job)
    load = consistency.load if "levels" in job.model_params(name) else load_flow
    v = load(job, name)
    with autocast(job):
        x = flow.euler(v, judge.noise, 1, eps=slim.EPS, batch=job.params.sample_batch)
    judge.measure(x, nfe=1)
    judge.save_grid(x, "pictures-1")


def released(job: Job) -> None:
    """A released checkpoint on CIFAR-10: one step, truncation to bytes, FID by clean-fid."""
    from repro.data import cache
    from repro.metrics.fid import clean_fid

    p = job.params
    path = cache.root() / "official" / "slimflow" / p.checkpoint
    network = official.load(path, p.size).to(job.device)
    v = flow.network_velocity(network)
    parts = []
    for start in job.progress(range(0, p.samples, p.batch), "samples"):
        count = min(p.batch, p.samples - start)
        z = torch.randn(count, 3, 32, 32, generator=job.rng("evaluation", start)).to(job.device)
        x = flow.euler(v, z, 1, eps=slim.EPS)
        parts.append(to_bytes(x, down=True).permute(0, 2, 3, 1).cpu())
    real = job.data("cifar10").train.images
    fake = torch.cat(parts)
    job.measure("fid", clean_fid(real, fake, device=str(job.device)))
